"""Positions of prompts in a row of tokens without padding, and the causal sequences that attention computes over it.

Matrix products process every token once (a shared prefix once for all its documents); attention processes each prompt separately.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np
import torch


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
class Sequences:
    """S causal sequences over a row of T tokens: the prefix of each pack, and each prompt after its prefix.

    The queries of all sequences, one sequence after the other, are the row itself. The keys of a prompt are its prefix and its own
    tokens, so its queries are the last of its keys.

    Attributes:
        query_starts, key_starts: int32 [S + 1], cumulative numbers of queries and keys.
        max_queries, max_keys: largest numbers of queries and keys of a sequence.
        keys: int64 [G], indices into the row of the keys of all sequences; None if these are the row itself.
        lengths: (queries, keys) of each sequence.
    """

    query_starts: torch.Tensor
    key_starts: torch.Tensor
    max_queries: int
    max_keys: int
    keys: torch.Tensor | None
    lengths: list[tuple[int, int]]

    def to(self, device: torch.device) -> Sequences:
        """The sequences with their tensors on `device`."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Sequences:
        """The sequences with their tensors in page-locked memory."""
        return self._with(lambda tensor: tensor.pin_memory())

    def _with(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Sequences:
        keys = None if self.keys is None else change(self.keys)
        return replace(self, query_starts=change(self.query_starts), key_starts=change(self.key_starts), keys=keys)


@dataclass(frozen=True)
class Spans:
    """Positions of the packs of a batch, end to end in a row of T tokens.

    If every prompt is expanded with its prefix, the batch has G >= T tokens.

    Attributes:
        packs: the packs.
        sequences: the sequences of attention on the batch's device; None for attention on a CPU.
    """

    packs: list[PackSpan]
    sequences: Sequences | None = None

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

    def to(self, device: torch.device) -> Spans:
        """The spans for a batch on `device`; on a GPU with their sequences."""
        if device.type == "cpu":
            return self
        return Spans(self.packs, (self.sequences or sequences_of(self)).to(device))

    def pinned(self) -> Spans:
        """The spans with their sequences in page-locked memory."""
        return Spans(self.packs, sequences_of(self).pinned())


def row_positions(spans: Spans) -> np.ndarray:
    """Return the position ids int64 [T] of the row; those of every prompt continue from its prefix."""
    starts, lengths, shared, _ = _pieces(spans)
    return np.arange(lengths.sum()) - np.repeat(starts - shared, lengths)


def sequences_of(spans: Spans) -> Sequences:
    """Return the sequences of packs that are joined end to end, on the CPU."""
    starts, lengths, shared, pack_starts = _pieces(spans)
    key_lengths = shared + lengths
    query_ends, key_ends = lengths.cumsum(), key_lengths.cumsum()
    keys = None
    if shared.any():
        # Number of each key in its sequence. The first `shared` keys are the pack's prefix, the others the sequence's own tokens.
        number = np.arange(key_ends[-1]) - np.repeat(key_ends - key_lengths, key_lengths)
        own, prefix = (np.repeat(first, key_lengths) for first in (starts - shared, pack_starts))
        keys = torch.from_numpy(number + np.where(number < np.repeat(shared, key_lengths), prefix, own))
    query_starts, key_starts = (torch.from_numpy(np.append(0, ends).astype(np.int32)) for ends in (query_ends, key_ends))
    pairs = list(zip(lengths.tolist(), key_lengths.tolist()))
    return Sequences(query_starts, key_starts, int(lengths.max()), int(key_lengths.max()), keys, pairs)


def _pieces(spans: Spans) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return int64 [S] of the row's pieces, which are prefixes and prompts without their prefix.

    Returns:
        (index of the first token, number of tokens, number of prefix tokens before it, index of its pack's first token).
    """
    ends = [[pack.prefix_length, *pack.ends] if pack.prefix_length else pack.ends for pack in spans.packs]
    counts = [len(of_pack) for of_pack in ends]
    pack_starts = np.repeat([pack.start for pack in spans.packs], counts)
    stops = np.fromiter(chain.from_iterable(ends), np.int64, sum(counts)) + pack_starts
    starts = np.concatenate(([0], stops[:-1]))
    prefixes = np.repeat([pack.prefix_length for pack in spans.packs], counts)
    return starts, stops - starts, np.where(starts == pack_starts, 0, prefixes), pack_starts
