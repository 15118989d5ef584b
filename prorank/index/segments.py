"""Segments: some of the documents of an index with their keys and values, in memory or in a memory-mapped file.

Keys and values of a chunk (a document's tokens in one prompt) lie together, [layers, 2, num_kv_heads, tokens, head_dim], so
reading a chunk is reading one range of the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..engine.key_values import KeyValues, KeyValueShape
from ..errors import DataError
from ..rank.documents import Document
from ..utils.files import atomic_file, write_errors

TABLES = ("cuts", "chunk_counts", "lengths", "ids")


@dataclass
class Segment:
    """Some documents of an index; D documents in C chunks.

    Attributes:
        shape: sizes of keys and values.
        documents: the documents, unchanged.
        cuts: number of truncated tokens of each document, int32 [D].
        chunk_counts: number of chunks of each document, int32 [D].
        lengths: number of tokens of each chunk, int32 [C].
        ids: token ids of all chunks, one after the other, int32.
        values: keys and values of all chunks, flat.
        scales: steps of int8 values [C, layers, 2, num_kv_heads, 1, head_dim]; None for floats.
        path: file that `values` is mapped from; None in memory.
    """

    shape: KeyValueShape
    documents: list[Document]
    cuts: torch.Tensor
    chunk_counts: torch.Tensor
    lengths: torch.Tensor
    ids: torch.Tensor
    values: torch.Tensor
    scales: torch.Tensor | None = None
    path: Path | None = None

    @cached_property
    def chunk_starts(self) -> list[int]:
        """Number of the first chunk of each document, and of all chunks."""
        return [0, *self.chunk_counts.cumsum(0).tolist()]

    @cached_property
    def token_starts(self) -> list[int]:
        """Number of the first token of each chunk, and of all tokens."""
        return [0, *self.lengths.cumsum(0).tolist()]

    @property
    def nbytes(self) -> int:
        """Size of keys and values in bytes."""
        return self.values.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def chunks(self, document: int) -> range:
        """Numbers of a document's chunks."""
        return range(self.chunk_starts[document], self.chunk_starts[document + 1])

    def chunk_ids(self, chunk: int) -> list[int]:
        """Token ids of a chunk."""
        return self.ids[self.token_starts[chunk] : self.token_starts[chunk + 1]].tolist()

    def key_values(self, chunk: int) -> KeyValues:
        """Keys and values of a chunk, without copying them."""
        begin, end = self.token_starts[chunk], self.token_starts[chunk + 1]
        flat = self.values[begin * self.shape.per_token : end * self.shape.per_token]
        scales = None if self.scales is None else self.scales[chunk]
        return KeyValues(flat.view(self.shape.of_tokens(end - begin)), scales)

    def write(self, place: Path) -> None:
        """Write the segment to `place` with the suffixes .safetensors and .jsonl. Raises OSError if a file cannot be written."""
        with atomic_file(place.with_suffix(".jsonl")) as lines:
            lines.writelines(json.dumps(document, ensure_ascii=False) + "\n" for document in self.documents)
        tensors = {name: getattr(self, name) for name in (*TABLES, "values")}
        tensors |= {} if self.scales is None else {"scales": self.scales}
        with write_errors(place.parent):
            save_file(tensors, place.with_suffix(".safetensors"))

    @classmethod
    def open(cls, place: Path, shape: KeyValueShape, dtype: torch.dtype) -> Segment:
        """Map a segment that `write` has written. Keys and values are read when they are used.

        Raises:
            DataError: a file is missing or damaged.
        """
        path = place.with_suffix(".safetensors")
        try:
            documents = [json.loads(line) for line in open(place.with_suffix(".jsonl"), encoding="utf-8")]
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            tables = {name: tensors[name] for name in (*TABLES, "values")}
            segment = cls(shape, documents, **tables, scales=tensors.get("scales"), path=path)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise DataError(f"{path}: missing or damaged ({error}); index the documents again") from error
        sizes = len(segment.cuts), len(segment.chunk_counts), segment.chunk_starts[-1], segment.token_starts[-1]
        expected = len(documents), len(documents), len(segment.lengths), len(segment.ids)
        if sizes != expected or segment.values.dtype != dtype or len(segment.values) != sizes[3] * shape.per_token:
            raise DataError(f"{path}: damaged: its tables do not fit its documents; index the documents again")
        return segment

    def prefetch(self, chunks: Iterable[int]) -> None:
        """Ask the kernel to read chunks from the file now, in whole ranges. Does nothing in memory."""
        if self.path is None or not hasattr(os, "posix_fadvise"):
            return
        token_bytes = self.shape.per_token * self.values.itemsize
        with suppress(OSError), open(self.path, "rb") as file:  # the mapping outlives the name of the file
            for chunk in chunks:
                begin, end = self.token_starts[chunk], self.token_starts[chunk + 1]
                size = (end - begin) * token_bytes
                os.posix_fadvise(file.fileno(), self.values_offset + begin * token_bytes, size, os.POSIX_FADV_WILLNEED)

    @cached_property
    def values_offset(self) -> int:
        """Offset of `values` in the file: the format has eight bytes with the header's size, the header, and then the tensors."""
        assert self.path is not None
        with open(self.path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            return 8 + size + int(json.loads(file.read(size))["values"]["data_offsets"][0])


def locate(segments: Sequence[Segment], positions: Sequence[int]) -> list[tuple[Segment, int]]:
    """Return (segment, its document's number in it) for positions in an index."""
    starts = np.cumsum([0, *(len(segment.documents) for segment in segments)])
    numbers = np.searchsorted(starts, positions, side="right") - 1
    return [(segments[number], int(position - starts[number])) for number, position in zip(numbers, positions)]
