"""Reranker: put documents in order with a two-token language model.

A score is logit("1") - logit("0") after the prompt, raw log-odds in fp32; 0 means the model finds both answers equally
likely, and equal scores keep the order of the input.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .checkpoints.default_model import DEFAULT
from .checkpoints.loading import load_config, load_model, load_tokenizer, pick_device
from .checkpoints.resolve import prompt_of, resolve, trained_prompt
from .engine.auto import check_compile, check_dtype, choose_dtype
from .engine.cpu_engine import scoring_engine
from .engine.generation import make_generator, make_training_generator
from .engine.layer_speed import DTYPES
from .errors import ConfigError, ModelError
from .prompts.prompt import Prompt
from .rank.documents import Document, DocumentProgress, Hit, make_hits
from .rank.methods import method_of, prompt_for
from .rank.scorer import Scorer
from .rank.validation import RankOptions, read_lists, read_pairs, whole_number
from .utils.pickling import MadeByArguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("prorank")


class Reranker(MadeByArguments, Scorer):
    """A checkpoint ready to rank.

    It pickles as its arguments, and loads again in the process that unpickles it. In a forked process it ranks with one thread.

    Args:
        model: `prorank-smollm2-135m`, which comes with the package, `smollm2-135m`, a folder, a LoRA adapter's folder, a GGUF file
            or a hub id.
        device: "cpu", "cuda", "mps"; None takes the best there is.
        dtype: "auto" (what was faster in a measurement on this machine, see docs/performance.md), "fp32", "bf16", or "int8" (matrix
            products in int8 on a CPU: up to twice as fast at a small loss). `choices` says what auto took, and why.
        max_length: tokens of a whole prompt; None takes the checkpoint's own.
        prompt: preset, mapping or Prompt for a checkpoint that has none of its own (or to override it).
        trust_remote_code: fetch and run the Python files that a model brings. Off unless asked.
        compile: fuse the element-wise steps on a CPU: seconds at the start for some per cent of speed. Needs a C++ compiler. "auto"
            does it when a call is long enough to pay for it.
        think: let a thinking checkpoint think before it answers; False asks it at once, with an empty thought, in one forward.
        samples: thoughts a document, whose mean log-odds is the score. One takes the likeliest tokens, several are drawn.
        max_think_tokens: the thought's budget; None takes the checkpoint's own. A longer thought is closed and says so in its hit.
        method: "pointwise" scores each document alone; "setwise" and "listwise" show several at once and give an order without
            log-odds (a hit's score is minus its place), see `rank.methods`. `cost` counts what it took.
        base: of an adapter, where its base is, in place of what the adapter calls it.
        options: of the method: see Setwise and Listwise there.

    Raises:
        ModelError: the checkpoint is missing or incomplete. PromptError: prompt and tokenizer do not fit. ConfigError: samples or
        max_think_tokens for a model that does not think; a method or an option that is not known.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT,
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
        check_compile(compile)
        where = pick_device(device)
        check_dtype(dtype, where)
        chosen_method = method_of(method, options)
        max_length, max_think_tokens, samples = _checked_numbers(max_length, max_think_tokens, samples)
        resolved = resolve(model, base, trust_remote_code)
        own = Prompt.of(prompt) if prompt else prompt_of(resolved, "setwise" if chosen_method else None)
        chosen = prompt_for(chosen_method, prompt, own, str(model), trained_prompt(resolved))
        if max_length is not None:
            chosen = Prompt.of(chosen, max_length=max_length)
        if max_think_tokens is not None:
            chosen = Prompt.of(chosen, max_think_tokens=max_think_tokens)
        thinks = think and chosen.kind == "thinking" and not chosen.lists
        about_lists = chosen.lists and chosen.kind == "thinking"  # one thought a prompt, and no log-odds to average
        if not thinks and (samples != 1 or (max_think_tokens is not None and not about_lists)):
            asked = "shown several documents" if about_lists else "asked at once"
            raise ConfigError(f"samples and max_think_tokens are for thoughts, and {model} is {asked}")
        tokenizer = load_tokenizer(resolved)
        (chosen.bind_list if chosen_method else chosen.bind)(tokenizer)  # fails before the weights are read
        config = load_config(resolved)
        choice = choose_dtype(dtype, where, config)
        loaded = load_model(resolved, DTYPES[choice.value], where)
        super().__init__(str(model), loaded, tokenizer, chosen, resolved, scoring_engine(loaded, compile is True, dtype == "int8"))
        self.choices["dtype"] = choice
        log.debug("%s: dtype %s", model, choice)
        if chosen_method:
            self.take_lists(chosen_method)
        if thinks:
            self.take_thoughts(make_generator(loaded, self._engine), chosen, samples)
        if compile is True and not chosen_method:
            self._warm_up()
        self._compile_for = config if compile == "auto" and not (chosen_method or thinks) else None

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: Any, prompt: Prompt, name: str = "model", think: bool = False) -> "Reranker":
        """A Reranker around a model in memory (used during training). With `think` it thinks, by the weights as they are now."""
        self = cls.__new__(cls)
        self.made_with = None
        Scorer.__init__(self, name, model, tokenizer, prompt)
        if think:
            self.take_thoughts(make_training_generator(model, False, False), prompt)
        return self

    def _warm_up(self) -> None:
        """Compile before the first query; what that reads is not counted."""
        before = [(counter, dict(vars(counter))) for counter in (self.cuts, self.cost)]
        self.score([(text, text) for text in ("warm", "warming up")])
        for counter, values in before:
            vars(counter).update(values)

    def __reduce__(self) -> tuple[Any, ...]:
        """Raises ModelError for a model in memory."""
        if self.made_with is None:
            raise ModelError(
                f"{self.name}: a Reranker around a model in memory cannot be pickled or copied; save the model "
                "(prorank.checkpoints.saving.save_checkpoint) and make a Reranker of its folder"
            )
        return _load, (type(self), absolute(self.made_with), self.name)

    def rank(
        self,
        query: str,
        documents: Sequence[Document],
        top_k: int | None = None,
        min_score: float | None = None,
        instruction: str | None = None,
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> list[Hit]:
        """Order documents by relevance to the query, best first; equal scores keep input order.

        Args:
            documents: strings, or dicts with "text" (and "title", "id", anything else), which come back in the hits. Any iterable
                in order: a list, generator, array or column; a table by its rows, frame.to_dict("records").
            top_k: how many hits to return; None returns all.
            min_score: leave out hits whose log-odds are below.
            instruction: what to look for, in place of the prompt's default.
            batch_size: documents a forward at most; None chooses by tokens.

        Raises:
            DataError: an empty query, a document that is neither a string nor a dict with "text", a text that is not UTF-8 (half of
                a surrogate pair), or an option that cannot work; before anything is scored.
        """
        return self.rank_many([query], [documents], top_k, min_score, instruction, batch_size, show_progress)[0]

    def rank_many(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[Document]],
        top_k: int | None = None,
        min_score: float | None = None,
        instruction: str | None = None,
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> list[list[Hit]]:
        """`rank` for many queries, each with its own documents; batches are shared among them."""
        options = RankOptions(top_k, min_score, batch_size, instruction)
        lists = read_lists(queries, documents)
        with DocumentProgress(show_progress, sum(map(len, lists.texts))) as progress:
            scores, thoughts = self._scored(lists, options, progress)
        return [
            make_hits(some, row, options.top_k, options.min_score, thought, self.probabilities(row, options.instruction))
            for some, row, thought in zip(lists.documents, scores, thoughts)
        ]

    async def arank(self, query: str, documents: Sequence[Document], *more: Any, **options: Any) -> list[Hit]:
        """`rank`, with its arguments, for async code: the event loop stays free, and calls are answered one after the other, in the
        order they came. A call that is cancelled before its turn never runs."""
        work = functools.partial(self.rank, query, documents, *more, **options)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @functools.cached_property
    def _thread(self) -> ThreadPoolExecutor:
        """The thread of async calls: one, for the model has use for no more, and each new one would start compute threads again."""
        return ThreadPoolExecutor(1, thread_name_prefix="prorank")

    def probabilities(self, scores: np.ndarray, instruction: str | None = None) -> np.ndarray | None:
        """Those of log-odds, if the model is calibrated; another instruction than the prompt's own makes it another prompt."""
        if self.calibration is None or instruction not in (None, self.prompt.prompt.instruction):
            return None
        return self.calibration.apply(scores)

    def score(self, pairs: Iterable[tuple[str, Document]], instruction: str | None = None) -> np.ndarray:
        """Log-odds fp32 [n] of (query, document) pairs, in input order: a list, `zip(queries, documents)`, an array [n, 2].

        Raises:
            DataError: naming the pair that cannot be read.
        """
        options = RankOptions(instruction=instruction)
        lists, places = read_pairs(pairs)
        out = np.empty(sum(map(len, places)), np.float32)
        for some, row in zip(places, self._scored(lists, options)[0]):
            out[some] = row
        return out


def _checked_numbers(max_length: Any, max_think_tokens: Any, samples: Any) -> tuple[int | None, int | None, int]:
    """These arguments of a Reranker as whole numbers. Raises ConfigError for what is none."""
    length, thought = (
        whole_number(value, name, "leave it out to take the checkpoint's own", ConfigError)
        for value, name in ((max_length, "max_length"), (max_think_tokens, "max_think_tokens"))
    )
    return length, thought, whole_number(samples, "samples", raised=ConfigError) or 1


def absolute(arguments: dict[str, Any]) -> dict[str, Any]:
    """A Reranker's arguments with the whole path of a folder or file, for a process that may run elsewhere."""
    name = arguments.get("model")
    return arguments | {"model": str(Path(name).resolve())} if name and Path(name).exists() else arguments


def _load(cls: type[Reranker], arguments: dict[str, Any], name: str) -> Reranker:
    """Make a Reranker that was pickled again, under the name that it had."""
    made = cls(**arguments)
    made.name = name
    return made
