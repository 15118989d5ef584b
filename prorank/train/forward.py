"""The forward pass of a training step: logits at the answers, computed by the engine if it supports the model.

The engine computes the same layers with the same weights, so losses differ from those of transformers' layers by rounding only.
`baseline_step: true` and gradient checkpointing use transformers' layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..engine.cpu_engine import Engine, training_engine
from ..engine.heads import last_hidden, logits_of_hidden, vocabulary_logits
from ..engine.packing import Batch
from .settings.stage_settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Logits:
    """Computes logits at the answers of a batch, with gradient.

    Args:
        settings: settings of the run: `compile`, `gradient_checkpointing` and, if the stage has it, `baseline_step`.
        bf16: compute products in bf16; the weights stay fp32.

    Attributes:
        plain: whether logits are computed at all positions by transformers' forward, and those of the answers selected afterwards.
    """

    def __init__(self, settings: Settings, bf16: bool) -> None:
        self.plain = getattr(settings, "baseline_step", False)
        self._use_engine = not (settings.gradient_checkpointing or self.plain)
        self._compiled, self._dtype = settings.compile is True, torch.bfloat16 if bf16 else torch.float32
        self._engine_model: PreTrainedModel | None = None  # the model of `_engine`
        self._engine: Engine | None = None

    def __call__(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        """Return logits [N, V] fp32 at the answers."""
        if self.plain:
            return model(**batch.inputs, use_cache=False).logits[batch.rows, batch.columns].float()
        engine = self._engine_of(model)
        return logits_of_hidden(model, engine(batch)) if engine else vocabulary_logits(model, batch)

    def hidden(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        """Return the last hidden states [N, H] at the answers."""
        engine = self._engine_of(model)
        if engine:
            return engine(batch)
        model = getattr(model, "module", model)  # without the DDP wrapper, because the trainer averages gradients itself
        with torch.autocast(batch.columns.device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            return last_hidden(model, batch)

    def _engine_of(self, model: PreTrainedModel) -> Engine | None:
        """Return the engine for a model, or None if transformers' layers are used. The engine of the last model is cached."""
        if self._use_engine and self._engine_model is not model:
            self._engine_model, self._engine = model, training_engine(model, self._compiled, self._dtype)
        return self._engine
