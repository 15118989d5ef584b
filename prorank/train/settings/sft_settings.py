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
    """Maximum number of tokens of a thought; longer ones are truncated."""
    balanced: bool = False
    """Train on equal numbers of "yes" and "no" pairs, repeating the rarer ones; otherwise each pair occurs once per pass."""
    answer_weight: Number = 1.0
    """Weight of the answer's tokens in the loss; other tokens have weight 1. A thought has about a hundred tokens."""
    teacher_weight: Number = 0.0
    """Share of the answer's target that is a teacher's probability, from the log-odds `score` of each pair in the data; the rest is
    the label (distillation, arXiv 1503.02531)."""
    teacher_temperature: Number = 1.0
    """Divides the teacher's log-odds before they become a probability."""
    empty_thoughts: Number = 0.0
    """Share of pairs that are trained with an empty thought, so that the model can also answer at once (`--no-think`,
    `--think-top`)."""

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        require(self.answer_weight > 0, "answer_weight", "must be above 0")
        require(self.max_think_tokens >= 1, "max_think_tokens", "must be at least 1")
        require(0 <= self.teacher_weight <= 1, "teacher_weight", "must be in 0..1")
        require(self.teacher_temperature > 0, "teacher_temperature", "must be above 0")
        require(0 <= self.empty_thoughts < 1, "empty_thoughts", "must be at least 0 and below 1")
