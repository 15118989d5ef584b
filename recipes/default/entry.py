"""What a parser yields: a query and the documents that answer it.

Two entries with the same document text share one document in the corpus, so they are no negatives of each other.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A query and its relevant documents.

    Attributes:
        query: as a person might type it; "" for a document that only fills the corpus.
        documents: texts that answer it.
    """

    query: str
    documents: tuple[str, ...]
