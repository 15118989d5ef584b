"""BaseReranker: scores lists of documents with a model in memory and one ranking strategy.

Calls from several threads take turns, and a forked process computes with one thread (see `utils.forking`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ..checkpoints.calibration import Calibration
from ..checkpoints.resolve import Resolved
from ..engine.auto import Choice
from ..engine.kernels import Kernels
from ..errors import ModelError
from ..prompts.prompt import AnyPromptEncoder, Encoded, Prompt
from ..utils.forking import survive_forks
from .documents import Document
from .identity import RankerIdentity
from .lazy_compile import GpuLazyCompile, LazyCompile
from .likelihood import query_likelihood
from .model_runtime import ModelRuntime
from .score_diagnostics import Diagnosis
from .strategy import RankingStrategy, ScoredLists
from .validation import QueryBatch, RankOptions, check_finite, validate_batch


@dataclass(frozen=True)
class LoadedReranker:
    """The parts of a Reranker.

    Attributes:
        name: name of the model in messages.
        runtime: the model with its tokenizer and engine.
        strategy: how documents are scored.
        source: where the weights were loaded from; None for a model in memory, whose weights may change.
        dtype: the dtype that was chosen, and why; None for a model in memory.
        lazy_compile: compiles the engine's steps once a call is long enough; None never compiles.
    """

    name: str
    runtime: ModelRuntime
    strategy: RankingStrategy
    source: Resolved | None = None
    dtype: Choice | None = None
    lazy_compile: LazyCompile | GpuLazyCompile | None = None


class BaseReranker:
    """Scores documents with one strategy.

    Attributes:
        name: name of the model in messages.
        strategy: how documents are scored.
        model, tokenizer, device: the model in memory. On a CPU, plain Llama and Qwen2 checkpoints are a
            `engine.light_model.LightModel`, which computes hidden states and logits of texts without padding and can be saved
            (`checkpoints.saving.save_checkpoint`), but not trained; `checkpoints.loading.load_model` loads transformers' model.
        cuts: counts of truncated texts over all calls.
        cost: prompts, tokens and seconds, counted over all calls.
        lock: held while the model computes.
    """

    def __init__(self, loaded: LoadedReranker) -> None:
        self.name, self.strategy, self.runtime = loaded.name, loaded.strategy, loaded.runtime
        self.model, self.tokenizer, self.device = loaded.runtime.model, loaded.runtime.tokenizer, loaded.runtime.device
        self.cuts, self.cost, self.lock = loaded.runtime.cuts, loaded.runtime.cost, threading.RLock()
        self._identity = RankerIdentity(loaded.source, loaded.strategy)
        self._dtype, self._lazy_compile = loaded.dtype, loaded.lazy_compile
        self._forked = False  # whether this process is a fork of the one that loaded the model
        survive_forks(self)

    @property
    def encoder(self) -> AnyPromptEncoder:
        """The prompt joined with the tokenizer: encodes the documents that the strategy scores."""
        return self.strategy.encoder

    @property
    def prompt(self) -> Prompt:
        """The prompt's settings, with its template resolved for the tokenizer."""
        return Prompt.of(self.encoder.prompt)

    @property
    def thinks(self) -> bool:
        """Whether the model generates a thought about each document before it answers."""
        return self.strategy.thinks

    @property
    def compares_documents(self) -> bool:
        """Whether documents are ranked against each other, so that a score is minus the position in the order."""
        return self.strategy.compares_documents

    @property
    def reads_chunks(self) -> bool:
        """Whether a long document is read in several chunks, see `long_documents`."""
        return self.strategy.truncation.max_chunks > 1

    @property
    def can_diagnose(self) -> bool:
        """Whether `diagnose` is available: not for methods of lists."""
        return not self.compares_documents

    @property
    def choices(self) -> dict[str, Choice]:
        """The values that "auto" chose for `dtype` and `compile`, and on a GPU the `attention`, with reasons."""
        compiled = self._lazy_compile and self._lazy_compile.choice
        choices = {"dtype": self._dtype, "compile": compiled, "attention": self.runtime.attention}
        return {name: choice for name, choice in choices.items() if choice}

    @property
    def weight_hashes(self) -> list[str]:
        """SHA-256 of the checkpoint's weights (an adapter's, and its base's); empty for a model in memory."""
        return self._identity.weight_hashes

    @property
    def prompt_fingerprint(self) -> str:
        """Identifies how documents are shown to the model; a calibration is valid for one value of it."""
        return self.strategy.prompt_fingerprint

    @property
    def fingerprint(self) -> str | None:
        """Changes with weights, prompt, strategy, dtype and device; None for a model in memory."""
        return self._identity.fingerprint

    @property
    def calibration(self) -> Calibration | None:
        """The checkpoint's calibration; None if it has none for this prompt and these weights, see `calibration_for`."""
        return self._identity.calibration

    def probabilities(self, scores: np.ndarray, instruction: str | None = None, prior: float | None = None) -> np.ndarray | None:
        """Return calibrated probabilities fp64 [n] of log-odds [n]; None without calibration or with another `instruction`.

        `prior` is the share of relevant documents among your candidates, see `Calibration.apply`.
        """
        if self.calibration is None or instruction not in (None, self.encoder.prompt.instruction):
            return None
        return self.calibration.apply(scores, prior)

    def score_lists(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[Document]],
        instruction: str | None = None,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[np.ndarray]:
        """Score each query's documents.

        Args:
            queries: one text per query.
            documents: as many lists of documents, see `Reranker.rank`.
            instruction: what to look for; None keeps the prompt's own.
            batch_size: maximum number of documents in a forward pass; None chooses by tokens.
            progress: called with the number of documents scored since its last call.

        Returns:
            Log-odds: one fp32 array [n] per query, in input order. With a method of lists, minus the position in the order.

        Raises:
            DataError: an argument is invalid.
            ModelError: a score is not finite.
        """
        options = RankOptions(batch_size=batch_size, instruction=instruction)
        return self._score(validate_batch(queries, documents), options, progress).scores

    def score_encoded(self, lists: Sequence[tuple[Sequence[Encoded], Sequence[str]]]) -> ScoredLists:
        """Score prompts that `encoder` has encoded; for servers, which choose their own batches.

        Nothing is counted or checked. The caller must ensure that only one thread calls it at a time.

        Args:
            lists: per query its prompts and their sampling keys, see `EncodedQuery`.
        """
        return self.strategy.score_encoded(lists)

    def likelihood(
        self, queries: Sequence[str], documents: Sequence[Sequence[Document]], progress: Callable[[int], None] | None = None
    ) -> list[np.ndarray]:
        """Return the query likelihood under the same weights, see `rank.likelihood`.

        Args:
            queries, documents, progress: see `score_lists`.

        Returns:
            Mean log-probabilities of the query's tokens: one fp32 array [n] per query.
        """
        batch = validate_batch(queries, documents)
        with self.exclusive():
            return query_likelihood(self.model, self.tokenizer, batch.queries, batch.texts, self.encoder.longest, progress)

    def diagnose(self, queries: Sequence[str], documents: Sequence[Sequence[Document]]) -> Diagnosis:
        """Inspect the model at the answer position of every pair; a thinking model is given an empty thought.

        Multiplies with the whole output matrix, so it is slower than scoring.

        Args:
            queries, documents: see `score_lists`.

        Raises:
            ConfigError: a method of lists, which has no answer per document (see `can_diagnose`).
        """
        batch = validate_batch(queries, documents)
        with self.exclusive():
            return self.strategy.diagnose(batch.queries, batch.texts)

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Restore `cuts` and `cost` at the end, for calls that only warm up."""
        before = [(counter, dict(vars(counter))) for counter in (self.cuts, self.cost)]
        yield
        for counter, values in before:
            vars(counter).update(values)

    def after_fork(self) -> None:
        """In a forked process: use plain steps, since compiled steps depend on the number of threads."""
        self._forked, self._lazy_compile = True, None
        if self.runtime.engine:
            self.runtime.engine.kernels = Kernels(compiled=False)

    def _score(self, batch: QueryBatch, options: RankOptions, progress: Callable[[int], None] | None = None) -> ScoredLists:
        """Score a checked batch. Raises ModelError for scores that are not finite."""
        with self.computing(batch.texts):
            scored = self.strategy.score(batch.queries, batch.texts, options.instruction, options.batch_size, progress)
            check_finite(self.name, scored.scores)
            return scored

    @contextmanager
    def computing(self, texts: Sequence[Sequence[str]]) -> Iterator[None]:
        """Hold the model's lock and count the time. Compiles first if reading these texts takes long enough."""
        with self.exclusive():
            start = time.perf_counter()
            if self._lazy_compile:
                self._lazy_compile.before_call(texts)
            yield
            self.cost.seconds += time.perf_counter() - start

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the model's lock. Raises ModelError in a forked process if the model's device does not work there."""
        if self._forked and self.device.type != "cpu":
            raise ModelError(
                f"{self.name}: a model on {self.device.type} does not work in a forked process; load it in that process, or start "
                "the process by multiprocessing.get_context('spawn')"
            )
        with self.lock:
            yield
