"""Sizes of matrix products. Rows are padded to few sizes, which limits the memory of processes that rank for days.

oneDNN compiles a program for every new shape. Each takes about half a megabyte and some milliseconds, and part of the memory is
never freed, even with a cache limit. Therefore rows are padded to about ninety sizes, which costs two to three per cent.
"""

from __future__ import annotations

import torch

STEPS_PER_OCTAVE = 16  # number of sizes from one power of two to the next, above 1,024 rows


def padded_size(rows: int) -> int:
    """Return the padded number of rows of a product: 2, 4, 8, 16, then in steps of 16, 32 and 64.

    Above 1,024 rows there are 16 steps between powers of two.
    """
    if rows <= 16:
        return max(2, 1 << (rows - 1).bit_length())
    octave = 1 << (rows - 1).bit_length() - 1  # the power of two below
    step = 16 if octave <= 32 else 32 if octave <= 128 else max(64, octave // STEPS_PER_OCTAVE)
    return -(-rows // step) * step


def padded_length(tokens: int) -> int:
    """Return the padded length of a sequence in attention: in steps of 16 up to 64 tokens, of 32 above."""
    step = 16 if tokens <= 64 else 32
    return -(-tokens // step) * step


def repeat_last(values: torch.Tensor, size: int) -> torch.Tensor:
    """Pad `values` [n, ...] to [size, ...] by repeating the last row. Returns them unchanged if n >= size."""
    return torch.cat((values, values[-1:].expand(size - len(values), *values.shape[1:]))) if size > len(values) else values


def powers_of_two(count: int) -> list[int]:
    """Return the powers of two whose sum is `count`, largest first."""
    return [1 << bit for bit in reversed(range(count.bit_length())) if count >> bit & 1]
