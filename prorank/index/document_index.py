"""Index: documents that a Reranker has read once.

index = reranker.index(documents)
for hit in index.rank("how to close a connection", top_k=10):
    print(hit.score, hit.text)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..rank.base_reranker import BaseReranker
from ..rank.document_ids import document_ids
from ..rank.documents import Document, DocumentProgress, Hit, document_text, make_hits
from ..rank.validation import RankOptions, check_finite, items, query_text
from . import index_folder
from .index_folder import Manifest
from .index_scores import score_stored
from .index_settings import IndexSettings, indexing_strategy
from .segment_builder import build_segments, head_key_values
from .segments import Segment


class Index:
    """Documents whose keys and values are stored, so that ranking them computes the tokens after the document only.

    The prompt must have the document first. Scores equal those of `Reranker.rank` up to rounding if a document, or a chunk of it,
    leaves `query_room` tokens of its prompt to the query, and the query fits into what is left. That is so for all documents and
    queries if the prompt's `chunk_length` leaves room for the query's share, as the default model's does. Without it,
    `Reranker.rank` fits longer documents to the length of each query, while an index splits or cuts them once; a query that does
    not fit beside a document is then cut, and `Reranker.cuts` counts it.

    Make an index by `Reranker.index` or `Index.load`.

    Attributes:
        reranker: the model.
        settings: how documents are stored.
        folder: folder of an index on disk, whose documents are memory-mapped; None in memory.
        documents: the documents, unchanged.
        ids: the id of each document: its "id" or "_id", else its position as text.
    """

    def __init__(
        self, reranker: BaseReranker, settings: IndexSettings, segments: list[Segment], folder: Path | None = None
    ) -> None:
        self.reranker, self.settings, self.folder = reranker, settings, folder
        self.segments: list[Segment] = []
        self.documents: list[Document] = []
        self.ids: list[str] = []
        self._positions: dict[str, int] = {}
        self._first_of_text: dict[str, int] = {}  # position of the first document with a text
        self._same_text: list[int] = []  # this position, by document
        self._head = head_key_values(reranker, settings)
        self._extend(segments)

    @classmethod
    def of(
        cls, reranker: BaseReranker, documents: Iterable[Document], folder: str | Path | None = None,
        instruction: str | None = None, query_room: int | None = None, storage: str = "model", show_progress: bool = False,
    ) -> Index:  # fmt: skip
        """Read documents once.

        Args:
            reranker: a model of Llama-like layers, loaded from a checkpoint, whose prompt has the document first.
            documents: strings, or dicts with "text" (and "title", "id", anything else), see `Reranker.rank`.
            folder: new folder for the index, which may be larger than memory; None keeps it in memory. Documents are stored in it
                as JSON.
            instruction: replaces the prompt's instruction, for all queries.
            query_room: number of tokens that documents leave for the query; None for 64 (less for short prompts).
            storage: "model" stores keys and values in the model's dtype, "bf16" and "int8" round them.
            show_progress: show a progress bar on stderr.

        Raises:
            ConfigError: the model cannot make an index, an option is invalid, or the folder is not empty.
            DataError: a document is invalid, or an id occurs twice. Raised before anything is computed.
        """
        settings = IndexSettings.of(reranker, instruction, query_room, storage)
        checked = items(documents, "documents")
        texts = _checked_texts(checked, {})
        if folder is not None:
            index_folder.check_target(Path(folder))
            index_folder.check_documents(checked)
            manifest = Manifest.of(reranker, settings)
        with (
            DocumentProgress(show_progress, len(texts)) as progress,
            closing(build_segments(reranker, settings, checked, texts, progress)) as segments,
        ):
            if folder is None:
                return cls(reranker, settings, list(segments))
            index_folder.create(Path(folder), manifest, segments)
        return cls.load(folder, reranker)

    @classmethod
    def load(cls, folder: str | Path, reranker: BaseReranker) -> Index:
        """Open an index on disk. Keys and values are memory-mapped and read when they are used.

        Raises:
            ConfigError: it was made with other weights, prompt, dtype or truncation.
            DataError: the folder contains no index, or a file is damaged.
        """
        indexing_strategy(reranker)
        manifest = Manifest.read(Path(folder))
        segments = index_folder.open_segments(Path(folder), manifest, reranker)
        return cls(reranker, IndexSettings(**manifest.settings), segments, Path(folder))

    def save(self, folder: str | Path) -> None:
        """Write the index into a new folder, atomically.

        Raises:
            ConfigError: the folder is not empty, or the model is one in memory, whose weights may change.
            DataError: a document cannot be stored as JSON.
            OSError: a file cannot be written.
        """
        manifest = Manifest.of(self.reranker, self.settings)
        index_folder.check_documents(self.documents)
        index_folder.create(Path(folder), manifest, self.segments)

    def add(self, documents: Iterable[Document], show_progress: bool = False) -> None:
        """Read further documents, which follow the others. An index on disk is changed on disk; it is unchanged if that fails.

        Args:
            documents, show_progress: see `of`.

        Raises:
            DataError: a document is invalid, an id occurs twice, or another process has changed the index.
        """
        checked = items(documents, "documents")
        texts = _checked_texts(checked, self._positions)
        if self.folder is not None:
            index_folder.check_documents(checked)
        with (
            DocumentProgress(show_progress, len(texts)) as progress,
            closing(build_segments(self.reranker, self.settings, checked, texts, progress)) as segments,
        ):
            if self.folder is None:
                self._extend(list(segments))
                return
            known = [len(segment.documents) for segment in self.segments]
            manifest = index_folder.append(self.folder, known, segments)
        self._extend(index_folder.open_segments(self.folder, manifest, self.reranker, len(known)))

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def nbytes(self) -> int:
        """Size of the stored keys and values, in bytes."""
        return sum(segment.nbytes for segment in self.segments)

    def rank(
        self, query: str, ids: Iterable[str | int] | None = None, top_k: int | None = None, min_score: float | None = None,
        batch_size: int | None = None, show_progress: bool = False, top_n: int | None = None,
    ) -> list[Hit]:  # fmt: skip
        """Order documents by relevance to the query, best first; equal scores keep the order of `ids` or of the index.

        Args:
            query: a text that is not blank.
            ids: ids of the documents to rank; None for all.
            top_k, min_score, batch_size, show_progress, top_n: see `Reranker.rank`.

        Returns:
            Hits, whose `index` is the position in the index.

        Raises:
            DataError: the query is blank, an id is not in the index or occurs twice, or an option is invalid.
        """
        options = RankOptions(top_k, min_score, batch_size, top_n=top_n)
        query, positions = query_text(query, "the query"), self._selected(ids)
        with DocumentProgress(show_progress, len(positions)) as progress:
            scores = self._score(query, positions, options.batch_size, progress)
        probabilities = self.reranker.probabilities(scores, self.settings.instruction)
        documents = [self.documents[position] for position in positions]
        hits = make_hits(documents, scores, options.top_k, options.min_score, probabilities=probabilities)
        return [replace(hit, index=positions[hit.index]) for hit in hits]

    def score(self, query: str, ids: Iterable[str | int] | None = None) -> np.ndarray:
        """Return the log-odds fp32 [n] of documents, in the order of `ids` or of the index. Arguments as in `rank`."""
        return self._score(query_text(query, "the query"), self._selected(ids))

    def _score(
        self, query: str, positions: list[int], batch_size: int | None = None, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Score documents. Documents with equal texts get the score of the first of them, as in `Reranker.rank`."""
        reranker = self.reranker
        with reranker.computing([[query] * len(positions)]):
            scores = score_stored(
                reranker, self.settings, self._head, self.segments, query, positions, batch_size, progress
            )  # fmt: skip
            check_finite(reranker.name, [scores])
        first: dict[int, int] = {}
        return scores[[first.setdefault(self._same_text[position], i) for i, position in enumerate(positions)]]

    def _selected(self, ids: Iterable[str | int] | None) -> list[int]:
        """Return the positions of the documents with these ids. Raises DataError for unknown and repeated ids."""
        if ids is None:
            return list(range(len(self.documents)))
        positions: dict[int, None] = {}
        for name in items(ids, "ids"):
            position = self._positions.get(str(name))
            if position is None:
                raise DataError(f"id {name!r} is not in the index of {len(self):,} documents; see Index.ids")
            if position in positions:
                raise DataError(f"id {name!r} occurs twice; give each id once")
            positions[position] = None
        return list(positions)

    def _extend(self, segments: Sequence[Segment]) -> None:
        """Take over segments."""
        self.segments += segments
        for segment in segments:
            self.documents += segment.documents
        names = document_ids(self.documents[len(self.ids) :], self._positions)
        self._positions |= {name: position for position, name in enumerate(names, len(self.ids))}
        self.ids += names
        for position in range(len(self._same_text), len(self.documents)):
            self._same_text.append(self._first_of_text.setdefault(document_text(self.documents[position]), position))


def _checked_texts(documents: Sequence[Document], before: Mapping[str, int]) -> list[str]:
    """Return the texts of documents that follow those of `before` (positions by id).

    Raises:
        DataError: a document is invalid, or an id occurs twice.
    """
    texts = [document_text(document, f"document {i}") for i, document in enumerate(documents)]
    if not texts:
        raise DataError("there are no documents to index; give at least one")
    document_ids(documents, before)
    return texts
