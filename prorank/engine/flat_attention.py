"""Flat attention: prompts of many queries in one row of tokens, without padding and without a mask, for CPUs.

Matrix products see every token once (a shared prefix once for all its documents), attention sees each prompt alone;
so a batch costs what its tokens cost, however their lengths differ, and its scores are those of single prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "prorank_flat"
# Plain causal attention in every layer and nothing else: no sliding windows, caps or sinks, which `attend` does not know.
KINDS = ("llama", "qwen2", "qwen3", "mistral", "smollm3")


@dataclass(frozen=True)
class Spans:
    """How prompts lie in a row of T tokens. `packs`: (first row, tokens of the prefix, where each prompt ends within the pack)."""

    packs: list[tuple[int, int, list[int]]]

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each prompt, its shared prefix included, G in all."""
        return [start + end - begin for _, start, ends in self.packs for begin, end in zip([start, *ends], ends)]

    @cached_property
    def gather(self) -> torch.Tensor:
        """[G]: where in the row these tokens stand, prompt after prompt."""
        rows = []
        for row, start, ends in self.packs:
            for begin, end in zip([start, *ends], ends):
                rows += [*range(row, row + start), *range(row + begin, row + end)]
        return torch.tensor(rows)

    @cached_property
    def back(self) -> torch.Tensor:
        """[T]: where in `gather` each token of the row stands, a shared one at its first."""
        places: list[int] = []
        made = 0
        for _, start, ends in self.packs:
            places += range(made, made + start)
            for begin, end in zip([start, *ends], ends):
                places += range(made + start, made + start + end - begin)
                made += start + end - begin
        return torch.tensor(places)


def enable(model: PreTrainedModel) -> None:
    """Let the model take `spans` in its forward if it runs on a CPU and its attention is plain; other calls stay as they are."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = model.config
    plain = config.model_type in KINDS and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    if not plain or getattr(config, "sliding_window", None) or config._attn_implementation != "sdpa":
        return
    if next(model.parameters()).device.type == "cpu":
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def is_flat(model: torch.nn.Module) -> bool:
    """Whether batches for this model should be flat."""
    model = getattr(model, "module", model)  # under DDP
    return getattr(model.config, "_attn_implementation", None) == NAME and next(model.parameters()).device.type == "cpu"


def attend(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None,
    spans: Spans | None = None, scaling: float | None = None, dropout: float = 0.0, **more: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """An attention function of transformers: query [1, heads, T, d], key and value [1, fewer heads, T, d] to [1, T, heads, d]."""
    if spans is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more)
    # The bf16 kernel's backward takes twice as long as that of fp32.
    dtype = torch.float32 if torch.is_grad_enabled() else value.dtype
    q, k, v = (t[0].transpose(0, 1).to(dtype).index_select(0, spans.gather) for t in (query, key, value))  # [G, heads, d] each
    parts = zip(*(t.transpose(0, 1)[None].split(spans.lengths, 2) for t in (q, k, v)))
    with torch.autocast("cpu", enabled=False):
        seen = [scaled_dot_product_attention(x, y, z, is_causal=True, scale=scaling, enable_gqa=True)[0] for x, y, z in parts]
    return torch.cat(seen, 1).transpose(0, 1).index_select(0, spans.back).to(value.dtype)[None], None
