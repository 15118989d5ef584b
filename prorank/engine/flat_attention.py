"""Flat attention for the layers of transformers: prompts of many queries in one row of tokens, without padding and without a mask.

Matrix products process every token once (a shared prefix once for all its documents); attention processes each prompt separately.
So the cost of a batch depends on its number of tokens only, and its scores equal those of single prompts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from .sequence_attention import attend_sequences
from .sequences import Spans

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "prorank_flat"  # name of this attention in the registry of transformers
# Models with plain causal attention in every layer: `flat_attention_forward` has no sliding windows, caps or sinks.
MODEL_TYPES = ("llama", "qwen2", "qwen3", "mistral", "smollm3")
DEVICES = ("cpu", "cuda")


def enable(model: PreTrainedModel) -> None:
    """Let the model's forward accept `spans`, if it has plain attention and runs on a CPU or an NVIDIA or AMD GPU.

    Calls without `spans` are unchanged.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = model.config
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    plain = config.model_type in MODEL_TYPES and layer_types == {"full_attention"}
    if not plain or getattr(config, "sliding_window", None) or config._attn_implementation != "sdpa":
        return
    if next(model.parameters()).device.type in DEVICES:
        AttentionInterface.register(NAME, flat_attention_forward)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def is_flat(model: torch.nn.Module) -> bool:
    """Whether batches for this model should be flat."""
    model = getattr(model, "module", model)  # under DDP
    return getattr(model.config, "_attn_implementation", None) == NAME and next(model.parameters()).device.type in DEVICES


def flat_attention_forward(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None,
    spans: Spans | None = None, scaling: float | None = None, dropout: float = 0.0, **options: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """An attention function of transformers.

    Args:
        module: the attention layer.
        query: [1, num_heads, T, head_dim].
        key, value: [1, num_kv_heads, T, head_dim].
        attention_mask, dropout, options: for calls without `spans`, which go to transformers' SDPA attention.
        spans: positions of the prompts in the row.
        scaling: factor of the scores.

    Returns:
        ([1, T, num_heads, head_dim], None).
    """
    if spans is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options)
    if spans.sequences is not None:
        q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
        # Under autocast, rotary positions make fp32 queries and keys, while values have the dtype of the products.
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        return attend_sequences(q, k, v, spans.sequences, scale, value.dtype)[None], None
    # The backward of the bf16 kernel takes twice as long as that of fp32.
    dtype = torch.float32 if torch.is_grad_enabled() else value.dtype
    # [G, heads, head_dim] each
    q, k, v = (t[0].transpose(0, 1).to(dtype).index_select(0, spans.gather) for t in (query, key, value))
    prompts = zip(*(t.transpose(0, 1)[None].split(spans.lengths, 2) for t in (q, k, v)))
    with torch.autocast("cpu", enabled=False):
        outputs = [scaled_dot_product_attention(x, y, z, is_causal=True, scale=scaling, enable_gqa=True)[0] for x, y, z in prompts]
    return torch.cat(outputs, 1).transpose(0, 1).index_select(0, spans.back).to(value.dtype)[None], None
