"""Reranker: put documents in order with a two-token language model.

Hard fact: a score is logit("1") - logit("0") after the prompt, raw log-odds in fp32; 0 means the model finds both answers equally
likely, and equal scores keep the order of the input.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .bound_list import MOST
from .calibration import Calibration, calibration_for
from .errors import ConfigError, DataError, ModelError
from .model import Resolved, load_model, load_tokenizer, pick_device, pick_dtype, prompt_of, resolve, room_for_prompts, weight_hash
from .prompt import BoundPrompt, Cuts, Encoded, Prompt
from .rank.batching import Batch
from .rank.diagnosis import Diagnosis, diagnosis
from .rank.documents import Cost, Document, Hit, Progress, check_lists, document_text, hits, holds_many, sequence
from .rank.engine import Engine, engine_for, trim
from .rank.generate import Pen, pen_in_training, pen_of
from .rank.likelihood import query_likelihood
from .rank.listwise import AnswerReader, LabelReader, ListRanker, most_written
from .rank.methods import Listwise, Setwise, method_of, prompt_for
from .rank.pointwise import answer_rows, last_hidden, log_odds
from .rank.thinking import Thinker, Thought, key_of, with_room
from .rank.windows import WINDOW, batches
from .shipped import DEFAULT


class Reranker:
    """A checkpoint ready to rank.

    Args:
        model: `prorank-smollm2-135m`, which comes with the package, `smollm2-135m`, a folder, a LoRA adapter's folder, a GGUF file
            or a hub id.
        device: "cpu", "cuda", "mps"; None takes the best there is.
        dtype: "auto" (bf16 where the hardware computes in it), "fp32", "bf16", or "int8" (matrix products in int8 on a CPU: up to
            twice as fast at a small loss, see docs/performance.md).
        max_length: tokens of a whole prompt; None takes the checkpoint's own.
        prompt: preset, mapping or Prompt for a checkpoint that has none of its own (or to override it).
        trust_remote_code: run code that a hub repository brings. Off unless asked.
        compile: fuse the element-wise steps on a CPU: seconds at the start for some per cent of speed. Needs a C++ compiler.
        think: let a thinking checkpoint think before it answers; False asks it at once, with an empty thought, in one forward.
        samples: thoughts a document, whose mean log-odds is the score. One takes the likeliest tokens, several are drawn.
        max_think_tokens: the thought's budget; None takes the checkpoint's own. A longer thought is closed and says so in its hit.
        method: "pointwise" scores each document alone; "setwise" and "listwise" show several at once and give an order without
            log-odds (a hit's score is minus its place), see `rank.methods`. `cost` counts what it took.
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
        compile: bool = False,
        think: bool = True,
        samples: int = 1,
        max_think_tokens: int | None = None,
        method: str = "pointwise",
        **options: Any,
    ) -> None:
        chosen_method = method_of(method, options)
        resolved = resolve(model)
        chosen = prompt_for(chosen_method, prompt, prompt_of(resolved))
        if max_length:
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
        where = pick_device(device)
        loaded = load_model(resolved, pick_dtype(dtype, where), where, trust_remote_code=trust_remote_code)
        self._take(str(model), loaded, tokenizer, chosen)
        self._resolved = resolved
        self._engine = engine_for(loaded, compile, dtype == "int8")
        if chosen_method:
            self.take_lists(chosen_method)
        if thinks:
            self._think(pen_of(loaded, self._engine), chosen, samples)
        if compile and not chosen_method:
            self.score([(text, text) for text in ("warm", "warming up")])  # compiles before the first query

    @classmethod
    def of(
        cls, model: torch.nn.Module, tokenizer: Any, prompt: Prompt, name: str = "model", think: bool = False
    ) -> "Reranker":
        """A Reranker around a model in memory (used during training). With `think` it thinks, by the weights as they are now."""
        self = cls.__new__(cls)
        self._take(name, model, tokenizer, prompt)
        if think:
            self._think(pen_in_training(model, False, False), prompt, 1)
        return self

    def _think(self, pen: Pen, prompt: Prompt, samples: int) -> None:
        """Think of each document from now on; the prompt must be of kind thinking."""
        bound = with_room(prompt, self.tokenizer, self.model)
        self._thinker = Thinker(pen, bound, self._rows, self._bias, samples, prompt.max_think_tokens, self.cost)

    def _take(self, name: str, model: torch.nn.Module, tokenizer: Any, prompt: Prompt) -> None:
        self.name, self.model, self.tokenizer = name, model.eval(), tokenizer
        room = room_for_prompts(model)
        self.prompt = prompt.bind_list(tokenizer, room) if prompt.lists else prompt.bind(tokenizer, room).direct()
        self.device = next(model.parameters()).device
        self.cuts, self.cost = Cuts(), Cost()  # counted up over all calls
        self._turn = threading.RLock()  # engine and counters are not made for two at once
        self._resolved: Resolved | None = None
        self._thinker: Thinker | None = None
        self._engine: Engine | None = None  # not around a model in memory, whose weights may change
        self.lists: ListRanker | None = None
        self._rows, self._bias = answer_rows(model, self.prompt.answer_ids)

    def take_lists(self, method: Setwise | Listwise) -> None:
        """Rank by a method of lists from now on; the prompt must show several documents."""
        if self.prompt.writes:
            room = room_for_prompts(self.model, most_written(self.prompt, method, MOST))
            self.prompt = self.prompt.prompt.bind_list(self.tokenizer, room)
            read = AnswerReader(pen_of(self.model, self._engine), self.prompt, method, self.cost)
        else:
            read = LabelReader(self.model, self._hidden, self._rows, self._bias, self.tokenizer.pad_token_id)
        self.lists = ListRanker(method, self.prompt, read, self.cuts, self.cost)
        self.diagnose = None  # there is no answer of yes or no to look at

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
            documents: strings, or dicts with "text" (and "title", "id", anything else), which come back in the hits.
            top_k: how many hits to return; None returns all.
            min_score: leave out hits whose log-odds are below.
            instruction: what to look for, in place of the prompt's default.
            batch_size: documents a forward at most; None chooses by tokens.

        Raises:
            DataError: empty query, or a document that is neither a string nor a dict with "text".
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
        if top_k is not None and top_k < 1:
            raise DataError(f"top_k must be at least 1, not {top_k}; leave it out to get all documents")
        lists = [list(some) if holds_many(some) else some for some in sequence(documents, "documents")]
        check_lists(queries, lists)
        with Progress(show_progress, sum(map(len, lists))) as progress:
            scores, thoughts = self._scored(list(queries), lists, instruction, batch_size, progress)
        sure = [self.probabilities(row, instruction) for row in scores]
        return [hits(some, row, top_k, min_score, *more) for some, row, *more in zip(lists, scores, thoughts, sure)]

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

    def score(self, pairs: Sequence[tuple[str, Document]], instruction: str | None = None) -> np.ndarray:
        """Log-odds fp32 [n] of (query, document) pairs, in input order."""
        where: dict[str, list[int]] = {}
        for i, pair in enumerate(sequence(pairs, "pairs")):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], str):
                raise DataError(f"pair {i} is {str(pair)[:80]!r}; expected (query, document)")
            where.setdefault(pair[0], []).append(i)
        rows = self.score_lists(list(where), [[pairs[i][1] for i in some] for some in where.values()], instruction)
        out = np.empty(len(pairs), np.float32)
        for some, row in zip(where.values(), rows):
            out[some] = row
        return out

    def score_lists(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[Document]],
        instruction: str | None = None,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[np.ndarray]:
        """Log-odds of each query's documents: one fp32 array a query, in input order. `progress(n)` hears of n more scored."""
        return self._scored(queries, documents, instruction, batch_size, progress)[0]

    def _scored(self, queries, documents, instruction, batch_size, progress) -> tuple[list[np.ndarray], list[Sequence[Thought]]]:
        """(log-odds, thoughts if the model thinks) of each query's documents. Calls from several threads take turns."""
        check_lists(queries, documents)
        with self._turn:
            return self._scored_now(queries, documents, instruction, batch_size, progress)

    def _scored_now(self, queries, documents, instruction, batch_size, progress):
        begin = time.perf_counter()
        if batch_size is not None and batch_size < 1:
            raise DataError(f"batch_size must be at least 1, not {batch_size}; leave it out to choose by tokens")
        thoughts: list[Sequence[Thought]] = [()] * len(documents)
        if self.lists:
            orders = self.lists(queries, [[document_text(d) for d in some] for some in documents], instruction, progress)
            self.cost.seconds += time.perf_counter() - begin
            return [-np.argsort(order).astype(np.float32) for order in orders], thoughts
        with torch.inference_mode():
            if self._thinker:
                rows, thoughts = self._thinker(self._asked(queries, documents, instruction), progress)
            else:
                found = self._batches(self._parts(queries, documents, instruction), batch_size)
                rows = self._at_once(found, [0, *np.cumsum([len(some) for some in documents])], progress)
        if not all(np.isfinite(row).all() for row in rows):
            raise ModelError(f"{self.name}: scores are not finite; the weights are damaged or its training diverged")
        for i, row in enumerate(rows):
            first: dict[str, int] = {}  # the same text ties exactly, though its places in the batches differ by float noise
            same = [first.setdefault(document_text(document), j) for j, document in enumerate(documents[i])]
            row[:] = row[same]
            thoughts[i] = [thoughts[i][j] for j in same] if thoughts[i] else ()
        self.cost.seconds += time.perf_counter() - begin
        return rows, thoughts

    @property
    def bound(self) -> BoundPrompt:
        """The prompt whose encodings `score_encoded` takes; not for methods of lists."""
        return self._thinker.bound if self._thinker else self.prompt

    def score_encoded(
        self, lists: Sequence[tuple[Sequence[Encoded], Sequence[str]]]
    ) -> tuple[list[np.ndarray], list[Sequence[Thought]]]:
        """(log-odds fp32, thoughts if the model thinks) of prompts that `bound` has encoded: lists of (prompts of one query, keys
        of chance, see `key_of`). Nothing is counted and nothing checked: for servers, which choose their own batches."""
        with torch.inference_mode():
            if self._thinker:
                return self._thinker([(list(prompts), list(keys)) for prompts, keys in lists])
            first = [0, *np.cumsum([len(prompts) for prompts, _ in lists])]
            found = self._batches((at, list(prompts)) for at, (prompts, _) in zip(first, lists))
            return self._at_once(found, first), []

    def _at_once(self, found: Iterable[Batch], first, progress=None) -> list[np.ndarray]:
        """Log-odds by one forward a document; those of list i begin at `first[i]`, and the last of these is their number."""
        flat = np.empty(first[-1], np.float32)
        for batch in found:
            flat[batch.owners] = log_odds(self._hidden(batch), self._rows, self._bias).cpu().numpy()
            if progress:
                progress(len(batch.owners))
        return np.split(flat, first[1:-1]) if len(first) > 1 else []

    def _asked(self, queries, documents, instruction) -> list[tuple[list[Encoded], list[str]]]:
        """What a thinker takes: each query's prompts, and keys of chance that name query and document, not their places."""
        return [
            (self._encode(query, some, instruction, self._thinker.bound), [key_of(query, document_text(d)) for d in some])
            for query, some in zip(queries, documents)
        ]

    def likelihood(
        self, queries: Sequence[str], documents: Sequence[Sequence[Document]], progress: Callable[[int], None] | None = None
    ) -> list[np.ndarray]:
        """Query likelihood under the same weights, see `rank.likelihood`: one fp32 array a query."""
        check_lists(queries, documents)
        texts = [[document_text(d) for d in some] for some in documents]
        return query_likelihood(self.model, self.tokenizer, queries, texts, self.prompt.longest, progress)

    @property
    def thinks(self) -> bool:
        """Whether it thinks of each document before it answers."""
        return self._thinker is not None

    @functools.cached_property
    def calibration(self) -> Calibration | None:
        """The checkpoint's calibration, None where it has none for this prompt and these weights; see `calibration_for`."""
        return calibration_for(self._resolved.folder, self.asked, lambda: self.weights) if self._resolved else None

    @property
    def asked(self) -> str:
        """How documents are asked about: the prompt's fingerprint, and how many thoughts there are of each."""
        if self._thinker:
            return f"{self._thinker.bound.prompt.fingerprint()}, {self._thinker.samples} thoughts"
        return self.prompt.prompt.fingerprint()

    @functools.cached_property
    def weights(self) -> list[str]:
        """SHA-256 of the checkpoint's weights (an adapter's, and its base's); none for a model in memory."""
        if self._resolved is None:
            return []
        return sorted(weight_hash(folder) for folder in {self._resolved.path, self._resolved.folder})

    @functools.cached_property
    def fingerprint(self) -> str | None:
        """Changes with weights, prompt, dtype and device; None for a model in memory."""
        if self._resolved is None:
            return None
        parts = [*self.weights]
        if self._thinker:
            parts.append(f"{self._thinker.samples} thoughts")
        if self.lists:
            parts.append(repr(self.lists.method))
        numbers = "int8" if self._engine and self._engine.int8 else str(self.model.dtype)
        parts += [self.prompt.prompt.fingerprint(), str(self.prompt.longest), numbers, self.device.type]
        return hashlib.sha256(" ".join(sorted(parts)).encode()).hexdigest()

    def diagnose(self, queries: Sequence[str], documents: Sequence[Sequence[Document]]) -> Diagnosis:
        """Look at the answer position of every pair, a thinking model asked at once: see Diagnosis. Costs the whole output
        matrix."""
        check_lists(queries, documents)
        with torch.inference_mode():
            seen = ((batch, self._hidden(batch)) for batch in self._batches(self._parts(queries, documents, None)))
            return diagnosis(self.model, self.prompt.answer_ids, seen, sum(map(len, documents)))

    def _hidden(self, batch: Batch) -> torch.Tensor:
        return self._engine(batch) if self._engine else last_hidden(self.model, batch)

    def _batches(self, parts: Iterable[tuple[int, list[Encoded]]], most: int | None = None) -> Iterator[Batch]:
        """Forwards for `parts`, with at most so many documents each, see `windows`."""
        return batches(parts, self.model, self.tokenizer.pad_token_id, most, trim if self._engine else None)

    def _parts(self, queries, documents, instruction) -> Iterator[tuple[int, list[Encoded]]]:
        """(owner of the first, prompts) of each query, no more than a window of them at a time."""
        first = 0
        for query, some in zip(queries, documents):
            for at in range(0, len(some), WINDOW):
                yield first + at, self._encode(query, some[at : at + WINDOW], instruction)
            first += len(some)

    def _encode(
        self, query: str, documents: Sequence[Document], instruction: str | None, bound: BoundPrompt | None = None
    ) -> list[Encoded]:
        prompts = (bound or self.prompt).encode_many(query, [document_text(d) for d in documents], instruction)
        for prompt in prompts:
            self.cuts.count(prompt)
            self.cost.calls += 1
            self.cost.prompt_tokens += len(prompt.ids)
        return prompts
