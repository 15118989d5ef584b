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
from .document_table import DocumentTable
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
        table: documents and ids, found by id or text.
        head: keys and values of the tokens before every document.
    """

    def __init__(
        self, reranker: BaseReranker, settings: IndexSettings, segments: list[Segment], folder: Path | None = None
    ) -> None:
        self.reranker, self.settings, self.folder = reranker, settings, folder
        self.segments: list[Segment] = []
        self.table = DocumentTable()
        self.documents, self.ids = self.table.documents, self.table.ids
        self.head = head_key_values(reranker, settings)
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
        texts = _checked_texts(checked, self.table.positions)
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
        query, positions = query_text(query, "the query"), self.table.selected(ids)
        return self._rank([query], [positions], RankOptions(top_k, min_score, batch_size, top_n=top_n), show_progress)[0]

    def rank_many(
        self, queries: Iterable[str], ids: Iterable[Iterable[str | int]] | None = None, top_k: int | None = None,
        min_score: float | None = None, batch_size: int | None = None, show_progress: bool = False, top_n: int | None = None,
    ) -> list[list[Hit]]:  # fmt: skip
        """Rank documents for several queries.

        Args:
            queries: one text per query.
            ids: one list of ids per query; None ranks all documents for each query.
            top_k, min_score, batch_size, show_progress, top_n: see `rank`.

        Returns:
            One list of hits per query.

        Raises:
            DataError: see `rank`; raised before anything is scored.
        """
        options = RankOptions(top_k, min_score, batch_size, top_n=top_n)
        texts = [query_text(query, f"query {i}") for i, query in enumerate(items(queries, "queries"))]
        lists = [None] * len(texts) if ids is None else items(ids, "ids")
        if len(lists) != len(texts):
            raise DataError(f"{len(texts)} queries but {len(lists)} lists of ids; give one list per query")
        positions = [self.table.selected(names, f"ids of query {i}") for i, names in enumerate(lists)]
        return self._rank(texts, positions, options, show_progress)

    def score(self, query: str, ids: Iterable[str | int] | None = None) -> np.ndarray:
        """Return the log-odds fp32 [n] of documents, in the order of `ids` or of the index. Arguments as in `rank`."""
        return self._score(query_text(query, "the query"), self.table.selected(ids))

    def _rank(
        self, queries: Sequence[str], lists: Sequence[list[int]], options: RankOptions, show_progress: bool
    ) -> list[list[Hit]]:
        """Rank the documents at the positions of each query."""
        with DocumentProgress(show_progress, sum(map(len, lists))) as progress:
            scored = [
                self._score(query, positions, options.batch_size, progress) for query, positions in zip(queries, lists, strict=True)
            ]
        return [self._hits(positions, scores, options) for positions, scores in zip(lists, scored)]

    def _hits(self, positions: Sequence[int], scores: np.ndarray, options: RankOptions) -> list[Hit]:
        """Return the hits of a query."""
        probabilities = self.reranker.probabilities(scores, self.settings.instruction)
        documents = [self.documents[position] for position in positions]
        hits = make_hits(documents, scores, options.top_k, options.min_score, probabilities=probabilities)
        return [replace(hit, index=positions[hit.index]) for hit in hits]

    def _score(
        self, query: str, positions: list[int], batch_size: int | None = None, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Score documents. Documents with equal texts get the score of the first of them, as in `Reranker.rank`."""
        reranker = self.reranker
        with reranker.computing([[query] * len(positions)]):
            scores = score_stored(reranker, self.settings, self.head, self.segments, query, positions, batch_size, progress)
            check_finite(reranker.name, [scores])
        return self.table.tie_equal_texts(scores, positions)

    def _extend(self, segments: Sequence[Segment]) -> None:
        """Take over segments."""
        self.segments += segments
        for segment in segments:
            self.table.extend(segment.documents)


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
