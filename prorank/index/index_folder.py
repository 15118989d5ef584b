"""An index on disk: `index.json`, and two files a segment. What `index.json` does not list does not belong to the index.

It is written last and replaced atomically, so that an interrupted process leaves the previous index, or none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..engine.layer_speed import DTYPES
from ..errors import ConfigError, DataError
from ..rank.base_reranker import BaseReranker
from ..utils.files import atomic_file, atomic_folder, parse_json, read_text, write_errors
from .index_settings import STORAGES, IndexSettings, check_identity, identity, key_value_model
from .segments import Segment

MANIFEST, LOCK, FORMAT = "index.json", ".lock", 1


@dataclass
class Manifest:
    """The contents of `index.json`.

    Attributes:
        model: name of the model, for messages and commands.
        identity: what keys and values depend on, see `index_settings.identity`.
        settings: fields of IndexSettings.
        segments: number of documents of each segment.
    """

    model: str
    identity: dict[str, str]
    settings: dict[str, Any]
    segments: list[int] = field(default_factory=list)
    format: int = FORMAT

    @classmethod
    def of(cls, reranker: BaseReranker, settings: IndexSettings) -> Manifest:
        """Return the manifest of an index without documents. Raises ConfigError for a model in memory."""
        if not reranker.weight_hashes:
            raise ConfigError(f"{reranker.name}: an index of a model in memory cannot be saved; save the model and load its folder")
        name = str(Path(reranker.name).resolve()) if Path(reranker.name).exists() else reranker.name
        return cls(name, identity(reranker, settings), asdict(settings))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a folder.

        Raises:
            DataError: there is no index in the folder, its format is another, or the file is damaged.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise DataError(f"{folder}: contains no index ({MANIFEST}); make one with prorank index DOCUMENTS {folder}")
        try:
            values = parse_json(read_text(path))
            if values.get("format") != FORMAT:
                raise DataError(f"{path}: format {values.get('format')} of another version of prorank; index the documents again")
            manifest = cls(**values)
            IndexSettings(**manifest.settings)
            if manifest.settings["storage"] not in STORAGES or not all(type(count) is int for count in manifest.segments):
                raise ValueError("a value is unknown")
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise DataError(f"{path}: damaged ({error}); index the documents again") from error
        return manifest

    @property
    def dtype(self) -> str:
        """The dtype of the model, as an option of `Reranker`."""
        named = {str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items()}
        return named.get(self.identity["dtype"], self.identity["dtype"])

    def write(self, folder: Path) -> None:
        """Write `index.json`, atomically."""
        with atomic_file(folder / MANIFEST) as handle:
            json.dump(asdict(self), handle, indent=2)


def segment_place(folder: Path, number: int) -> Path:
    """Path of a segment's files, without suffix."""
    return folder / f"{number:06d}"


def check_target(folder: Path) -> None:
    """Raise ConfigError if a new index cannot replace what is at `folder`: an index, or anything else but an empty folder."""
    if (folder / MANIFEST).exists():
        raise ConfigError(f"{folder}: contains an index already; add documents to it (--append), delete it, or name another folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: exists and is not an empty folder; name another folder for the index")


def check_documents(documents: Iterable[Any]) -> None:
    """Raise DataError if a document cannot be stored as JSON."""
    for number, document in enumerate(documents):
        try:
            json.dumps(document, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"document {number} cannot be stored as JSON ({error}); give texts, numbers and lists") from error


def create(folder: Path, manifest: Manifest, segments: Iterable[Segment]) -> None:
    """Write a new index. If that fails, or the process ends, there is none. Raises OSError if a file cannot be written."""
    check_target(folder)
    with atomic_folder(folder) as unfinished:
        for segment in segments:
            segment.write(segment_place(unfinished, len(manifest.segments)))
            manifest.segments.append(len(segment.documents))
        manifest.write(unfinished)


def append(folder: Path, known: Sequence[int], segments: Iterable[Segment]) -> Manifest:
    """Add segments to an index. If that fails, or the process ends, the index is unchanged.

    Args:
        folder: folder of the index.
        known: number of documents of each segment, as they were loaded.
        segments: new segments.

    Raises:
        DataError: another process has changed the index since, or changes it.
        OSError: a file cannot be written.
    """
    with _locked(folder):
        manifest = Manifest.read(folder)
        if manifest.segments != list(known):
            raise DataError(f"{folder}: the index was changed by another process; load it again")
        _remove_unlisted(folder, len(known))
        try:
            for segment in segments:
                segment.write(segment_place(folder, len(manifest.segments)))
                manifest.segments.append(len(segment.documents))
            manifest.write(folder)
        except BaseException:
            _remove_unlisted(folder, len(known))
            raise
        return manifest


def open_segments(folder: Path, manifest: Manifest, reranker: BaseReranker, first: int = 0) -> list[Segment]:
    """Map the segments of an index from number `first` on.

    Raises:
        ConfigError: it was made with other weights, prompt, dtype or truncation.
        DataError: a file is missing or damaged.
    """
    settings, model = IndexSettings(**manifest.settings), key_value_model(reranker)
    check_identity(folder, manifest.identity, identity(reranker, settings))
    segments = []
    for number, count in enumerate(manifest.segments[first:], first):
        segments.append(Segment.open(segment_place(folder, number), model.shape, settings.dtype(model)))
        if len(segments[-1].documents) != count:
            raise DataError(f"{folder}: segment {number} has not the {count} documents of {MANIFEST}; index the documents again")
    return segments


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the index's lock. Raises DataError if another process holds it."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, timeout=0)
    with write_errors(folder):
        try:
            lock.acquire()
        except Timeout as error:
            raise DataError(f"{folder}: another process is adding documents to this index; wait until it has finished") from error
    try:
        yield
    finally:
        lock.release()


def _remove_unlisted(folder: Path, count: int) -> None:
    """Remove the files of segments from number `count` on, which an interrupted process left."""
    for path in folder.iterdir():
        if path.suffix in (".safetensors", ".jsonl") and path.stem.isdecimal() and int(path.stem) >= count:
            path.unlink()
