"""Cosine similarities of a bi-encoder: a baseline in evaluation, a teacher in training.

A bi-encoder encodes queries and documents separately, so a text that many queries share is encoded once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.names import similar
from ..checkpoints.weights import check_report, readable
from ..errors import ModelError, extra
from ..utils.loading_lock import one_at_a_time

KIND = "bi-encoder:"  # prefix of a folder's name
WINDOW = 16  # queries whose texts are encoded in one call: enough to sort them by length, few enough to show progress


def folder_of(name: str) -> Path:
    """Return the folder that `bi-encoder:FOLDER` names. Raises ModelError if it contains no sentence-transformers model."""
    folder = Path(name.removeprefix(KIND))
    if not folder.exists():
        raise ModelError(f"{name}: no such folder{similar(folder)}")
    if not (folder / "modules.json").is_file():
        raise ModelError(f"{name}: {folder} contains no sentence-transformers model (modules.json is missing); name its folder")
    return folder


@one_at_a_time
def _load(name: str, folder: Path, device: str | None) -> Any:
    """Load a folder's SentenceTransformer. Raises ModelError for files that are damaged or lack weights."""
    with extra("teacher"):
        from sentence_transformers import SentenceTransformer
    with readable(name):
        encoder = SentenceTransformer(str(folder), local_files_only=True, device=device)
        _check(folder, encoder)
    return encoder


def _check(folder: Path, encoder: Any) -> None:
    """Raise ModelError if the transformer's files lack weights.

    sentence-transformers initialises missing weights randomly without a report, so the files are read again.
    """
    for module in encoder:
        model, place = getattr(module, "auto_model", None), folder / getattr(module, "path", "")
        if model is None or not (place / "config.json").is_file():
            continue
        _, report = type(model).from_pretrained(place, local_files_only=True, output_loading_info=True)
        missing = {key for key in report["missing_keys"] if "pooler." not in key}  # not needed for the mean of hidden states
        check_report(place, {**report, "missing_keys": missing, "unexpected_keys": ()})


def fingerprint_of(name: str, device: str | None = None) -> str:
    """Return the SHA-256 over the device and the folder's files (names and bytes). It changes whenever scores may change.

    Raises:
        ModelError: as `folder_of`.
    """
    folder, digest = folder_of(name), hashlib.sha256(f"{KIND}{device}".encode())
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as handle:
            digest.update(f"{file.relative_to(folder).as_posix()} {hashlib.file_digest(handle, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()


def bi_encoder(name: str, device: str | None = None) -> Callable[..., list[np.ndarray]]:
    """Load a bi-encoder.

    Args:
        name: `bi-encoder:FOLDER`, a local sentence-transformers model.
        device: "cpu", "cuda" or "mps"; None leaves the choice to the library.

    Returns:
        A function `(queries, documents, progress=None)` that returns one fp32 array [n] of cosines per query.

    Raises:
        ModelError: there is no such model. ImportError: sentence-transformers is not installed (extra `teacher`).
    """
    encoder = _load(name, folder_of(name), device)

    def scores(
        queries: Sequence[str], documents: Sequence[Sequence[str]], progress: Callable[[int], None] | None = None
    ) -> list[np.ndarray]:
        vectors: dict[str, np.ndarray] = {}  # [d] by text
        lists, cosines = list(zip(queries, documents)), []
        for start in range(0, len(lists), WINDOW):
            window = lists[start : start + WINDOW]
            new = sorted({text for query, row in window for text in (query, *row)} - vectors.keys())
            vectors |= zip(new, encoder.encode(new, normalize_embeddings=True, show_progress_bar=False))
            for query, row in window:
                cosines.append(np.array([vectors[query] @ vectors[text] for text in row], dtype=np.float32))
                if progress:
                    progress(len(row))
        return cosines

    return scores


def text_encoder(name: str, device: str | None = None) -> Callable[[Sequence[str]], np.ndarray]:
    """Return a function that encodes texts as unit vectors [n, d], fp32. Arguments and errors as for `bi_encoder`."""
    encoder = _load(name, folder_of(name), device)
    return lambda texts: encoder.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
