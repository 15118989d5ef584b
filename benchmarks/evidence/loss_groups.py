"""Group the lists that a model orders worse than the first stage, by computed features.

A loss is described by one pair of documents: the relevant one whose lower rank cost most nDCG@10, and the highest ranked document
with a lower label that passed it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prorank.evaluate.gains import gains_of

DEPTH = 10
ASKING = re.compile(
    r"(who|whose|what|when|where|why|which|how|is|are|was|were|do|does|did|can|could|should|would|will|has|have|must)\b", re.I
)
NAME = re.compile(r"(?<=\S\s)[A-Z][\w-]*")  # a capitalised word within the text
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Facts:
    """Features of a list. The texts of the pair are None if no document passed a relevant one.

    Attributes:
        query, lost, seen, passed: texts of the query, the relevant document that fell, its part in the prompt, and the document
            that passed it.
        terms: stemmed words by text.
        spread: number of candidates of the list that contain a term.
        before: the first stage's nDCG@10.
        lead: difference of the scores of the passing and the lost document.
        label: label of the passing document, None if it is not judged.
    """

    query: str
    before: float
    terms: Mapping[str, frozenset[str]]
    spread: Mapping[str, int]
    lost: str | None = None
    seen: str = ""
    passed: str = ""
    lead: float = 0.0
    label: int | None = None

    def matched(self, text: str) -> frozenset[str]:
        """Return the terms of the query that a text contains."""
        return self.terms[self.query] & self.terms[text]


def gain_lost(first: Sequence[str], now: Sequence[str], document: str, label: int) -> float:
    """Return the decrease of a document's discounted gain from one order to the other; negative if it rises."""

    def gain(order: Sequence[str]) -> float:
        place = order.index(document)
        return float(gains_of([label])[0]) / math.log2(place + 2) if place < DEPTH else 0.0

    return gain(first) - gain(now)


def pair_of_loss(first: Sequence[str], now: Sequence[str], labels: Mapping[str, int]) -> tuple[str, str] | None:
    """Return (relevant document whose lower rank cost most, highest ranked one with a lower label that passed it), or None.

    There is a pair whenever the gain of the list decreased: if no document passed one with a higher label, the documents with any
    label or more are ranked at least as high as before.

    Args:
        first, now: document ids in the order of the first stage and of the model.
        labels: labels of judged documents.
    """
    falls = {d: gain_lost(first, now, d, labels[d]) for d in first if labels.get(d, 0) > 0}
    for lost in sorted(falls, key=lambda d: -falls[d]):
        above = set(first[: first.index(lost)])
        past = [d for d in now[: now.index(lost)] if d not in above and labels.get(d, 0) < labels[lost]]
        if past:
            return lost, past[0]
    return None


def is_question(query: str) -> bool:
    return query.rstrip().endswith("?") or bool(ASKING.match(query.strip()))


def _words(facts: Facts) -> int:
    return len(re.findall(r"\w+", facts.query))


def _rarest_missing(facts: Facts) -> bool:
    """Whether the rarest query term of the lost document does not occur in the one that passed it."""
    matched = facts.matched(facts.lost)
    return bool(matched) and min(sorted(matched), key=lambda t: facts.spread.get(t, 0)) not in facts.terms[facts.passed]


def _number_missing(facts: Facts) -> bool:
    wanted = set(NUMBER.findall(facts.query)) & set(NUMBER.findall(facts.lost))
    return bool(wanted - set(NUMBER.findall(facts.passed)))


# Groups of lists, by name. A list may be in several.
OF_QUERY: dict[str, Callable[[Facts], bool]] = {
    "query of up to 3 words": lambda f: _words(f) <= 3,
    "query of 10 words or more": lambda f: _words(f) >= 10,
    "question": lambda f: is_question(f.query),
    "statement": lambda f: not is_question(f.query) and f.query.rstrip().endswith("."),
    "number in the query": lambda f: bool(NUMBER.search(f.query)),
    "name in the query": lambda f: not f.query.isupper() and bool(NAME.search(f.query)),
    "first stage at .9 or above": lambda f: f.before >= 0.9,
}
# Groups of pairs: the relevant document that was lost, and the one that passed it.
OF_PAIR: dict[str, Callable[[Facts], bool]] = {
    "lost document cut": lambda f: f.seen != f.lost,
    "match behind the cut": lambda f: bool(f.matched(f.lost) - f.matched(f.seen)),
    "passed by one with fewer terms": lambda f: len(f.matched(f.passed)) < len(f.matched(f.lost)),
    "passed by one with more terms": lambda f: len(f.matched(f.passed)) > len(f.matched(f.lost)),
    "passed without the rarest term": _rarest_missing,
    "passed without the number": _number_missing,
    "passed by an unjudged one": lambda f: f.label is None,
    "passed by a less relevant one": lambda f: bool(f.label),
    "passed by one less than half as long": lambda f: len(f.passed) < len(f.lost) / 2,
    "lost document shares no term": lambda f: not f.matched(f.lost),
    "lead below .5": lambda f: f.lead < 0.5,
}


def groups_of(facts: Facts) -> list[str]:
    """Names of the groups a list is in."""
    checks = OF_QUERY | (OF_PAIR if facts.lost is not None else {})
    return [name for name, holds in checks.items() if holds(facts)]


def counts(cases: Sequence[tuple[Sequence[str], bool]]) -> Counter[str]:
    """How many cases (groups, whether there is a pair) are in each group; "lists" and "pairs" are how many there are."""
    tally = Counter(name for groups, _ in cases for name in groups)
    return tally | Counter(lists=len(cases), pairs=sum(pair for _, pair in cases))
