"""Resolve duplicate labels: each text of a query gets one label, in every file format.

If a file labels a text twice for one query, the highest label wins. Relevant documents were judged, while non-relevant ones are
often sampled without knowing all relevant ones (as in MS MARCO's triples). A warning counts such texts and names the first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from .examples import Group

log = logging.getLogger("prorank")
Key = tuple[str, str]  # (query id or "", query)


@dataclass
class Judgements:
    """Collects the labels of one source, line by line.

    Attributes:
        source: file or collection, for messages.
        labels: highest label by query and text, in order of first occurrence.
        contradictory: (query, text) pairs with several labels.
        first: location and description of the first contradiction.
        repeated: number of texts that occur twice in one list.
    """

    source: str | Path
    labels: dict[Key, dict[str, float]] = field(default_factory=dict)
    contradictory: set[tuple[Key, str]] = field(default_factory=set)
    first: str = ""
    repeated: int = 0

    def add(self, query: Key, text: str, label: float, line: int | str) -> None:
        """Record the label of a text.

        Args:
            query: id and text of the query.
            text: text of the document.
            label: its label.
            line: location, for the warning.
        """
        known = self.labels.setdefault(query, {})
        before = known.setdefault(text, label)
        if before != label:
            self.first = self.first or f"{self.source}:{line} has label {label:g} for {text[:40]!r}, which had {before:g} before"
            self.contradictory.add((query, text))
            known[text] = max(before, label)

    def add_group(self, group: Group, line: int | str) -> None:
        """Record all labels of a list."""
        for text, label in zip(group.documents, group.labels):
            self.add((group.query_id, group.query), text, label, line)

    def settle(self, groups: list[Group]) -> list[Group]:
        """Return the recorded lists with each text once and with its final label, and warn of changes."""
        settled = [self._settled(group) for group in groups]
        self.warn()
        return settled

    def _settled(self, group: Group) -> Group:
        places: dict[str, int] = {}
        for place, text in enumerate(group.documents):
            places.setdefault(text, place)
        self.repeated += len(group.documents) - len(places)
        known = self.labels[group.query_id, group.query]
        labels = tuple(known[text] for text in places)
        if len(places) == len(group.documents) and labels == group.labels:
            return group
        return replace(group.take(list(places.values())), labels=labels)

    def warn(self) -> None:
        """Log how many texts have several labels, and how many are repeated within a list."""
        if self.contradictory:
            many = "1 text has" if len(self.contradictory) == 1 else f"{len(self.contradictory)} texts have"
            log.warning("%s: %s different labels for the same query; the highest is used. First: %s", self.source, many, self.first)
        if self.repeated:
            many = "1 text comes" if self.repeated == 1 else f"{self.repeated} texts come"
            log.warning("%s: %s twice in the same list; each is used once", self.source, many)


def settled_lists(path: Path, rows: Iterable[tuple[int, dict]], read: Callable[[dict, str], Group]) -> list[Group]:
    """Read lists and resolve their labels.

    Args:
        path: the file, for messages.
        rows: (line number, JSON object) of each line.
        read: makes a group of an object and its file:line.
    """
    judgements, groups = Judgements(path), []
    for number, row in rows:
        groups.append(read(row, f"{path}:{number}"))
        judgements.add_group(groups[-1], number)
    return judgements.settle(groups)
