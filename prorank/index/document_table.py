"""The documents of an index: found by position, id or text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import DataError
from ..rank.document_ids import document_ids
from ..rank.documents import Document, document_text
from ..rank.validation import items


class DocumentTable:
    """Documents with their ids and texts.

    Attributes:
        documents: the documents, unchanged.
        ids: the id of each document: its "id" or "_id", else its position as text.
        positions: position by id.
    """

    def __init__(self) -> None:
        self.documents: list[Document] = []
        self.ids: list[str] = []
        self.positions: dict[str, int] = {}
        self._first_of_text: dict[str, int] = {}  # position of the first document with a text
        self._same_text: list[int] = []  # this position, by document

    def extend(self, documents: Sequence[Document]) -> None:
        """Append documents. Raises DataError for an id that occurs twice."""
        first = len(self.documents)
        names = document_ids(documents, self.positions)
        self.documents += documents
        self.ids += names
        self.positions |= {name: position for position, name in enumerate(names, first)}
        for position, document in enumerate(documents, first):
            self._same_text.append(self._first_of_text.setdefault(document_text(document), position))

    def selected(self, ids: Iterable[str | int] | None, what: str = "ids") -> list[int]:
        """Return the positions of the documents with these ids; None for all.

        Args:
            ids: the ids.
            what: their name in messages.

        Raises:
            DataError: an id is unknown or occurs twice.
        """
        if ids is None:
            return list(range(len(self.documents)))
        positions: dict[int, None] = {}
        for name in items(ids, what):
            position = self.positions.get(str(name))
            if position is None:
                raise DataError(f"id {name!r} is not in the index of {len(self.documents):,} documents; see Index.ids")
            if position in positions:
                raise DataError(f"id {name!r} occurs twice; give each id once")
            positions[position] = None
        return list(positions)

    def text(self, name: str | int) -> str | None:
        """Return the text of the document with this id, None if there is none."""
        position = self.positions.get(str(name))
        return None if position is None else document_text(self.documents[position])

    def position_of_text(self, text: str) -> int | None:
        """Return the position of the first document with exactly this text, None if there is none."""
        return self._first_of_text.get(text)

    def tie_equal_texts(self, scores: np.ndarray, positions: Sequence[int]) -> np.ndarray:
        """Return the scores [n] of documents at `positions`; those with equal texts get the score of the first of them."""
        first: dict[int, int] = {}
        return scores[[first.setdefault(self._same_text[position], i) for i, position in enumerate(positions)]]
