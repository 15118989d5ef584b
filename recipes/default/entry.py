"""Entry: what parsers yield, a query and the documents that answer it.

Entries with equal document texts share one document in the corpus, so they are not negatives of each other.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A query and its relevant documents.

    Attributes:
        query: as a person might type it; "" for documents that only enlarge the corpus.
        documents: texts that answer the query.
    """

    query: str
    documents: tuple[str, ...]
