"""Attention of new tokens to stored keys and values: the matrix products of the layers are computed for the new tokens only.

The new tokens of D texts, n of each, are the rows of one flat batch. In each layer, a group of texts of similar length is copied
into a buffer that fits into a processor's cache, with the keys of the common beginning before and those of the new tokens behind:

    [ beginning | text | padding | new tokens ]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from .cpu_engine import Engine
from .key_values import KeyValues
from .prefix_attention import MAX_SCORES
from .shapes import padded_length, powers_of_two

MAX_GROUP = 16  # texts of a group
NEGATIVE_INFINITY = float("-inf")


@dataclass(frozen=True)
class _Group:
    """Texts that are padded to the same length.

    Attributes:
        first: index of the first text.
        texts: their keys and values.
        keys: number of columns of the buffer.
        mask: [texts, 1, padded n, keys] of 0 and -inf.
    """

    first: int
    texts: Sequence[KeyValues]
    keys: int
    mask: torch.Tensor


class CachedAttention:
    """The attention of new tokens after stored texts; calling it is a `cpu_engine.AttentionFn`.

    Args:
        engine: the engine.
        head: keys and values of the tokens before every text.
        texts: keys and values of each text, longest first.
        new: number n of new tokens after each text.
    """

    def __init__(self, engine: Engine, head: KeyValues, texts: Sequence[KeyValues], new: int) -> None:
        self.engine, self.head, self.new = engine, head, new
        self.padded = padded_length(new)
        self.groups = list(self._groups(texts))
        largest = max(len(group.texts) * group.keys for group in self.groups)
        # Columns of padding are masked, but have to be finite.
        self.buffer = torch.zeros(2 * largest * engine.num_kv_heads * engine.head_dim, dtype=engine.dtype)

    def _groups(self, texts: Sequence[KeyValues]) -> Iterator[_Group]:
        """Yield groups of neighbouring texts whose scores fit into a processor's cache; their sizes are powers of two."""
        first = 0
        while first < len(texts):
            keys = padded_length(len(self.head) + len(texts[first]) + self.padded)
            limit = max(1, min(MAX_GROUP, MAX_SCORES // (self.padded * keys), len(texts) - first))
            count = powers_of_two(limit)[0]
            group = texts[first : first + count]
            yield _Group(first, group, keys, self._mask(group, keys))
            first += count

    def _mask(self, texts: Sequence[KeyValues], keys: int) -> torch.Tensor:
        """Mask [texts, 1, padded n, keys]: new tokens attend to beginning and text, preceding new tokens and themselves."""
        ends = torch.tensor([len(self.head) + len(text) for text in texts])
        columns, rows = torch.arange(keys), torch.arange(self.padded)
        own = columns - (keys - self.padded)  # number of the new token in each column
        allowed = (columns < ends[:, None])[:, None] | (own >= 0) & (own <= rows[:, None])
        return torch.where(allowed, 0.0, NEGATIVE_INFINITY)[:, None]

    def __call__(self, number: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return the attention [D * n, num_heads * head_dim] of layer `number`."""
        contexts = []
        for group in self.groups:
            rows = slice(group.first * self.new, (group.first + len(group.texts)) * self.new)
            keys, values = self._fill(number, group, k[rows], v[rows])
            contexts.append(self._attend(group, q[rows], keys, values))
        return torch.cat(contexts)

    def _fill(self, number: int, group: _Group, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy a group's keys and values into the buffer. Returns both, [texts * num_kv_heads, keys, head_dim]."""
        count, start = len(group.texts), len(self.head)
        shape = 2, count, self.engine.num_kv_heads, group.keys, self.engine.head_dim
        buffer = self.buffer[: 2 * count * shape[2] * shape[3] * shape[4]].view(shape)
        self.head.copy_layer(number, buffer[:, 0, :, :start])
        buffer[:, 1:, :, :start] = buffer[:, :1, :, :start]
        for place, text in enumerate(group.texts):
            text.copy_layer(number, buffer[:, place, :, start : start + len(text)])
        own = slice(group.keys - self.padded, group.keys - self.padded + self.new)
        for part, rows in zip(buffer, (k, v)):
            part[:, :, own] = rows.unflatten(0, (count, self.new)).transpose(1, 2)
        return buffer[0].flatten(0, 1), buffer[1].flatten(0, 1)

    def _attend(self, group: _Group, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return the attention [texts * n, num_heads * head_dim] of a group's queries [texts * n, num_heads, head_dim]."""
        engine, count = self.engine, len(group.texts)
        queries = q.new_zeros(count, engine.num_heads, self.padded, engine.head_dim, dtype=engine.dtype)
        queries[:, :, : self.new] = q.unflatten(0, (count, self.new)).transpose(1, 2)
        by_key_head = queries.view(count * engine.num_kv_heads, -1, engine.head_dim)  # heads that share keys are rows of a product
        scores = torch.bmm(by_key_head, keys.transpose(1, 2)).view(count, engine.num_heads, self.padded, group.keys)
        weights = engine.kernels.softmax(scores, group.mask, engine.dtype)
        context = torch.bmm(weights.view(*by_key_head.shape[:2], group.keys), values)
        return context.view(queries.shape)[:, :, : self.new].transpose(1, 2).reshape(count * self.new, -1)


def hidden_after(
    engine: Engine, head: KeyValues, texts: Sequence[KeyValues], starts: Sequence[int], new: Sequence[int]
) -> torch.Tensor:
    """Return the last hidden states [D, H] of D prompts that end with the same new tokens.

    Args:
        engine: the engine.
        head: keys and values of the tokens before every text.
        texts: keys and values of each text, longest first.
        starts: position of the first new token of each prompt.
        new: ids of the new tokens.
    """
    size = len(new)
    ids = torch.tensor(new).repeat(len(texts))
    positions = (torch.tensor(starts)[:, None] + torch.arange(size)).flatten()
    answers = torch.arange(1, len(texts) + 1) * size - 1
    return engine.run(ids, positions, answers, CachedAttention(engine, head, texts, size))
