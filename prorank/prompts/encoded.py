"""What a prompt becomes under a tokenizer: its ids, what stands around its document, and counts of what did not fit.

Nothing is cut unseen: every prompt says how many tokens of its document and of its query were left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Encoded:
    """One prompt as ids.

    `ids`: the whole prompt. `document_start`, `document_end`: where the document segment stands in it; nothing before
    `document_start` depends on the document, and where the document comes first nothing before `document_end` on the query.
    `document_cut`, `query_cut`: tokens left out of each.
    """

    ids: list[int]
    document_start: int
    document_end: int
    document_cut: int = 0
    query_cut: int = 0


@dataclass
class TruncationCounts:
    """What did not fit: `total` prompts were built, `documents` of them with a document that was cut, for `queries` queries that
    were cut, by `query_tokens` tokens in all. A query counts once, however many documents it was asked about."""

    total: int = 0
    documents: int = 0
    queries: int = 0
    query_tokens: int = 0

    def count(self, prompts: Iterable[Encoded], query_cut: int = 0) -> int:
        """Count prompts of one query, of which `query_cut` tokens were cut in prompts that were counted before.

        Returns:
            The tokens cut from the query so far: the most that a prompt lacks.
        """
        most = query_cut
        for prompt in prompts:
            self.total += 1
            self.documents += prompt.document_cut > 0
            most = max(most, prompt.query_cut)
        self.count_query(most, query_cut)
        return most

    def count_query(self, tokens: int, before: int = 0) -> None:
        """Count a query that lacks so many tokens, `before` of which were counted already."""
        self.queries += tokens > 0 and not before
        self.query_tokens += tokens - before

    def __str__(self) -> str:
        queries = f"{self.queries} {'query' if self.queries == 1 else 'queries'} cut"
        lost = f" by {self.query_tokens} tokens{' in all' if self.queries > 1 else ''}" if self.query_tokens else ""
        return f"{self.documents} of {self.total} documents cut, {queries}{lost}"


@dataclass(frozen=True)
class Around:
    """Ids before and behind a document. `content`: how many of them are the instruction's and the query's; `cut`: tokens left out
    of the query; `limit`: most tokens of one of its occurrences, None for no bound."""

    head: list[int]
    tail: list[int]
    content: int
    cut: int
    limit: int | None
