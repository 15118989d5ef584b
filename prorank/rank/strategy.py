"""The interface of ranking strategies: how a model turns queries and their documents into scores.

A `Reranker` holds one strategy:

    PointwiseStrategy    one forward pass per document, log-odds of the two answers
    ThinkingStrategy     generates a thought about each document, then reads the log-odds
    ThinkingHeadStrategy scores all documents directly, then thinks about the best of them
    ListStrategy         shows several documents in one prompt, gives an order without log-odds
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from ..errors import ConfigError
from ..prompts.prompt import AnyPromptEncoder, Encoded
from ..prompts.truncation import DEFAULT_TRUNCATION, Truncation
from .documents import GeneratedThought
from .model_runtime import ModelRuntime
from .score_diagnostics import Diagnosis

Progress = Callable[[int], None]  # called with the number of documents that were scored since its last call


@dataclass(frozen=True)
class ScoredLists:
    """Scores of several queries' documents.

    Attributes:
        scores: one fp32 array [n] per query, in input order.
        thoughts: one sequence per query, in input order; empty if the strategy does not think. None for a document that was not
            thought about.
    """

    scores: list[np.ndarray]
    thoughts: list[Sequence[GeneratedThought | None]]

    @classmethod
    def without_thoughts(cls, scores: list[np.ndarray]) -> ScoredLists:
        """Return scores of a strategy that does not think."""
        return cls(scores, [()] * len(scores))

    def tie_equal_texts(self, texts: Sequence[Sequence[str]]) -> ScoredLists:
        """Give equal texts of a query the score and the thought of the first of them.

        Their positions in the batches differ, so their scores would differ by rounding.
        """
        scores: list[np.ndarray] = []
        thoughts: list[Sequence[GeneratedThought | None]] = []
        for row, row_thoughts, row_texts in zip(self.scores, self.thoughts, texts, strict=True):
            first: dict[str, int] = {}
            positions = [first.setdefault(text, i) for i, text in enumerate(row_texts)]
            scores.append(row[positions])
            thoughts.append([row_thoughts[i] for i in positions] if row_thoughts else ())
        return ScoredLists(scores, thoughts)


class EncodedQuery(NamedTuple):
    """The prompts of one query, and a key for each that seeds its sampling (see `thinking.sampling_key`)."""

    prompts: Sequence[Encoded]
    keys: Sequence[str]


class RankingStrategy(ABC):
    """Base class of ranking strategies.

    Attributes:
        runtime: the model.
        encoder: the prompt, bound to the model's tokenizer.
        thinks: whether it generates a thought about each document.
        compares_documents: whether prompts show several documents, so that a score is minus the position in the order.
        truncation: how long documents are read.
    """

    thinks: ClassVar[bool] = False
    compares_documents: ClassVar[bool] = False
    truncation: Truncation = DEFAULT_TRUNCATION
    runtime: ModelRuntime
    encoder: AnyPromptEncoder

    @abstractmethod
    def score(
        self, queries: Sequence[str], texts: Sequence[list[str]], instruction: str | None = None, batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> ScoredLists:  # fmt: skip
        """Score each query's texts.

        Args:
            queries: checked queries, see `validation.validate_batch`.
            texts: the texts of each query's documents.
            instruction: replaces the prompt's own; None keeps it.
            batch_size: maximum number of documents in a forward pass; None chooses by tokens. Some strategies ignore it.
            progress: called with the number of documents scored since its last call.
        """

    @property
    def prompt_fingerprint(self) -> str:
        """Identifies how documents are shown to the model; a calibration is valid for one value of it."""
        return self.encoder.prompt.fingerprint()

    @property
    def settings(self) -> list[str]:
        """Settings besides model and prompt that change scores; part of a Reranker's fingerprint."""
        return []

    def score_encoded(self, lists: Sequence[tuple[Sequence[Encoded], Sequence[str]]]) -> ScoredLists:
        """Score prompts that `encoder` has encoded; nothing is counted or checked. See `EncodedQuery`.

        Raises:
            ConfigError: the strategy compares documents, so single prompts have no score.
        """
        raise ConfigError("a method of lists cannot score single prompts; use method pointwise")

    def diagnose(self, queries: Sequence[str], texts: Sequence[list[str]]) -> Diagnosis:
        """Inspect the model at the answer position of every pair.

        Raises:
            ConfigError: the strategy compares documents, so there is no answer of yes or no.
        """
        raise ConfigError("a method of lists has no answer per document to diagnose; use method pointwise")
