"""Training examples: one query with candidate documents, and the deterministic samples that the training stages use.

Samples are seeded by a string (seed, epoch, index), which `random` hashes with SHA-512. They are equal in every process, so a
resumed run sees the same lists as an uninterrupted one.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from ..errors import DataError

Pair = tuple[str, str, float]
SAME = 0.8  # minimum Jaccard similarity of the word sets of near-duplicates


@dataclass(frozen=True)
class Group:
    """One query with candidate documents.

    Attributes:
        query: text of the query, not blank.
        documents: texts of the candidates, at least one. A text may be empty.
        labels: grade of each document, at least 0; above 0 is relevant.
        query_id: id in the source, or "".
        doc_ids: ids in the source, one per document, or ().
        teacher: teacher scores on any scale, one per document; None if there are none.

    Raises:
        DataError: lengths differ, the query is blank, or a label or score is invalid.
    """

    query: str
    documents: tuple[str, ...]
    labels: tuple[float, ...]
    query_id: str = ""
    doc_ids: tuple[str, ...] = ()
    teacher: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        shown = f"query {self.query_id or self.query[:60]!r}"
        if not self.query.strip():
            raise DataError(f"{shown}: the query is empty")
        if not self.documents:
            raise DataError(f"{shown}: no documents")
        for name in ("labels", "doc_ids", "teacher"):
            values = getattr(self, name)
            if (values or name == "labels") and len(values) != len(self.documents):
                raise DataError(f"{shown}: {len(self.documents)} documents but {len(values)} {name}")
        if any(not math.isfinite(label) or label < 0 for label in self.labels):
            raise DataError(f"{shown}: labels must be finite and >= 0, got {list(self.labels)}")
        if any(not math.isfinite(score) for score in self.teacher or ()):
            raise DataError(f"{shown}: teacher scores must be finite, got {list(self.teacher or ())}")

    def take(self, places: Sequence[int]) -> Group:
        """Return a group with the documents at `places`, in that order, with their labels, ids and teacher scores."""

        def chosen(values: tuple) -> tuple:
            return tuple(values[i] for i in places)

        return Group(
            self.query,
            chosen(self.documents),
            chosen(self.labels),
            self.query_id,
            chosen(self.doc_ids) if self.doc_ids else (),
            None if self.teacher is None else chosen(self.teacher),
        )


def normalised(text: str) -> str:
    """Return the lower-case words of a text, joined by single spaces. Punctuation is dropped."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def query_key(query: str) -> str:
    """Return a key that is equal for queries that differ only in case and punctuation. A query without words is its own key."""
    return normalised(query) or query


def near_duplicates(a: frozenset[str], b: frozenset[str]) -> bool:
    """Whether the Jaccard similarity of two word sets is at least `SAME`; False for two empty sets."""
    if min(len(a), len(b)) < SAME * max(len(a), len(b)) or not a:  # a cheap test that excludes most pairs
        return False
    return len(a & b) >= SAME * len(a | b)


def pairs(groups: Sequence[Group]) -> list[Pair]:
    """All (query, document, label) of the groups, in order."""
    return [(group.query, text, label) for group in groups for text, label in zip(group.documents, group.labels)]


def best_labels(groups: Sequence[Group]) -> dict[tuple[str, str], float]:
    """The highest label of each (query, document), in order of first occurrence."""
    best: dict[tuple[str, str], float] = {}
    for query, document, label in pairs(groups):
        best[query, document] = max(label, best.get((query, document), 0.0))
    return best


def list_groups(groups: Sequence[Group], relevant: bool = True) -> list[Group]:
    """Return the groups with at least two documents, one of them relevant if `relevant`. Raises DataError if there are none."""
    kept = [g for g in groups if len(g.documents) >= 2 and (not relevant or max(g.labels) > 0)]
    if not kept:
        raise DataError("no query of the training data has a relevant document and another one; mine negatives first")
    return kept


def sample_lists(groups: Sequence[Group], size: int | Sequence[int], seed: int, epoch: int) -> list[Group]:
    """Sample one list of documents per group, in shuffled order.

    A list takes one relevant document of each grade (higher grades first, at least one, at most half the list), then non-relevant
    documents, then further relevant ones if there is space left. Labels, ids and teacher scores are kept.

    Args:
        groups: training data.
        size: maximum number of documents per list, at least 2; or (minimum, maximum) to sample the size of each list.
        seed, epoch: determine the sample.
    """
    return [lists[0] for lists in sample_blocks([(group,) for group in groups], size, seed, epoch)]


