"""A rerank request in progress: its texts, and the results so far.

Equal texts of a list are scored once, so equal documents get equal scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..rank.documents import GeneratedThought
from .messages import RequestError, RerankQuery
from .queue import Job

MAX_CHARS_PER_TOKEN = 256  # upper bound on characters per token, used to pre-truncate texts before tokenising


class RerankJob(Job):
    """A job for a RerankQuery, with its results so far.

    Args:
        rerank_query: the request.
        finish: see `Job`.
        deduplicate: score equal texts of a list once.

    Attributes:
        texts: texts to score, one list per query.
        text_indices: for each list, the index into `texts` of each document.
        scores, thoughts, truncated: results for each of `texts`.
        stored: indices of the texts of each list whose keys and values were stored.
        truncated_queries: indices of the lists whose query was truncated.
        sorters: for each list that is ordered by comparisons, the generator of its next question.
    """

    def __init__(self, rerank_query: RerankQuery, finish: Callable[[Exception | None], None], deduplicate: bool = True) -> None:
        super().__init__(finish)
        self.rerank_query, self.tokens = rerank_query, 0
        self.texts = [list(dict.fromkeys(documents)) if deduplicate else list(documents) for _, documents in rerank_query.lists]
        self.text_indices = [
            _indices(texts, documents) if deduplicate else list(range(len(documents)))
            for texts, (_, documents) in zip(self.texts, rerank_query.lists)
        ]
        self.scores = [np.full(len(texts), -np.inf, np.float32) for texts in self.texts]
        self.thoughts: list[list[GeneratedThought | None]] = [[None] * len(texts) for texts in self.texts]
        self.truncated: list[set[int]] = [set() for _ in self.texts]
        self.stored: list[set[int]] = [set() for _ in self.texts]
        self.truncated_queries: set[int] = set()
        self.sorters: dict[int, Any] = {}

    def by_document(self, values: Sequence[Any] | np.ndarray, list_index: int) -> list[Any]:
        """Expand values of the texts of list `list_index` to one value per document."""
        return [values[at] for at in self.text_indices[list_index]]

    def record_prompts(self, list_index: int, truncated: Iterable[int], query_truncated: bool, tokens: int) -> None:
        """Record tokens and truncation of prompts.

        Args:
            list_index: index of the list.
            truncated: indices of its truncated texts.
            query_truncated: whether its query was truncated.
            tokens: number of tokens of the prompts.

        Raises:
            RequestError: something was truncated although the request forbids it.
        """
        self.truncated[list_index].update(truncated)
        self.tokens += tokens
        if query_truncated:
            self.truncated_queries.add(list_index)
        if self.rerank_query.refuse_truncation and (self.truncated[list_index] or query_truncated):
            message = "a text is too long for the model, and truncation is switched off; shorten the text or allow truncation"
            raise RequestError("invalid", message)


def _indices(texts: list[str], documents: list[str]) -> list[int]:
    index = {text: at for at, text in enumerate(texts)}
    return [index[text] for text in documents]


def pre_truncate(text: str, max_characters: int, side: str) -> str:
    """Drop characters that are certainly truncated. `side`: the truncated side."""
    return text[:max_characters] if side == "right" else text[-max_characters:]
