"""Reranker: rank documents with a small language model.

A score is logit("1") - logit("0") after the prompt: raw log-odds in fp32, 0 if both answers are equally likely. Equal scores keep
the order of the input.
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
from .index.document_index import Index
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
    """A loaded checkpoint that ranks documents.

    It is pickled as its arguments and loaded again when it is unpickled. In a forked process it ranks with one thread.

    Args:
        model: `prorank-smollm2-135m`, which comes with the package, `smollm2-135m`, a folder, a LoRA adapter's folder, a GGUF file
            or a hub id; or a LoadedReranker, for which the other arguments have no effect (see `Reranker.of`).
        device: "cpu", "cuda" or "mps"; None uses the best one available.
        dtype: "auto" (the faster one in a measurement on this machine, see docs/speed.md), "fp32", "bf16", or "int8" (matrix
            products in int8 on a CPU: up to twice as fast at a small loss). `choices` contains the choice of "auto" and its reason.
        max_length: maximum number of tokens of a prompt; None uses the checkpoint's own.
        prompt: preset, mapping or Prompt, for a checkpoint that has none, or to override its own.
        trust_remote_code: download and run Python files of the model.
        compile: compile the element-wise steps, which takes seconds at the start. Needs a C++ compiler on a CPU, Triton and a C
            compiler on a GPU. "auto" compiles before the first long call; on a GPU, once the calls took a minute.
        think: let a thinking checkpoint generate a thought before its answer. With False it gets an empty thought and answers in
            one forward pass.
        samples: number of thoughts per document; the score is the mean of their log-odds. A single one is decoded greedily, several
            are sampled.
        max_think_tokens: maximum number of tokens of a thought; None uses the checkpoint's own. Longer thoughts are closed, see
            `Hit.thought_cut`.
        method: "pointwise" scores single documents; "setwise" and "listwise" compare several and give an order without log-odds (a
            score is minus the position in it), see `rank.methods`. `cost` counts prompts, tokens and seconds.
        base: base of an adapter, instead of the one in its settings.
        long_documents: how a document that does not fit into a prompt is read: "truncate" reads its beginning, "chunk" reads it
            whole in overlapping chunks of which the best counts, "auto" does the latter if the model scores single documents
            without a thought. `cuts` counts both. Score and probability of a document in chunks are those of its best chunk.
        think_top: number of documents per query that a thinking model thinks about, after a direct pass over all of them; None for
            all. The others follow the head in the order of their direct log-odds, which are lowered where they would not be below.
        **options: options of the method: fields of `rank.methods.Setwise` or `Listwise`.

    Raises:
        ModelError: the checkpoint is missing or incomplete.
        PromptError: prompt and tokenizer are incompatible.
        ConfigError: samples, max_think_tokens or think_top are given for a model that does not think, or the method or an option
            is unknown.
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
        long_documents: str = "auto",
        think_top: int | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(model, LoadedReranker):
            load_options = LoadOptions(
                device, dtype, max_length, prompt, trust_remote_code, compile, think, samples, max_think_tokens, base,
                long_documents, think_top,
            )  # fmt: skip
            model = load_reranker(model, load_options, method, options)
        super().__init__(model)
        if compile is True and not self.compares_documents:
            with self.uncounted():  # compile before the first query
                self.score([(text, text) for text in ("warm", "warming up")])

    @classmethod
    def of(
        cls, model: PreTrainedModel, tokenizer: Any, prompt: Prompt, name: str = "model", think: bool = False,
        method: ListMethod | None = None, long_documents: str = "auto",
    ) -> Reranker:  # fmt: skip
        """Make a Reranker from a model in memory, such as one in training.

        Args:
            model: a causal language model of transformers.
            tokenizer: its tokenizer.
            prompt: the prompt.
            name: name of the model in messages.
            think: generate thoughts, with a copy of the current weights; the prompt must be of kind thinking.
            method: Setwise or Listwise, for a prompt of several documents.
            long_documents: see `Reranker`.
        """
        return cls(in_memory_reranker(model, tokenizer, prompt, name, think, method, long_documents))

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
            documents: strings, or dicts with "text" (and "title", "id", anything else), which are returned in the hits. Any ordered
                iterable: a list, generator, array or column; of a table its rows, frame.to_dict("records").
            top_k: number of hits to return; None for all.
            min_score: lowest log-odds of a hit; None for no limit.
            instruction: replaces the prompt's instruction.
            batch_size: maximum number of documents in a forward pass; None chooses by tokens.
            show_progress: show a progress bar on stderr.
            top_n: alias of `top_k`, as in the APIs of Cohere and Jina.

        Raises:
            DataError: the query is blank, a document is neither a string nor a dict with "text", a text is not UTF-8 (half of a
            surrogate
                pair), or an option is invalid. Raised before anything is scored.
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
        """Rank the documents of several queries, which share batches.

        Args:
            queries: one text per query.
            documents: one list of documents per query.
            top_k, min_score, instruction, batch_size, show_progress, top_n: see `rank`.

        Returns:
            One list of hits per query.

        Raises:
            DataError: see `rank`.
        """
        options = RankOptions(top_k, min_score, batch_size, instruction, top_n)
        batch = validate_batch(queries, documents)
        with DocumentProgress(show_progress, sum(map(len, batch.texts))) as progress:
            scored = self._score(batch, options, progress)
        return [
            make_hits(row, scores, options.top_k, options.min_score, thoughts, self.probabilities(scores, options.instruction))
            for row, scores, thoughts in zip(batch.documents, scored.scores, scored.thoughts)
        ]

    def index(self, documents: Iterable[Document], **options: Any) -> Index:
        """Read documents once, so that `Index.rank` computes the query's tokens only. Options and errors: see `Index.of`."""
        return Index.of(self, documents, **options)

    async def arank(self, query: str, documents: Sequence[Document], *arguments: Any, **options: Any) -> list[Hit]:
        """Run `rank` from async code, with the same arguments.

        The event loop is not blocked. Calls run one after the other, in order; a call that is cancelled before its turn does not
        run.
        """
        work = functools.partial(self.rank, query, documents, *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @functools.cached_property
    def _thread(self) -> ThreadPoolExecutor:
        """The single thread of async calls, which cannot run in parallel. More threads would have their own compute threads."""
        return ThreadPoolExecutor(1, thread_name_prefix="prorank")

    def after_fork(self) -> None:
        """See `BaseReranker.after_fork`; the thread of async calls does not exist in the forked process, either."""
        super().after_fork()
        self.__dict__.pop("_thread", None)

    def score(self, pairs: Iterable[tuple[str, Document]], instruction: str | None = None) -> np.ndarray:
        """Return log-odds fp32 [n] of (query, document) pairs, in input order.

        Args:
            pairs: a list, `zip(queries, documents)`, or an array [n, 2].
            instruction: replaces the prompt's instruction.

        Raises:
            DataError: a pair is invalid; the message names it.
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
    """Load a pickled Reranker again, with its former name."""
    reranker = cls(**arguments)
    reranker.name = name
    return reranker
