"""LoRA adapters (arXiv 2106.09685) around the model that a stage trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from ..checkpoints.adapters import check_head
from ..errors import ModelError
from .settings.common_settings import Lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def add_adapter(model: PreTrainedModel, lora: Lora, seed: int) -> PreTrainedModel:
    """Wrap the model in a new LoRA adapter, or return it unchanged if it has one.

    Args:
        model: the base.
        lora: settings of the adapter.
        seed: seed of the adapter's initial weights.

    Raises:
        ModelError: the model has no modules with these names.
    """
    from peft import LoraConfig, get_peft_model

    if hasattr(model, "peft_config"):
        return model
    torch.manual_seed(seed)
    try:
        adapted = get_peft_model(
            model,
            LoraConfig(
                r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.targets, task_type="CAUSAL_LM"
            ),
        )
    except ValueError as error:
        raise ModelError(f"lora.targets {lora.targets!r} do not fit this model: {str(error).splitlines()[0]}") from error
    check_head(adapted)
    return cast("PreTrainedModel", adapted)  # a PeftModel delegates unknown attributes to the model
