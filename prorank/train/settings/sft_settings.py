"""Settings of stage `sft`."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from ...utils.config_files import STRICT, Number, Text
from .common_settings import Settings, require


@dataclass(config=STRICT)
class Sft(Settings):
    """Supervised fine-tuning of a thinking model on thoughts and answers (Rerank-R0 stage A)."""

    stage: Text = "sft"
    prompt: Text | dict = "rerank-r0"
    dev_queries: int = 20
    max_think_tokens: int = 200
    """Maximum tokens of a thought; longer ones are cut."""
    balanced: bool = False
    """Train on as many "yes" pairs as "no" pairs, repeating the scarcer ones; otherwise each pair comes once per pass."""
    answer_weight: Number = 1.0
    """Weight of the answer's tokens in the loss, where every other token counts 1; a thought has a hundred of them."""

    def check(self) -> None:
        super().check()
        require(self.answer_weight > 0, "answer_weight", "must be above 0")
        require(self.max_think_tokens >= 1, "max_think_tokens", "must be at least 1")
