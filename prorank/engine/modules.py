"""Operations on the modules of a causal language model: body and head, merging adapters, casting weights."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from ..errors import ModelError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

AnyModule = TypeVar("AnyModule", bound=torch.nn.Module)


def head_dim_of(config: Any) -> int:
    """Return the size of an attention head from the configuration of a model."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def base_of(model: torch.nn.Module) -> PreTrainedModel:
    """Return the transformers model inside a peft model, including adapter modules; any other model unchanged."""
    inner = cast("PeftModel", model).get_base_model() if hasattr(model, "peft_config") else model
    return cast("PreTrainedModel", inner)


def merge(model: PeftModel) -> PreTrainedModel:
    """Merge the adapter into the weights of its base, in place, and return the base. Errors of peft are not converted."""
    _untie(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of tied embeddings, which were untied above
        return model.merge_and_unload()


def _untie(model: PeftModel) -> None:
    """Untie the output matrix from the embeddings if an adapter changes one of them, since merging would change both."""
    inner = base_of(model)
    modules = [inner.get_input_embeddings(), inner.get_output_embeddings()]
    wrapped = [getattr(module, "base_layer", getattr(module, "original_module", module)) for module in modules]
    adapted = any(module is not base for module, base in zip(modules, wrapped))
    if modules[1] is None or not adapted or wrapped[0].weight is not wrapped[1].weight:
        return
    wrapped[1].weight = torch.nn.Parameter(wrapped[1].weight.detach().clone(), requires_grad=False)
    inner.config.tie_word_embeddings = False


def cast_weights(model: AnyModule, dtype: torch.dtype) -> AnyModule:
    """Round the parameters to `dtype`, in place.

    `model.to(dtype)` would also round the rotary frequencies. In bf16 these are wrong by up to 1 in 500, so positions beyond a few
    dozen would rotate by a wrong angle.
    """
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return model


def merged_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of the model with its adapter, if it has one, merged into its weights."""
    model = copy.deepcopy(model)
    return merge(cast("PeftModel", model)) if hasattr(model, "peft_config") else model


def room_for_prompts(model: torch.nn.Module, new_tokens: int = 0) -> int | None:
    """Return the number of positions that a model has for a prompt.

    Args:
        model: a causal LM.
        new_tokens: number of tokens that will be generated after the prompt.

    Returns:
        Number of tokens, or None if the configuration has no limit.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    return positions and positions - new_tokens


def body(model: torch.nn.Module) -> tuple[torch.nn.Module, torch.nn.Linear]:
    """Split a causal LM, with or without adapters, into body and head.

    `base_model_prefix` is not used, because for Llama4ForCausalLM it names the whole language model.

    Returns:
        (transformer without head, output head).

    Raises:
        ModelError: the architecture has an unknown attribute for its transformer.
    """
    inner = base_of(model)
    head = inner.get_output_embeddings()
    for name in ("model", "transformer", "gpt_neox", "backbone", "language_model"):
        part = getattr(inner, name, None)
        if isinstance(part, torch.nn.Module) and getattr(part, "lm_head", None) is None:
            return part, head
    raise ModelError(f"{type(inner).__name__}: cannot find its body and head; this architecture is not supported yet")
