"""Flat attention: prompts of many queries in one row of tokens, without padding and without a mask, for CPUs.

Matrix products process every token once (a shared prefix once for all its documents); attention processes each prompt separately.
So the cost of a batch depends on its number of tokens only, and its scores equal those of single prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "prorank_flat"  # name of this attention in the registry of transformers
# Models with plain causal attention in every layer: `flat_attention_forward` has no sliding windows, caps or sinks.
MODEL_TYPES = ("llama", "qwen2", "qwen3", "mistral", "smollm3")


@dataclass(frozen=True)
class PackSpan:
    """Position of a pack in a row of tokens.

    Attributes:
        start: index of the pack's first token in the row.
        prefix_length: number of tokens that all prompts of the pack share.
        ends: end of each prompt (exclusive), relative to `start`. The first prompt begins after the prefix, each other one at the
            end of the previous one.
    """

    start: int
    prefix_length: int
    ends: list[int]

    @property
    def prefix(self) -> range:
        """Indices of the shared prefix in the row."""
        return range(self.start, self.start + self.prefix_length)

    @property
    def suffixes(self) -> list[range]:
        """Indices of each prompt's tokens in the row, without the prefix."""
        begins = [self.prefix_length, *self.ends[:-1]]
        return [range(self.start + begin, self.start + end) for begin, end in zip(begins, self.ends)]


@dataclass(frozen=True)
class Spans:
    """Positions of the packs of a batch, end to end in a row of T tokens.

    If every prompt is expanded with its prefix, the batch has G >= T tokens.
    """

    packs: list[PackSpan]

    @cached_property
    def lengths(self) -> list[int]:
        """Number of tokens of each prompt with its prefix; the sum is G."""
        return [pack.prefix_length + len(suffix) for pack in self.packs for suffix in pack.suffixes]

    @cached_property
    def gather(self) -> torch.Tensor:
        """Indices [G] into the row that expand the prompts, one after the other, each with its prefix."""
        return torch.tensor([i for pack in self.packs for suffix in pack.suffixes for i in (*pack.prefix, *suffix)])

    @cached_property
    def back(self) -> torch.Tensor:
        """Indices [T] into the expanded tokens for each token of the row; a shared token is taken from the pack's first prompt."""
        indices: list[int] = []
        offset = 0
        for pack in self.packs:
            indices += range(offset, offset + pack.prefix_length)
            for suffix in pack.suffixes:
                indices += range(offset + pack.prefix_length, offset + pack.prefix_length + len(suffix))
                offset += pack.prefix_length + len(suffix)
        return torch.tensor(indices)


def enable(model: PreTrainedModel) -> None:
    """Let the model's forward accept `spans`, if it runs on a CPU with plain attention. Calls without `spans` are unchanged."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = model.config
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    plain = config.model_type in MODEL_TYPES and layer_types == {"full_attention"}
    if not plain or getattr(config, "sliding_window", None) or config._attn_implementation != "sdpa":
        return
    if next(model.parameters()).device.type == "cpu":
        AttentionInterface.register(NAME, flat_attention_forward)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def is_flat(model: torch.nn.Module) -> bool:
    """Whether batches for this model should be flat."""
    model = getattr(model, "module", model)  # under DDP
    return getattr(model.config, "_attn_implementation", None) == NAME and next(model.parameters()).device.type == "cpu"


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
    # The backward of the bf16 kernel takes twice as long as that of fp32.
    dtype = torch.float32 if torch.is_grad_enabled() else value.dtype
    # [G, heads, head_dim] each
    q, k, v = (t[0].transpose(0, 1).to(dtype).index_select(0, spans.gather) for t in (query, key, value))
    prompts = zip(*(t.transpose(0, 1)[None].split(spans.lengths, 2) for t in (q, k, v)))
    with torch.autocast("cpu", enabled=False):
        outputs = [scaled_dot_product_attention(x, y, z, is_causal=True, scale=scaling, enable_gqa=True)[0] for x, y, z in prompts]
    return torch.cat(outputs, 1).transpose(0, 1).index_select(0, spans.back).to(value.dtype)[None], None
