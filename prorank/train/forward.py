"""The forward of a training step: logits at the answers, through the engine where it knows the model.

The engine does the layers' own arithmetic on the same weights, so a loss differs from that of transformers' layers by
rounding only; `baseline_step: true` and gradient checkpointing go through transformers' layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..engine.cpu_engine import Engine, live_engine
from ..engine.heads import last_hidden, vocabulary_logits, vocabulary_of
from ..engine.packing import Batch
from .settings.stage_settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Logits:
    """Logits [N, V] fp32 at the answer positions of a batch, with gradient.

    Args:
        settings: `compile`, `gradient_checkpointing` and, where the stage has it, `baseline_step`.
        bf16: products in bf16 over fp32 weights.
    """

    def __init__(self, settings: Settings, bf16: bool) -> None:
        self.every = getattr(settings, "baseline_step", False)  # logits at every position, as transformers makes them by default
        self.own = not (settings.gradient_checkpointing or self.every)
        self.compiled, self.dtype = settings.compile is True, torch.bfloat16 if bf16 else torch.float32
        self._seen: tuple[PreTrainedModel | None, Engine | None] = (None, None)

    def __call__(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        if self.every:
            return model(**batch.inputs, use_cache=False).logits[batch.rows, batch.columns].float()
        engine = self._engine(model)
        return vocabulary_of(model, engine(batch)) if engine else vocabulary_logits(model, batch)

    def hidden(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        """Last hidden states [N, H] at the same places."""
        engine = self._engine(model)
        if engine:
            return engine(batch)
        model = getattr(model, "module", model)  # under DDP: the trainer averages gradients itself
        with torch.autocast(batch.columns.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return last_hidden(model, batch)

    def _engine(self, model: PreTrainedModel) -> Engine | None:
        if self.own and self._seen[0] is not model:
            self._seen = (model, live_engine(model, self.compiled, self.dtype))
        return self._seen[1]
