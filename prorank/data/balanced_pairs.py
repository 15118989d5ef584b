"""The prompts of a warm-up: relevant and other documents in equal numbers, within each query."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from random import Random
from typing import Any

from ..errors import DataError
from .examples import Group, Pair, best_labels

log = logging.getLogger("prorank")


def balanced_pairs(groups: Sequence[Group], seed: int) -> list[Pair]:
    """Sample the prompts of a warm-up: relevant and non-relevant pairs in equal numbers.

    Of every two consecutive pairs one is relevant, and both have the same query, so neither a query nor a collection gives a label
    away. Each (query, document) pair has its highest label. The smaller class of a query is repeated, shuffled again each time,
    until all pairs of its larger class were used; repetitions come after all first uses. Queries that have one class only are
    paired with each other, if there are both kinds, and left out with a warning otherwise. `seed` determines the order.

    Raises:
        DataError: there are no relevant or no non-relevant documents.
    """
    sides: dict[str, tuple[list[Pair], list[Pair]]] = {}
    for (query, document), label in best_labels(groups).items():
        sides.setdefault(query, ([], []))[label > 0].append((query, document, label))
    for relevant, name in ((True, "relevant (label > 0)"), (False, "non-relevant (label 0)")):
        if not any(side[relevant] for side in sides.values()):
            raise DataError(f"the training data has no {name} documents, but the warm-up needs both kinds: see `prorank mine`")
    both = [side for side in sides.values() if all(side)]
    one_sided = [side for side in sides.values() if not all(side)]
    rest = [pair for others, _ in one_sided for pair in others], [pair for _, relevant in one_sided for pair in relevant]
    if all(rest):
        both.append(rest)
    elif any(rest):
        kind = "relevant" if rest[1] else "non-relevant"
        log.warning("%d pairs are not used: their queries have %s documents only", len(rest[0]) + len(rest[1]), kind)
    rng = Random(f"balanced/{seed}")
    rounds: list[list[list[Pair]]] = []
    for side in both:
        for number, row in enumerate(_rows(side, rng)):
            use = number // min(map(len, side))
            rounds += [[] for _ in range(use + 1 - len(rounds))]
            rounds[use].append(row)
    return [pair for rows in rounds for row in rng.sample(rows, len(rows)) for pair in row]


def _rows(sides: tuple[list[Pair], list[Pair]], rng: Random) -> list[list[Pair]]:
    """Rows of one pair of each side in random order, as many as the larger side has."""
    length = max(map(len, sides))
    rows = zip(*(cycled(side, length, rng) for side in sides))
    return [rng.sample(row, len(row)) for row in rows]


def cycled(items: Sequence[Any], length: int, rng: Random) -> list[Any]:
    """Return `length` items: repeated passes over `items`, each shuffled, the last one truncated."""
    out: list[Any] = []
    while len(out) < length:
        out += rng.sample(items, len(items))
    return out[:length]
