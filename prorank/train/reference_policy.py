"""The reference policy: the policy before a stage, for the KL divergence.

With a new adapter it needs no memory, because it is the policy with the adapter switched off. Without an adapter, or with a trained
one, it is a frozen copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch

from ..engine.heads import use_fp32_head
from ..engine.modules import cast_weights, merged_copy
from .forward import Logits
from .settings.stage_settings import Settings

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class Reference:
    """The reference policy of a stage: the model when this object is created.

    Args:
        model: the policy.
        settings, bf16: see `forward.Logits`.
        forward: the forward pass of the policy, also used with the adapter switched off.
    """

    def __init__(self, model: PreTrainedModel, settings: Settings, bf16: bool, forward: Logits) -> None:
        self.frozen, self._forward = None, forward
        if not _is_fresh(model):
            self.frozen = merged_copy(model).eval().requires_grad_(False)
            if bf16:
                cast_weights(self.frozen, torch.bfloat16)
            use_fp32_head(self.frozen)
            self._forward = Logits(settings, bf16)

    @contextmanager
    def of(self, model: PreTrainedModel) -> Iterator[tuple[PreTrainedModel, Logits]]:
        """Yield (reference, its forward pass), without gradient. The adapter of the policy `model` is off in the block."""
        with torch.no_grad():
            if self.frozen is not None:
                yield self.frozen, self._forward
            else:
                with cast("PeftModel", getattr(model, "module", model)).disable_adapter():
                    yield model, self._forward


def _is_fresh(model: PreTrainedModel) -> bool:
    """Whether the model has an untrained adapter, which does not change its outputs."""
    ups = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    return hasattr(model, "peft_config") and not any(weight.any() for weight in ups)
