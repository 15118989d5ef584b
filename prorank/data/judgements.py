"""One label for each text of a query, whatever the form of the file.

A text that a file labels twice for one query gets the highest label. Relevant documents are judged, while the others are often
drawn by a machine that did not know all relevant ones, as in MS MARCO's triples. A warning counts such texts and names the first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from .examples import Group

log = logging.getLogger("prorank")
Key = tuple[str, str]  # query id, or "", and query


@dataclass
class Judgements:
    """The labels of one source, gathered line by line.

    Attributes:
        source: file or collection, for messages.
        labels: highest label by query and text, in the order in which they first come.
        contradictory: (query, text) with more than one label.
        first: where the first contradiction is and what it is.
        repeated: texts that come again in the list that holds them already.
    """

    source: str | Path
    labels: dict[Key, dict[str, float]] = field(default_factory=dict)
    contradictory: set[tuple[Key, str]] = field(default_factory=set)
    first: str = ""
    repeated: int = 0

    def add(self, query: Key, text: str, label: float, line: int | str) -> None:
        """Note that `line` gives a text this label."""
        known = self.labels.setdefault(query, {})
        before = known.setdefault(text, label)
        if before != label:
            self.first = self.first or f"{self.source}:{line} has label {label:g} for {text[:40]!r}, which had {before:g} before"
            self.contradictory.add((query, text))
            known[text] = max(before, label)

    def add_group(self, group: Group, line: int | str) -> None:
        """Note all labels of a list."""
        for text, label in zip(group.documents, group.labels):
            self.add((group.query_id, group.query), text, label, line)

    def settle(self, groups: list[Group]) -> list[Group]:
        """The lists that were added, each text once in a list and with its label; then warn of what was changed."""
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
        """Say how many texts have several labels, and how many come again."""
        if self.contradictory:
            many = "1 text has" if len(self.contradictory) == 1 else f"{len(self.contradictory)} texts have"
            log.warning("%s: %s different labels for the same query; the highest is used. First: %s", self.source, many, self.first)
        if self.repeated:
            many = "1 text comes" if self.repeated == 1 else f"{self.repeated} texts come"
            log.warning("%s: %s again in the same list; each is used once", self.source, many)


def settled_lists(path: Path, rows: Iterable[tuple[int, dict]], read: Callable[[dict, str], Group]) -> list[Group]:
    """The list that `read` makes of each line's object, given its file:line; each text with one label, see `Judgements`."""
    judgements, groups = Judgements(path), []
    for number, row in rows:
        groups.append(read(row, f"{path}:{number}"))
        judgements.add_group(groups[-1], number)
    return judgements.settle(groups)
