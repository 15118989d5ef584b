"""The scores of documents that are read in one prompt or, if they are long, in several: that of the best prompt counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ..engine.batches import WINDOW
from ..prompts.encoded import Encoded
from .strategy import ScoredLists


class ChunkScores:
    """Numbers prompts, and collects their scores by document."""

    def __init__(self) -> None:
        self._document_of: list[int] = []  # of each prompt
        self._left: list[int] = []  # prompts of each document without a score
        self._best: list[float] = []

    def parts(self, queries: Iterable[Sequence[Sequence[Encoded]]]) -> Iterator[tuple[int, list[Encoded]]]:
        """Yield (number of the first prompt, at most `WINDOW` prompts), see `engine.batches`.

        Args:
            queries: documents of one query each; a document is the sequence of its prompts.
        """
        for documents in queries:
            prompts: list[Encoded] = []
            for chunks in documents:
                self._document_of += [len(self._left)] * len(chunks)
                self._left.append(len(chunks))
                self._best.append(-np.inf)
                prompts += chunks
            first = len(self._document_of) - len(prompts)
            for start in range(0, len(prompts), WINDOW):
                yield first + start, prompts[start : start + WINDOW]

    def add(self, numbers: Iterable[int], scores: Iterable[float]) -> int:
        """Store scores of prompts. Returns the number of documents whose last prompt was among them."""
        finished = 0
        for number, score in zip(numbers, scores, strict=True):
            document = self._document_of[number]
            if score > self._best[document] or score != score:  # NaN stays, so that it is reported
                self._best[document] = score
            self._left[document] -= 1
            finished += self._left[document] == 0
        return finished

    def scored_lists(self, sizes: Sequence[int]) -> ScoredLists:
        """Return the documents' scores, for lists with these numbers of documents."""
        best = np.array(self._best, np.float32)
        return ScoredLists.without_thoughts(np.split(best, np.cumsum(sizes)[:-1]) if sizes else [])
