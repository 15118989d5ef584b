"""Operations on the modules of a causal language model: body and head, merging adapters, casting weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from ..errors import ModelError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

AnyModule = TypeVar("AnyModule", bound=torch.nn.Module)


def base_of(model: torch.nn.Module) -> PreTrainedModel:
    """The model of transformers in peft's, with what peft put into it; any other model as it is."""
    inner = cast("PeftModel", model).get_base_model() if hasattr(model, "peft_config") else model
    return cast("PreTrainedModel", inner)


def merge(model: PeftModel) -> PreTrainedModel:
    """The base of peft's model with the adapter in its weights, in place; peft's errors are raised as they are."""
    _untie(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tied embeddings, which are not tied any more
        return model.merge_and_unload()


def _untie(model: PeftModel) -> None:
    """Give the output matrix weights of its own where an adapter changes it, or the embeddings that it is tied to: peft adds what
    was trained to one of the two, and merged into shared weights it would count in the other as well."""
    inner = base_of(model)
    pair = [inner.get_input_embeddings(), inner.get_output_embeddings()]
    plain = [getattr(module, "base_layer", getattr(module, "original_module", module)) for module in pair]
    if pair[1] is None or all(module is own for module, own in zip(pair, plain)) or plain[0].weight is not plain[1].weight:
        return
    plain[1].weight = torch.nn.Parameter(plain[1].weight.detach().clone(), requires_grad=False)
    inner.config.tie_word_embeddings = False


def cast_weights(model: AnyModule, dtype: torch.dtype) -> AnyModule:
    """Round the weights, in place, and nothing else: `model.to(dtype)` would also round the rotary frequencies, which in bf16
    are wrong by up to 1 in 500, so that positions beyond a few dozen turn by a wrong angle."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return model


def merged_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model with its adapter, if it has one, merged into its weights."""
    model = copy.deepcopy(model)
    return merge(cast("PeftModel", model)) if hasattr(model, "peft_config") else model


def room_for_prompts(model: torch.nn.Module, written: int = 0) -> int | None:
    """Positions that a model has for prompts with so many tokens to be written behind them; None where it names no bound."""
    positions = getattr(model.config, "max_position_embeddings", None)
    return positions and positions - written


def body(model: torch.nn.Module) -> tuple[torch.nn.Module, torch.nn.Linear]:
    """(transformer without head, output head) of a causal LM, adapters looked through.

    `base_model_prefix` cannot be trusted: for Llama4ForCausalLM it names the whole language model.
    """
    inner = base_of(model)
    head = inner.get_output_embeddings()
    for name in ("model", "transformer", "gpt_neox", "backbone", "language_model"):
        part = getattr(inner, name, None)
        if isinstance(part, torch.nn.Module) and getattr(part, "lm_head", None) is None:
            return part, head
    raise ModelError(f"{type(inner).__name__}: cannot tell its body from its head; this architecture is not supported yet")


def freeze_head_fp32(model: torch.nn.Module) -> Callable[[], None]:
    """Make the output head compute in fp32 whatever autocast says; returns the undo.

    bf16 logits near 16 are 0.125 apart, which ties scores and starves the loss of gradient.
    """
    head: Any = body(model)[1]  # whose forward is replaced
    plain = head.forward

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.nn.functional.linear(hidden.float(), head.weight.float(), getattr(head, "bias", None))

    head.forward = forward
    return lambda: setattr(head, "forward", plain)
