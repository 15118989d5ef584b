"""Thinking about the head of a list only: a direct pass over all documents, then thoughts about the best of them.

A thought costs as much as dozens of direct answers, and only the head of a list is read. The direct pass uses the same weights
behind an empty thought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import ConfigError
from ..prompts.pair_encoder import Encoded, PairPromptEncoder
from .documents import GeneratedThought
from .score_diagnostics import Diagnosis
from .strategy import Progress, RankingStrategy, ScoredLists
from .thinking import ThinkingStrategy


class ThinkingHeadStrategy(RankingStrategy):
    """Scores all documents directly, then the best `head` of each query after a thought.

    The head keeps its log-odds behind the thoughts. The other documents follow in the order of their direct log-odds, which are
    lowered by a constant per query where the best of them would not be below the head.

    Args:
        thinking: generates the thoughts.
        head: number of documents per query that are thought about.

    Raises:
        ConfigError: `head` is below 1.
    """

    thinks = True
    encoder: PairPromptEncoder

    def __init__(self, thinking: ThinkingStrategy, head: int) -> None:
        if head < 1:
            raise ConfigError(f"think_top must be at least 1, not {head}")
        self.thinking, self.head = thinking, head
        self.runtime, self.encoder = thinking.runtime, thinking.encoder

    @property
    def prompt_fingerprint(self) -> str:
        """See `RankingStrategy.prompt_fingerprint`; the size of the head is part of it."""
        return f"{self.thinking.prompt_fingerprint}, head of {self.head}"

    @property
    def settings(self) -> list[str]:
        """See `RankingStrategy.settings`."""
        return [*self.thinking.settings, f"head of {self.head}"]

    def score(
        self, queries: Sequence[str], texts: Sequence[list[str]], instruction: str | None = None, batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> ScoredLists:  # fmt: skip
        """See `RankingStrategy.score`; `batch_size` has no effect."""
        lists = [self.thinking.encode(query, row, instruction) for query, row in zip(queries, texts)]
        return self.score_encoded(lists, progress).tie_equal_texts(texts)

    def score_encoded(
        self, lists: Sequence[tuple[Sequence[Encoded], Sequence[str]]], progress: Progress | None = None
    ) -> ScoredLists:
        """See `RankingStrategy.score_encoded`. Documents outside the head have no thought."""
        direct = self.thinking.without_thought.score_encoded([(self._direct(prompts), keys) for prompts, keys in lists])
        heads = [np.argsort(-row, kind="stable")[: self.head] for row in direct.scores]
        if progress:
            progress(sum(map(len, direct.scores)) - sum(map(len, heads)))
        chosen = [([prompts[i] for i in head], [keys[i] for i in head]) for (prompts, keys), head in zip(lists, heads)]
        for prompts, _ in chosen:
            self.runtime.cost.count_prompts(prompts)  # they are read a second time
        thought = self.thinking.score_encoded(chosen, progress)
        scores = [merged(*row) for row in zip(direct.scores, heads, thought.scores)]
        return ScoredLists(scores, [_placed(*row) for row in zip(direct.scores, heads, thought.thoughts)])

    def diagnose(self, queries: Sequence[str], texts: Sequence[list[str]]) -> Diagnosis:
        """See `RankingStrategy.diagnose`; the answer follows an empty thought."""
        return self.thinking.diagnose(queries, texts)

    def _direct(self, prompts: Sequence[Encoded]) -> list[Encoded]:
        """Return the prompts with an empty thought."""
        closed = [*self.encoder.opener, *self.encoder.shut]
        return [replace(prompt, ids=prompt.ids + closed) for prompt in prompts]


def merged(direct: np.ndarray, head: np.ndarray, thought: np.ndarray) -> np.ndarray:
    """Return the scores [n] of a list whose head has scores of its own.

    Args:
        direct: direct log-odds [n].
        head: indices [h] of the head.
        thought: log-odds [h] of the head behind thoughts.
    """
    scores = direct.astype(np.float32)
    rest = np.setdiff1d(np.arange(len(direct)), head)
    if len(rest) and len(head):
        limit = np.nextafter(thought.min(), np.float32(-np.inf), dtype=np.float32)
        scores[rest] = np.minimum(scores[rest] - max(0.0, scores[rest].max() - limit), limit)
    scores[head] = thought
    return scores


def _placed(direct: np.ndarray, head: np.ndarray, thoughts: Sequence[GeneratedThought | None]) -> list[GeneratedThought | None]:
    """Return the thoughts at the places of their documents, None for the others."""
    placed: list[GeneratedThought | None] = [None] * len(direct)
    for index, thought in zip(head, thoughts):
        placed[index] = thought
    return placed
