"""Writing by a model's own layers and cache, for GPUs and for architectures that the engine does not know.

Prompts are padded on the left once, read once, and their cache is repeated for the samples; rows that are done leave it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.utils.rnn import pad_sequence

from .modules import body
from .packing import Pack, spans_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CacheDecoder:
    """See `generate.Decoder`.

    Args:
        model: a causal LM of transformers.
        bf16: under autocast to bf16, where its weights are fp32.
    """

    def __init__(self, model: PreTrainedModel, bf16: bool) -> None:
        self.body, _ = body(model)
        self.config, self.bf16 = model.config, bf16
        self.device = next(model.parameters()).device

    def start(self, packs: Sequence[Pack], samples: int) -> torch.Tensor:
        """Last hidden states [R, H] of the prompts in these packs, R = prompts * samples, a prompt's samples side by side."""
        from transformers import DynamicCache

        spans = spans_of(packs)
        order = torch.tensor([owner for pack in packs for owner in pack.owners]).argsort()  # packs may hold them otherwise
        prompts = torch.tensor([token for pack in packs for token in pack.ids])[spans.gather].split(spans.lengths)
        rows = [prompts[i] for i in order]
        ids, self.mask = (
            pad_sequence(some, batch_first=True, padding_side="left").to(self.device)
            for some in (rows, [torch.ones_like(row) for row in rows])
        )
        self.cache = DynamicCache(config=self.config)
        hidden = self._forward(ids, (self.mask.cumsum(-1) - 1).clamp_min(0))
        self.cache.batch_repeat_interleave(samples)
        self.mask = self.mask.repeat_interleave(samples, 0)
        return hidden.repeat_interleave(samples, 0)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Hidden states [R, H] after one more token [R] of each row."""
        positions = self.mask.sum(-1, keepdim=True)
        self.mask = torch.cat((self.mask, self.mask.new_ones(len(tokens), 1)), -1)
        return self._forward(tokens[:, None], positions)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows alone."""
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            given = {"attention_mask": self.mask, "position_ids": positions, "past_key_values": self.cache, "use_cache": True}
            return self.body(input_ids=ids, **given).last_hidden_state[:, -1]
