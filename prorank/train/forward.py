"""The forward pass of a training step: logits at the answers, through the engine where it supports the model.

The engine does the layers' arithmetic on the same weights, so a loss differs from that of transformers' layers by rounding only.
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
    """Logits at the answers of a batch, with gradient.

    Args:
        settings: its `compile`, `gradient_checkpointing` and, if the stage has it, `baseline_step` are read.
        bf16: compute products in bf16; the weights stay fp32.

    Attributes:
        plain: compute logits at every position with transformers' forward and select the answers afterwards.
    """

    def __init__(self, settings: Settings, bf16: bool) -> None:
        self.plain = getattr(settings, "baseline_step", False)
        self._use_engine = not (settings.gradient_checkpointing or self.plain)
        self._compiled, self._dtype = settings.compile is True, torch.bfloat16 if bf16 else torch.float32
        self._engine_model: PreTrainedModel | None = None  # the model of `_engine`
        self._engine: Engine | None = None

    def __call__(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        """Logits [N, V] fp32."""
        if self.plain:
            return model(**batch.inputs, use_cache=False).logits[batch.rows, batch.columns].float()
        engine = self._engine_of(model)
        return logits_of_hidden(model, engine(batch)) if engine else vocabulary_logits(model, batch)

    def hidden(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        """Last hidden states [N, H] at the answers."""
        engine = self._engine_of(model)
        if engine:
            return engine(batch)
        model = getattr(model, "module", model)  # under DDP: the trainer averages gradients itself
        with torch.autocast(batch.columns.device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            return last_hidden(model, batch)

    def _engine_of(self, model: PreTrainedModel) -> Engine | None:
        """The engine of a model, kept until another model comes; None where transformers' layers are used."""
        if self._use_engine and self._engine_model is not model:
            self._engine_model, self._engine = model, training_engine(model, self._compiled, self._dtype)
        return self._engine
