"""Ids of documents: names that are unique in a corpus or an index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DataError
from .documents import Document

ID_KEYS = ("id", "_id")


def document_ids(documents: Sequence[Document], before: Mapping[str, int] | None = None) -> list[str]:
    """Return the id of each document: its key "id" or "_id", or else its position from 0.

    Args:
        documents: the documents.
        before: positions of preceding documents by id; the positions of `documents` follow them.

    Raises:
        DataError: an id is neither a text nor a whole number, or occurs twice.
    """
    before = before or {}
    positions: dict[str, int] = {}
    for position, document in enumerate(documents, len(before)):
        name = _id_of(document, position)
        first = before.get(name, positions.get(name))
        if first is not None:
            raise DataError(f"documents {first} and {position} have the same id {name!r}; ids must be unique")
        positions[name] = position
    return list(positions)


def _id_of(document: Document, position: int) -> str:
    value: Any = position
    if isinstance(document, dict):
        value = next((document[key] for key in ID_KEYS if document.get(key) is not None), position)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise DataError(f"document {position}: its id must be a text or a whole number, not {value!r}")
    return str(value)
