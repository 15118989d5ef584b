"""Decoding with a model's own layers and cache, for GPUs and for architectures that the engine does not support.

Prompts are padded on the left and processed once; their cache is repeated for the samples.
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


class TransformersDecoder:
    """An `IncrementalDecoder` that runs the layers of transformers, see `generation`.

    Args:
        model: a causal LM of transformers.
        bf16: run fp32 weights under autocast to bf16.
    """

    def __init__(self, model: PreTrainedModel, bf16: bool) -> None:
        self.body, _ = body(model)
        self.config, self.bf16 = model.config, bf16
        self.device = next(model.parameters()).device

    def start(self, packs: Sequence[Pack], samples: int) -> torch.Tensor:
        """Return the last hidden states [R, H] of the prompts, R = prompts * samples, with the samples of a prompt in sequence."""
        from transformers import DynamicCache

        spans = spans_of(packs)
        order = torch.tensor([owner for pack in packs for owner in pack.owners]).argsort()  # the packs' order may differ
        prompts = torch.tensor([token for pack in packs for token in pack.ids])[spans.gather].split(spans.lengths)
        rows = [prompts[i] for i in order]
        ids, self.mask = (
            pad_sequence(tensors, batch_first=True, padding_side="left").to(self.device)
            for tensors in (rows, [torch.ones_like(row) for row in rows])
        )
        self.cache = DynamicCache(config=self.config)
        hidden = self._forward(ids, (self.mask.cumsum(-1) - 1).clamp_min(0))
        self.cache.batch_repeat_interleave(samples)
        self.mask = self.mask.repeat_interleave(samples, 0)
        return hidden.repeat_interleave(samples, 0)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append a token [R] to each row and return the hidden states [R, H]."""
        positions = self.mask.sum(-1, keepdim=True)
        self.mask = torch.cat((self.mask, self.mask.new_ones(len(tokens), 1)), -1)
        return self._forward(tokens[:, None], positions)

    def keep(self, rows: torch.Tensor) -> None:
        """Continue with these rows only."""
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return the hidden states [R, H] of the last column of ids [R, L]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            out = self.body(
                input_ids=ids, position_ids=positions, attention_mask=self.mask, past_key_values=self.cache, use_cache=True
            )
            return out.last_hidden_state[:, -1]
