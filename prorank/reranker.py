"""Reranker: put documents in order with a small language model.

A score is logit("1") - logit("0") after the prompt: raw log-odds in fp32, 0 where the model finds both answers equally likely.
Equal scores keep the order of the input.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .checkpoints.default_model import DEFAULT
from .errors import ModelError
from .prompts.prompt import Prompt
from .rank.base_reranker import BaseReranker, LoadedReranker
from .rank.documents import Document, DocumentProgress, Hit, make_hits
from .rank.load_reranker import LoadOptions, in_memory_reranker, load_reranker
from .rank.methods import ListMethod
from .rank.validation import RankOptions, validate_batch, validate_pairs
from .utils.pickling import MadeByArguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Reranker(MadeByArguments, BaseReranker):
    """A checkpoint ready to rank.

    It pickles as its arguments, and loads again in the process that unpickles it. In a forked process it ranks with one thread.

    Args:
        model: `prorank-smollm2-135m`, which comes with the package, `smollm2-135m`, a folder, a LoRA adapter's folder, a GGUF file
            or a hub id; or a LoadedReranker, for which the other arguments have no effect (see `Reranker.of`).
        device: "cpu", "cuda" or "mps"; None takes the best that is present.
        dtype: "auto" (the faster one in a measurement on this machine, see docs/speed.md), "fp32", "bf16", or "int8" (matrix
            products in int8 on a CPU: up to twice as fast at a small loss). `choices` tells what "auto" chose, and why.
        max_length: tokens of a whole prompt; None takes the checkpoint's own.
        prompt: preset, mapping or Prompt for a checkpoint that has none of its own (or to override it).
        trust_remote_code: download and run the Python files that a model brings.
        compile: fuse the element-wise steps on a CPU: takes seconds at the start, saves some per cent of the time. Needs a C++
            compiler. "auto" compiles when a call is long enough to pay for it.
        think: let a thinking checkpoint generate a thought before its answer; False gives it an empty thought and reads the answer
            in one forward pass.
        samples: thoughts per document; the score is the mean of their log-odds. One is decoded greedily, several are sampled.
        max_think_tokens: token budget of a thought; None takes the checkpoint's own. A longer thought is closed, see
            `Hit.thought_cut`.
        method: "pointwise" scores each document alone; "setwise" and "listwise" show several at once and give an order without
            log-odds (a score is minus the position in it), see `rank.methods`. `cost` counts prompts, tokens and seconds.
        base: of an adapter, where its base model is, in place of what the adapter names.
        options: of the method: fields of `rank.methods.Setwise` or `Listwise`.

    Raises:
        ModelError: the checkpoint is missing or incomplete.
        PromptError: prompt and tokenizer do not fit together.
        ConfigError: samples or max_think_tokens for a model that does not think; an unknown method or option.
    """

    def __init__(
        self,
        model: str | Path | LoadedReranker = DEFAULT,
        device: str | None = None,
        dtype: str = "auto",
        max_length: int | None = None,
        prompt: Any = None,
        trust_remote_code: bool = False,
        compile: bool | str = "auto",
        think: bool = True,
        samples: int = 1,
        max_think_tokens: int | None = None,
        method: str = "pointwise",
        base: str | Path | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(model, LoadedReranker):
            load_options = LoadOptions(
                device, dtype, max_length, prompt, trust_remote_code, compile, think, samples, max_think_tokens, base
            )
            model = load_reranker(model, load_options, method, options)
        super().__init__(model)
        if compile is True and not self.compares_documents:
            with self.uncounted():  # compile before the first query
                self.score([(text, text) for text in ("warm", "warming up")])

    @classmethod
    def of(
        cls, model: PreTrainedModel, tokenizer: Any, prompt: Prompt, name: str = "model", think: bool = False,
        method: ListMethod | None = None,
    ) -> Reranker:  # fmt: skip
        """Make a Reranker of a model in memory, such as one in training.

        Args:
            model: a causal language model of transformers.
            tokenizer: its tokenizer.
            prompt: how documents are shown.
            name: what messages call the model.
            think: generate thoughts, with a copy of the weights as they are now; the prompt must be of kind thinking.
            method: Setwise or Listwise, for a prompt of several documents.
        """
        return cls(in_memory_reranker(model, tokenizer, prompt, name, think, method))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments. Raises ModelError for a model in memory."""
        arguments = self.made_with or {}
        if isinstance(arguments.get("model"), LoadedReranker):
            raise ModelError(
                f"{self.name}: a Reranker around a model in memory cannot be pickled or copied; save the model "
                "(prorank.checkpoints.saving.save_checkpoint) and make a Reranker of its folder"
            )
        return _load, (type(self), with_absolute_path(arguments), self.name)

    def rank(
        self,
        query: str,
        documents: Sequence[Document],
        top_k: int | None = None,
        min_score: float | None = None,
        instruction: str | None = None,
        batch_size: int | None = None,
        show_progress: bool = False,
        top_n: int | None = None,
    ) -> list[Hit]:
        """Order documents by relevance to the query, best first; equal scores keep input order.

        Args:
            query: a text that is not blank.
            documents: strings, or dicts with "text" (and "title", "id", anything else), which come back in the hits. Any iterable
                in order: a list, generator, array or column; a table by its rows, frame.to_dict("records").
            top_k: number of hits to return; None returns all.
            min_score: leave out hits whose log-odds are below.
            instruction: what to look for, in place of the prompt's default.
            batch_size: most documents of a forward pass; None chooses by tokens.
            show_progress: show a progress bar on stderr.
            top_n: another name of `top_k`, as in the APIs of Cohere and Jina.

        Raises:
            DataError: an empty query, a document that is neither a string nor a dict with "text", a text that is not UTF-8 (half of
                a surrogate pair), or an option that cannot work; before anything is scored.
        """
        return self.rank_many([query], [documents], top_k, min_score, instruction, batch_size, show_progress, top_n)[0]

    def rank_many(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[Document]],
        top_k: int | None = None,
        min_score: float | None = None,
        instruction: str | None = None,
        batch_size: int | None = None,
        show_progress: bool = False,
        top_n: int | None = None,
    ) -> list[list[Hit]]:
        """`rank` for many queries, each with its own documents; they share batches."""
        options = RankOptions(top_k, min_score, batch_size, instruction, top_n)
        batch = validate_batch(queries, documents)
        with DocumentProgress(show_progress, sum(map(len, batch.texts))) as progress:
            scored = self._score(batch, options, progress)
        return [
            make_hits(row, scores, options.top_k, options.min_score, thoughts, self.probabilities(scores, options.instruction))
            for row, scores, thoughts in zip(batch.documents, scored.scores, scored.thoughts)
        ]

    async def arank(self, query: str, documents: Sequence[Document], *arguments: Any, **options: Any) -> list[Hit]:
        """`rank`, with its arguments, for async code.

        The event loop stays free. Calls are answered one after the other, in the order they came; one that is cancelled before its
        turn never runs.
        """
        work = functools.partial(self.rank, query, documents, *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @functools.cached_property
    def _thread(self) -> ThreadPoolExecutor:
        """The thread of async calls: only one, since the model has no use for more and each would start its own compute threads."""
        return ThreadPoolExecutor(1, thread_name_prefix="prorank")

    def after_fork(self) -> None:
        """See `BaseReranker.after_fork`; the thread of async calls does not exist in the forked process, either."""
        super().after_fork()
        self.__dict__.pop("_thread", None)

    def probabilities(self, scores: np.ndarray, instruction: str | None = None) -> np.ndarray | None:
        """Return calibrated probabilities fp64 [n] of log-odds [n].

        None if the model is uncalibrated, or if `instruction` differs from the one it was calibrated with.
        """
        if self.calibration is None or instruction not in (None, self.encoder.prompt.instruction):
            return None
        return self.calibration.apply(scores)

    def score(self, pairs: Iterable[tuple[str, Document]], instruction: str | None = None) -> np.ndarray:
        """Return log-odds fp32 [n] of (query, document) pairs, in input order.

        Args:
            pairs: a list, `zip(queries, documents)`, or an array [n, 2].
            instruction: what to look for, in place of the prompt's default.

        Raises:
            DataError: naming the pair that cannot be read.
        """
        options = RankOptions(instruction=instruction)
        batch, places = validate_pairs(pairs)
        scores = np.empty(sum(map(len, places)), np.float32)
        for indices, row in zip(places, self._score(batch, options).scores):
            scores[indices] = row
        return scores


def with_absolute_path(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return a Reranker's arguments with the absolute path of its folder or file, for a process with another working folder."""
    name = arguments.get("model")
    return arguments | {"model": str(Path(name).resolve())} if name and Path(name).exists() else arguments


def _load(cls: type[Reranker], arguments: dict[str, Any], name: str) -> Reranker:
    """Make a pickled Reranker again, under the name that it had."""
    reranker = cls(**arguments)
    reranker.name = name
    return reranker
