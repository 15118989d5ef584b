"""Encoded prompts, and counts of how many prompts, documents and queries were truncated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Encoded:
    """One prompt as token ids.

    Attributes:
        ids: the whole prompt.
        document_start, document_end: ids[document_start:document_end] is the document. Nothing before `document_start` depends on
            the document. In a document-first prompt nothing before `document_end` depends on the query.
        document_cut, query_cut: number of tokens truncated from the document and from the query.
    """

    ids: list[int]
    document_start: int
    document_end: int
    document_cut: int = 0
    query_cut: int = 0


@dataclass
class TruncationCounts:
    """How many prompts were truncated. A query counts once, however many documents it is paired with.

    Attributes:
        total: number of prompts that were encoded.
        documents: number of prompts whose document was truncated.
        queries: number of queries that were truncated.
        query_tokens: number of tokens truncated from all queries.
        chunked: number of documents that were read in several prompts.
        chunks: number of their prompts.
    """

    total: int = 0
    documents: int = 0
    queries: int = 0
    query_tokens: int = 0
    chunked: int = 0
    chunks: int = 0

    def count_chunks(self, documents: Sequence[Sequence[Encoded]], query_cut: int = 0) -> int:
        """Count documents of one query, each with the prompts that show it; see `count`."""
        several = [len(prompts) for prompts in documents if len(prompts) > 1]
        self.chunked += len(several)
        self.chunks += sum(several)
        return self.count([prompts[0] for prompts in documents], query_cut)

    def count(self, prompts: Iterable[Encoded], query_cut: int = 0) -> int:
        """Count prompts of one query.

        Args:
            prompts: all with the same query.
            query_cut: tokens truncated from this query in prompts that were counted before.

        Returns:
            The largest number of tokens truncated from the query so far.
        """
        largest_cut = query_cut
        for prompt in prompts:
            self.total += 1
            self.documents += prompt.document_cut > 0
            largest_cut = max(largest_cut, prompt.query_cut)
        self.count_query(largest_cut, query_cut)
        return largest_cut

    def count_query(self, tokens: int, before: int = 0) -> None:
        """Count a query from which `tokens` tokens were truncated, `before` of which are already counted."""
        self.queries += tokens > 0 and not before
        self.query_tokens += tokens - before

    def __str__(self) -> str:
        queries = f"{self.queries} {'query' if self.queries == 1 else 'queries'} cut"
        lost = f" by {self.query_tokens} tokens{' in all' if self.queries > 1 else ''}" if self.query_tokens else ""
        return f"{self.documents} of {self.total} documents cut, {queries}{lost}"
