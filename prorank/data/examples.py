"""Training examples: groups of one query's candidate documents, and the deterministic draws that the stages train on.

Every draw is seeded by a string (seed, epoch, place), which `random` hashes with SHA-512: the same in every
process, whatever PYTHONHASHSEED is, so a resumed run sees the same lists as an uninterrupted one.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from ..errors import DataError

Pair = tuple[str, str, float]
SAME = 0.8  # share of common words from which two texts count as near-duplicates


@dataclass(frozen=True)
class Group:
    """One query with candidate documents.

    Attributes:
        query: query text, not blank.
        documents: candidate texts, at least one; a text may be empty.
        labels: a graded label >= 0 for each document; > 0 is relevant.
        query_id: id in the source, or "".
        doc_ids: ids in the source, one a document, or ().
        teacher: teacher scores, one a document, on any scale; None if there are none.

    Raises:
        DataError: lengths differ, the query is blank, a label is negative or not finite, a score is not finite.
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
        """The group with the documents at `places`, in that order; labels, ids and teacher scores go with them."""

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
    """Lower-case words joined by single blanks: texts that differ in case, marks or white space only become equal."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def query_key(query: str) -> str:
    """What equal queries share, whatever their case and marks; a query of marks alone is its own."""
    return normalised(query) or query


def near_duplicates(a: frozenset[str], b: frozenset[str]) -> bool:
    """Whether two word sets share at least `SAME` of all their words (two empty ones do not)."""
    if min(len(a), len(b)) < SAME * max(len(a), len(b)) or not a:  # sizes alone rule most pairs out
        return False
    return len(a & b) >= SAME * len(a | b)


def pairs(groups: Sequence[Group]) -> list[Pair]:
    """All (query, document, label) of the groups, in order."""
    return [(group.query, text, label) for group in groups for text, label in zip(group.documents, group.labels)]


def best_labels(groups: Sequence[Group]) -> dict[tuple[str, str], float]:
    """The highest label of each (query, document), in order."""
    best: dict[tuple[str, str], float] = {}
    for query, document, label in pairs(groups):
        best[query, document] = max(label, best.get((query, document), 0.0))
    return best


def balanced_pairs(groups: Sequence[Group], seed: int) -> list[Pair]:
    """Warm-up prompts: shuffled pairs, one relevant and one not in every two, so every prefix is balanced within one.

    A (query, document) pair comes once, with its highest label; the scarcer side is gone through again, newly shuffled,
    only when all its pairs have come. The list ends when every pair of the other side has come, too.

    Args:
        groups: training data.
        seed: of the order.

    Raises:
        DataError: no relevant or no other document in the groups.
    """
    best = best_labels(groups)
    sides = [[(q, d, label) for (q, d), label in best.items() if (label > 0) == relevant] for relevant in (True, False)]
    for side, name in zip(sides, ("relevant (label > 0)", "non-relevant (label 0)")):
        if not side:
            raise DataError(f"the training data has no {name} documents, the warm-up needs both: see `prorank mine`")
    rng = Random(f"balanced/{seed}")
    length = max(map(len, sides))
    columns = [cycled(side, length, rng) for side in sides]
    rows = [list(row) for row in zip(*columns)]
    for row in rows:
        rng.shuffle(row)
    return [pair for row in rows for pair in row]


def cycled(items: Sequence[Any], length: int, rng: Random) -> list[Any]:
    """`length` items: whole shuffled passes over them, the last one cut."""
    out: list[Any] = []
    while len(out) < length:
        out += rng.sample(items, len(items))
    return out[:length]


def list_groups(groups: Sequence[Group], relevant: bool = True) -> list[Group]:
    """Groups that a list can be drawn from: two documents, one of them relevant if wanted. Raises DataError if there are none."""
    kept = [g for g in groups if len(g.documents) >= 2 and (not relevant or max(g.labels) > 0)]
    if not kept:
        raise DataError("no query of the training data has a relevant document and another one; mine negatives first")
    return kept


def sample_lists(groups: Sequence[Group], size: int | Sequence[int], seed: int, epoch: int) -> list[Group]:
    """One list of at most `size` documents for every group, groups and documents in shuffled order.

    A list takes one relevant document of every grade there is (higher grades first, at most half the list, at least
    one), then non-relevant ones, then more relevant ones if places are left. Labels, ids and teacher scores go along.

    Args:
        groups: training data.
        size: documents a list, at least 2; or (least, most), of which each list draws its own.
        seed, epoch: choose the draw; the same two give the same lists in every process.
    """
    return [lists[0] for lists in sample_blocks([(group,) for group in groups], size, seed, epoch)]


def sample_blocks(blocks: Sequence[tuple[Group, ...]], size: int | Sequence[int], seed: int, epoch: int) -> list[tuple[Group, ...]]:
    """As `sample_lists`, of groups that have the same documents: one draw for all queries of a block, where a document has the
    highest grade that a query gives it."""
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
    """Groups with the same documents together, at most `max_queries` queries in a block, in the order of their first ones."""
    blocks: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        group = group.take(sorted(range(len(group.documents)), key=lambda i: group.documents[i]))
        blocks.setdefault(group.documents, []).append(group)
    return [tuple(block[i : i + max_queries]) for block in blocks.values() for i in range(0, len(block), max_queries)]


def _places(labels: Sequence[float], size: int, rng: Random) -> list[int]:
    """Places of the documents for one list, see `sample_lists`."""
    order = rng.sample(range(len(labels)), len(labels))
    seen: set[float] = set()
    first = []
    # The sort is stable, so it keeps the draw within a grade.
    for i in sorted((i for i in order if labels[i] > 0), key=lambda i: -labels[i]):
        if labels[i] not in seen:
            seen.add(labels[i])
            first.append(i)
    first = first[: max(1, size // 2)]
    others = [i for i in order if labels[i] <= 0]
    more = [i for i in order if labels[i] > 0 and i not in first]
    return (first + others + more)[:size]


def split_groups(groups: Sequence[Group], dev_queries: int, seed: int) -> tuple[list[Group], list[Group]]:
    """(training groups, dev groups): `dev_queries` queries, but at most a quarter of them, are held out.

    Groups whose queries are equal but for case and punctuation stay together. Queries without a relevant and a
    non-relevant document tell nothing about order and stay in training.
    """
    by_query = _by_query(groups)
    able = _able(by_query)
    count = min(dev_queries, len(by_query) // 4, len(able))
    return _parted(by_query, set(Random(f"split/{seed}").sample(able, count)))


def fold_groups(groups: Sequence[Group], folds: int, seed: int) -> list[tuple[list[Group], list[Group]]]:
    """(training groups, held-out groups) of each fold: every query that tells something about order is held out once, equal ones
    together, and the others are never."""
    by_query = _by_query(groups)
    able = _able(by_query)
    mixed = Random(f"folds/{seed}").sample(able, len(able))
    return [_parted(by_query, set(mixed[fold::folds])) for fold in range(folds)]


def _by_query(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Groups by what `query_key` makes of their queries."""
    by_query: dict[str, list[Group]] = {}
    for group in groups:
        by_query.setdefault(query_key(group.query), []).append(group)
    return by_query


def _able(by_query: dict[str, list[Group]]) -> list[str]:
    """Queries with a relevant and a non-relevant document in one group, in alphabetical order."""
    return sorted(q for q, members in by_query.items() if any(max(g.labels) > 0 and min(g.labels) <= 0 for g in members))


def _parted(by_query: dict[str, list[Group]], held_out: set[str]) -> tuple[list[Group], list[Group]]:
    """(groups of other queries, groups of those held out)."""
    parts: tuple[list[Group], list[Group]] = ([], [])
    for query, members in by_query.items():
        parts[query in held_out].extend(members)
    return parts
