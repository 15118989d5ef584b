"""The sizes in which matrix products are made: few, so that a process that ranks for days holds few oneDNN programs.

oneDNN compiles a program for every shape it meets. Each takes about half a megabyte and some milliseconds, and part of it is never
freed, whatever its cache limit. Rows are therefore padded to the next of about ninety sizes, which wastes two or three per cent.
"""

from __future__ import annotations

import torch

STEPS_PER_OCTAVE = 16  # sizes between a power of two and the next, from 1,024 rows on


def padded_size(rows: int) -> int:
    """The number of rows to which a product of `rows` rows is padded: 2, 4, 8, 16, then steps of 16, 32, 64, and from 1,024 rows
    on sixteen steps an octave."""
    if rows <= 16:
        return max(2, 1 << (rows - 1).bit_length())
    octave = 1 << (rows - 1).bit_length() - 1  # the power of two below
    step = 16 if octave <= 32 else 32 if octave <= 128 else max(64, octave // STEPS_PER_OCTAVE)
    return -(-rows // step) * step


def padded_length(tokens: int) -> int:
    """The length to which attention pads a sequence of `tokens` tokens: steps of 16 up to 64 tokens, of 32 above."""
    step = 16 if tokens <= 64 else 32
    return -(-tokens // step) * step


def repeat_last(values: torch.Tensor, size: int) -> torch.Tensor:
    """Pad `values` [n, ...] to [size, ...] by repeating the last row; returned as they are if n >= size."""
    return torch.cat((values, values[-1:].expand(size - len(values), *values.shape[1:]))) if size > len(values) else values


def powers_of_two(count: int) -> list[int]:
    """The powers of two that add up to `count`, largest first."""
    return [1 << bit for bit in reversed(range(count.bit_length())) if count >> bit & 1]
