"""A request at work: its texts, and what the model has said of them so far.

A text that a list repeats is read once, so equal documents get equal scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..rank.documents import GeneratedThought
from .messages import RequestError, RerankQuery
from .queue import Job


class Request(Job):
    """A job with its Ask and what is known of it so far.

    `texts`: of each list, without repeats if `distinct`; `same`: which of them each document is. `scores`, `thoughts` and `cut` are
    about `texts`.
    """

    def __init__(self, ask: RerankQuery, finish: Callable[[Exception | None], None], distinct: bool = True) -> None:
        super().__init__(finish)
        self.ask, self.tokens = ask, 0
        self.texts = [list(dict.fromkeys(documents)) if distinct else list(documents) for _, documents in ask.lists]
        places = [{text: at for at, text in enumerate(some)} for some in self.texts]
        self.same = [
            [place[text] for text in documents] if distinct else list(range(len(documents)))
            for place, (_, documents) in zip(places, ask.lists)
        ]
        self.scores = [np.full(len(some), -np.inf, np.float32) for some in self.texts]
        self.thoughts: list[list[GeneratedThought | None]] = [[None] * len(some) for some in self.texts]
        self.cut: list[set[int]] = [set() for _ in self.texts]
        self.queries_cut: set[int] = set()
        self.sorters: dict[int, Any] = {}  # of lists that are ordered by comparisons

    def by_document(self, values: Sequence[Any] | np.ndarray, number: int) -> list[Any]:
        """What is known of a list's texts, for each of its documents."""
        return [values[place] for place in self.same[number]]

    def heard(self, number: int, cut: Iterable[int], query_cut: bool, tokens: int) -> None:
        """Note what a prompt cost, and what was cut for it; a request that forbids that is refused."""
        self.cut[number].update(cut)
        self.tokens += tokens
        if query_cut:
            self.queries_cut.add(number)
        if self.ask.whole and (self.cut[number] or query_cut):
            raise RequestError(
                "invalid", "a text is longer than the model reads, and cutting it was forbidden; shorten or allow it"
            )