def sample_blocks(blocks: Sequence[tuple[Group, ...]], size: int | Sequence[int], seed: int, epoch: int) -> list[tuple[Group, ...]]:
    """Sample like `sample_lists` from blocks of groups with equal documents. All queries of a block share one sample.

    Args:
        blocks: groups with the same documents, see `same_documents`. A document counts with its highest grade in the block.
        size, seed, epoch: see `sample_lists`.

    Raises:
        DataError: the size is below 2.
    """
    min_size, max_size = (size, size) if isinstance(size, int) else size
    if min_size < 2:
        raise DataError(f"a list needs at least 2 documents, got size {min_size}")
    drawn = []
    for at, block in enumerate(blocks):
        rng = Random(f"lists/{seed}/{epoch}/{at}")
        grades = [max(labels) for labels in zip(*(group.labels for group in block))]
        places = _places(grades, rng.randint(min_size, max_size) if min_size < max_size else max_size, rng)
        rng.shuffle(places)
        drawn.append(tuple(group.take(places) for group in block))
    Random(f"order/{seed}/{epoch}").shuffle(drawn)
    return drawn


def same_documents(groups: Sequence[Group], max_queries: int) -> list[tuple[Group, ...]]:
    """Join groups with the same documents into blocks of at most `max_queries` queries, in order of first occurrence."""
    blocks: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        group = group.take(sorted(range(len(group.documents)), key=lambda i: group.documents[i]))
        blocks.setdefault(group.documents, []).append(group)
    return [tuple(block[i : i + max_queries]) for block in blocks.values() for i in range(0, len(block), max_queries)]


def _places(labels: Sequence[float], size: int, rng: Random) -> list[int]:
    """Indices of the documents for one list, see `sample_lists`."""
    order = rng.sample(range(len(labels)), len(labels))
    seen: set[float] = set()
    first = []
    # The sort is stable, so the random order within a grade stays.
    for i in sorted((i for i in order if labels[i] > 0), key=lambda i: -labels[i]):
        if labels[i] not in seen:
            seen.add(labels[i])
            first.append(i)
    first = first[: max(1, size // 2)]
    others = [i for i in order if labels[i] <= 0]
    more = [i for i in order if labels[i] > 0 and i not in first]
    return (first + others + more)[:size]


def split_groups(groups: Sequence[Group], dev_queries: int, seed: int) -> tuple[list[Group], list[Group]]:
    """Split groups into (training, dev) groups with `dev_queries` dev queries, but at most a quarter of the queries.

    Groups whose queries differ only in case and punctuation stay together. Queries without both a relevant and a non-relevant
    document stay in training, because their ranking cannot be measured.
    """
    by_query = _by_query(groups)
    able = _able(by_query)
    count = min(dev_queries, len(by_query) // 4, len(able))
    return _parted(by_query, set(Random(f"split/{seed}").sample(able, count)))


def fold_groups(groups: Sequence[Group], folds: int, seed: int) -> list[tuple[list[Group], list[Group]]]:
    """Split groups for cross-validation into (training groups, test groups) of each fold.

    Each query whose ranking can be measured is in one test fold; see `split_groups`.
    """
    by_query = _by_query(groups)
    able = _able(by_query)
    mixed = Random(f"folds/{seed}").sample(able, len(able))
    return [_parted(by_query, set(mixed[fold::folds])) for fold in range(folds)]


def _by_query(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Groups by the `query_key` of their query."""
    by_query: dict[str, list[Group]] = {}
    for group in groups:
        by_query.setdefault(query_key(group.query), []).append(group)
    return by_query


def _able(by_query: dict[str, list[Group]]) -> list[str]:
    """Keys of queries with a group that has both a relevant and a non-relevant document, sorted."""
    return sorted(q for q, members in by_query.items() if any(max(g.labels) > 0 and min(g.labels) <= 0 for g in members))


def _parted(by_query: dict[str, list[Group]], held_out: set[str]) -> tuple[list[Group], list[Group]]:
    """(groups of the other queries, groups of the held-out queries)."""
    parts: tuple[list[Group], list[Group]] = ([], [])
    for query, members in by_query.items():
        parts[query in held_out].extend(members)
    return parts
