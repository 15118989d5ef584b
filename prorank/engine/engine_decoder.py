"""Decoding with the engine: the keys and values of a prompt are stored once for all its samples.

The attention of a step is two products with one softmax: over the prompt, where the samples of a prompt are rows of one product,
and over the tokens that the row generated. The more samples, the less memory is read per row.

Shapes: P prompts of at most L tokens, R rows (samples of all prompts), G the maximum number of rows of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .cpu_engine import Engine
from .packing import Pack, collate
from .prefix_attention import attend, plan_of

NEGATIVE_INFINITY = float("-inf")


@dataclass(frozen=True)
class _KeyValues:
    """Keys and values of one layer."""

    keys: torch.Tensor
    values: torch.Tensor

    def __getitem__(self, index: torch.Tensor) -> "_KeyValues":
        return _KeyValues(self.keys[index], self.values[index])


@dataclass(frozen=True)
class _Seating:
    """Rows arranged as a table of P prompts with G seats each.

    Attributes:
        prompts, seats: P and G.
        row_of_seat: [P * G], the row in each seat; row 0 in empty seats.
        seat_of_row: [R], the seat of each row.
        mask: [P, 1, 1, L] of 0 and -inf for the tokens of each prompt.
    """

    prompts: int
    seats: int
    row_of_seat: torch.Tensor
    seat_of_row: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def of(cls, prompt_of_row: torch.Tensor, masks: torch.Tensor) -> "_Seating":
        """Arrange rows by their prompts [R]; `masks` [all prompts, L]."""
        prompts, counts = prompt_of_row.unique_consecutive(return_counts=True)
        seats = int(counts.max())
        column = torch.cat([torch.arange(int(count)) for count in counts])
        seat_of_row = torch.arange(len(prompts)).repeat_interleave(counts) * seats + column
        row_of_seat = torch.zeros(len(prompts) * seats, dtype=torch.long)
        row_of_seat[seat_of_row] = torch.arange(len(prompt_of_row))
        return cls(len(prompts), seats, row_of_seat, seat_of_row, masks[prompts][:, None, None])


class EngineDecoder:
    """An `IncrementalDecoder` that runs the engine, see `generation`.

    Args:
        engine: the engine, whose weights must not change during decoding.
        max_tokens: maximum number of new tokens per row.
    """

    def __init__(self, engine: Engine, max_tokens: int) -> None:
        self.engine, self.max_tokens = engine, max_tokens
        self.num_kv_groups = engine.num_heads // engine.num_kv_heads

    def start(self, packs: Sequence[Pack], samples: int) -> torch.Tensor:
        """Return the last hidden states [R, H] of the prompts, R = prompts * samples, with the samples of a prompt in sequence."""
        engine = self.engine
        batch = collate(packs, 0, flat=True)
        spans = batch.inputs["spans"]
        plan = plan_of(spans, engine.num_heads, engine.num_kv_heads)
        order = torch.tensor(batch.owners).argsort()  # packs may hold the prompts in another order
        lengths = torch.tensor(spans.lengths)
        longest, prompts = int(lengths.max()), len(lengths)
        places = torch.zeros(prompts, longest, dtype=torch.long)  # [P, L]: index in the batch of each token of each prompt
        for prompt, indices in enumerate(spans.gather.split(spans.lengths)):
            places[prompt, : len(indices)] = indices
        lengths, places = lengths[order], places[order]
        self.prefix: list[_KeyValues] = []  # of each layer, [P * num_kv_heads, L, head_dim]
        self.own: list[_KeyValues] = []  # of each layer, [R, num_kv_heads, max_tokens, head_dim]
        self.own_length = 0

        def attention_fn(number: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            self.prefix.append(_KeyValues(*(t.to(engine.dtype)[places].transpose(1, 2).flatten(0, 1) for t in (k, v))))
            shape = prompts * samples, engine.num_kv_heads, self.max_tokens, engine.head_dim
            self.own.append(_KeyValues(*(k.new_empty(shape, dtype=engine.dtype) for _ in range(2))))
            return attend(q, k, v, plan, engine.kernels.softmax, engine.dtype)

        hidden = engine.run(batch.inputs["input_ids"][0], batch.inputs["position_ids"][0], batch.columns, attention_fn)
        self.prompt_of_row = torch.arange(prompts).repeat_interleave(samples)  # [R]
        self.masks = torch.where(torch.arange(longest) < lengths[:, None], 0.0, NEGATIVE_INFINITY)  # [P, L]
        self.positions = lengths[self.prompt_of_row]
        self.seating = _Seating.of(self.prompt_of_row, self.masks)
        return hidden[order][self.prompt_of_row]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append a token [R] to each row and return the hidden states [R, H]."""
        hidden = self.engine.run(tokens, self.positions, torch.arange(len(tokens)), self._attend)
        self.positions, self.own_length = self.positions + 1, self.own_length + 1
        return hidden

    def _attend(self, number: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Compute the attention of one token in each row, see `cpu_engine.AttentionFn`."""
        rows, num_kv_heads, head_dim, dtype = len(q), self.engine.num_kv_heads, self.engine.head_dim, self.engine.dtype
        q = q.to(dtype).reshape(rows, num_kv_heads, self.num_kv_groups, head_dim)
        own = self._append(number, k, v)
        own_scores = torch.bmm(q.flatten(0, 1), own.keys.transpose(1, 2)).view(rows, num_kv_heads, self.num_kv_groups, -1)
        prefix_scores = self._prefix_scores(q, self.prefix[number].keys)  # [R, num_kv_heads, num_kv_groups, L]
        length = prefix_scores.shape[-1]
        weights = torch.cat((prefix_scores, own_scores), -1).float().softmax(-1).to(dtype)
        own_context = torch.bmm(weights[..., length:].reshape(rows * num_kv_heads, self.num_kv_groups, -1), own.values)
        prefix_context = self._prefix_context(weights[..., :length], self.prefix[number].values)
        return (own_context.view(q.shape) + prefix_context).reshape(rows, -1)

    def _append(self, number: int, k: torch.Tensor, v: torch.Tensor) -> _KeyValues:
        """Store new keys and values [R, num_kv_heads, head_dim]. Returns all of the rows, [R * num_kv_heads, tokens, head_dim]."""
        own, end = self.own[number], self.own_length
        own.keys[:, :, end], own.values[:, :, end] = k, v
        return _KeyValues(*(t[:, :, : end + 1].flatten(0, 1) for t in (own.keys, own.values)))

    def _prefix_scores(self, q: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Return masked scores [R, num_kv_heads, num_kv_groups, L] of q (the same shape, head_dim for L) and the prompts' keys."""
        scores = torch.bmm(self._seat(q), keys.transpose(1, 2))  # [P * num_kv_heads, G * num_kv_groups, L]
        return self._unseat(scores.view(self.seating.prompts, -1, *scores.shape[1:]) + self.seating.mask)

    def _prefix_context(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Multiply weights [R, num_kv_heads, num_kv_groups, L] with the prompts' values. Returns the same with head_dim for L."""
        context = torch.bmm(self._seat(weights), values)  # [P * num_kv_heads, G * num_kv_groups, head_dim]
        return self._unseat(context.view(self.seating.prompts, -1, *context.shape[1:]))

    def _seat(self, by_row: torch.Tensor) -> torch.Tensor:
        """Rearrange [R, num_kv_heads, num_kv_groups, n] to [P * num_kv_heads, G * num_kv_groups, n]."""
        table, (heads, groups, size) = self.seating, by_row.shape[1:]
        seated = by_row[table.row_of_seat].view(table.prompts, table.seats, heads, groups, size).transpose(1, 2)
        return seated.reshape(table.prompts * heads, table.seats * groups, size)

    def _unseat(self, seated: torch.Tensor) -> torch.Tensor:
        """Rearrange [P, num_kv_heads, G * num_kv_groups, n] to [R, num_kv_heads, num_kv_groups, n]."""
        by_seat = seated.unflatten(2, (self.seating.seats, self.num_kv_groups)).transpose(1, 2).flatten(0, 1)
        return by_seat[self.seating.seat_of_row]

    def keep(self, rows: torch.Tensor) -> None:
        """Continue with these rows only."""
        prompts = self.prompt_of_row.unique_consecutive()
        self.prompt_of_row, self.positions = self.prompt_of_row[rows], self.positions[rows]
        remaining = torch.isin(prompts, self.prompt_of_row)
        self.own = [layer[rows] for layer in self.own]
        if not remaining.all():
            num_kv_heads = self.engine.num_kv_heads
            index = (remaining.nonzero()[:, 0, None] * num_kv_heads + torch.arange(num_kv_heads)).flatten()
            self.prefix = [layer[index] for layer in self.prefix]
        self.seating = _Seating.of(self.prompt_of_row, self.masks)
