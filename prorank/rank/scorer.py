"""Scorer: log-odds of documents from a model in memory, by one forward each, by thoughts or by a method of lists.

Whatever way a document is asked about, the same text under the same query gets exactly the same score, though its places
in the batches differ by float noise.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..checkpoints.resolve import Resolved
from ..engine.auto import COMPILED, Choice, choose_compile_for
from ..engine.batches import WINDOW, batches
from ..engine.cpu_engine import Engine
from ..engine.generation import TextGenerator, make_generator
from ..engine.heads import answer_rows, last_hidden, log_odds
from ..engine.kernels import Kernels
from ..engine.layer_speed import RANKING
from ..engine.modules import room_for_prompts
from ..engine.packing import Batch
from ..errors import ModelError
from ..prompts.list_encoder import MAX_DOCUMENTS, ListPromptEncoder
from ..prompts.pair_encoder import Encoded, PairPromptEncoder
from ..prompts.prompt import Prompt, TruncationCounts
from ..utils.forking import survive_forks
from ..utils.memory import trim
from .documents import Cost, Document
from .identity import Identity
from .likelihood import query_likelihood
from .listwise import AnswerReader, LabelReader, ListRanker, Reader, most_written
from .methods import Listwise, Setwise
from .score_diagnostics import Diagnosis, diagnosis
from .thinking import Thinker, Thought, key_of, with_room
from .validation import Lists, RankOptions, read_lists

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("prorank")
CHARACTERS = 4  # of a token, for an estimate of how long a call takes


class Scorer(Identity):
    """A model in memory that gives documents their scores.

    Args:
        resolved: where the weights came from; None where they change, as in training. engine: what computes, likewise.
    """

    def __init__(
        self, name: str, model: PreTrainedModel, tokenizer: Any, prompt: Prompt, resolved: Resolved | None = None,
        engine: Engine | None = None,
    ) -> None:  # fmt: skip
        self.name, self.model, self.tokenizer = name, model.eval(), tokenizer
        self._resolved, self._engine = resolved, engine
        room = room_for_prompts(model)
        self.prompt = prompt.bind_list(tokenizer, room) if prompt.lists else prompt.bind(tokenizer, room).direct()
        self.device = next(model.parameters()).device
        self.cuts, self.cost = TruncationCounts(), Cost()  # counted up over all calls
        self.turn = threading.RLock()  # engine and counters are not made for two at once
        self.choices: dict[str, Choice] = {}  # what "auto" took, and why
        self._compile_for: Any = None  # the model's configuration while it is open whether steps get compiled
        self._forked = False  # whether this process is a fork of the one that loaded the model
        survive_forks(self)
        self._thinker: Thinker | None = None
        self.lists: ListRanker | None = None
        self._rows, self._bias = answer_rows(model, self.prompt.answer_ids)

    def take_thoughts(self, pen: TextGenerator, prompt: Prompt, samples: int = 1) -> None:
        """Think of each document from now on; the prompt must be of kind thinking."""
        bound = with_room(prompt, self.tokenizer, self.model)
        self._thinker = Thinker(pen, bound, self._rows, self._bias, samples, prompt.max_think_tokens, self.cost)

    def take_lists(self, method: Setwise | Listwise) -> None:
        """Rank by a method of lists from now on; the prompt must show several documents."""
        bound = self.prompt
        assert isinstance(bound, ListPromptEncoder)
        if bound.writes:
            room = room_for_prompts(self.model, most_written(bound, method, MAX_DOCUMENTS))
            self.prompt = bound = Prompt.of(bound.prompt).bind_list(self.tokenizer, room)
            read: Reader = AnswerReader(make_generator(self.model, self._engine), bound, method, self.cost)
        else:
            read = LabelReader(self.model, self._hidden, self._rows, self._bias, self.tokenizer.pad_token_id)
        self.lists = ListRanker(method, bound, read, self.cuts, self.cost)
        vars(self)["diagnose"] = None  # there is no answer of yes or no to look at

    def score_lists(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[Document]],
        instruction: str | None = None,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[np.ndarray]:
        """Log-odds of each query's documents: one fp32 array a query, in input order. `progress(n)` hears of n more scored."""
        options = RankOptions(batch_size=batch_size, instruction=instruction)
        return self._scored(read_lists(queries, documents), options, progress)[0]

    def _scored(
        self, lists: Lists, options: RankOptions, progress: Callable[[int], None] | None = None
    ) -> tuple[list[np.ndarray], list[Sequence[Thought]]]:
        """(log-odds, thoughts if the model thinks) of each query's documents. Calls from several threads take turns."""
        with self._own_turn():
            return self._scored_now(lists.queries, lists.texts, options.instruction, options.batch_size, progress)

    def _scored_now(
        self, queries: Sequence[str], texts: Sequence[list[str]], instruction: str | None, batch_size: int | None,
        progress: Callable[[int], None] | None,
    ) -> tuple[list[np.ndarray], list[Sequence[Thought]]]:  # fmt: skip
        begin = time.perf_counter()
        thoughts: list[Sequence[Thought]] = [()] * len(texts)
        if self.lists:
            orders = self.lists(queries, texts, instruction, progress)
            self.cost.seconds += time.perf_counter() - begin
            return [-np.argsort(order).astype(np.float32) for order in orders], thoughts
        with torch.inference_mode():
            if self._thinker:
                rows, thoughts = self._thinker(self._asked(self._thinker.bound, queries, texts, instruction), progress)
            else:
                self._compile_if_it_pays(texts)
                found = self._batches(self._parts(queries, texts, instruction), batch_size)
                rows = self._at_once(found, [0, *np.cumsum([len(some) for some in texts])], progress)
        if not all(np.isfinite(row).all() for row in rows):
            raise ModelError(f"{self.name}: scores are not finite; the weights are damaged or its training diverged")
        for i, row in enumerate(rows):
            first: dict[str, int] = {}  # the same text ties exactly, though its places in the batches differ by float noise
            same = [first.setdefault(text, j) for j, text in enumerate(texts[i])]
            row[:] = row[same]
            thoughts[i] = [thoughts[i][j] for j in same] if thoughts[i] else ()
        self.cost.seconds += time.perf_counter() - begin
        return rows, thoughts

    def _compile_if_it_pays(self, texts: Sequence[Sequence[str]]) -> None:
        """With compile "auto": have the engine's steps compiled before a call that is long enough."""
        if self._compile_for is None or self._engine is None or self._forked:
            return
        characters = sum(min(len(text), CHARACTERS * self.prompt.longest) for some in texts for text in some)
        dtype = self.choices["dtype"].value
        choice = choose_compile_for(self._compile_for, RANKING, dtype, characters / CHARACTERS)
        self.choices["compile"] = choice
        log.debug("%s: steps %s", self.name, choice)
        if choice.value == COMPILED:
            self._engine.steps, self._compile_for = Kernels(compiled=True), None

    def after_fork(self) -> None:
        """In a forked process: no compiled steps, which are made for a number of threads, and no thread for async calls."""
        self._forked = True
        self.__dict__.pop("_thread", None)
        if self._engine:
            self._engine.steps = Kernels(compiled=False)

    @contextmanager
    def _own_turn(self) -> Iterator[None]:
        """Have the model for oneself. Raises ModelError in a forked process if its device does not work there."""
        if self._forked and self.device.type != "cpu":
            raise ModelError(
                f"{self.name}: a model on {self.device.type} does not work in a forked process; load it in that process, or start "
                "the process by multiprocessing.get_context('spawn')"
            )
        with self.turn:
            yield

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

    def _at_once(
        self, found: Iterable[Batch], first: Sequence[int], progress: Callable[[int], None] | None = None
    ) -> list[np.ndarray]:
        """Log-odds by one forward a document; those of list i begin at `first[i]`, and the last of these is their number."""
        flat = np.empty(first[-1], np.float32)
        for batch in found:
            flat[batch.owners] = log_odds(self._hidden(batch), self._rows, self._bias).cpu().numpy()
            if progress:
                progress(len(batch.owners))
        return np.split(flat, first[1:-1]) if len(first) > 1 else []

    def _asked(
        self, bound: PairPromptEncoder, queries: Sequence[str], texts: Sequence[list[str]], instruction: str | None
    ) -> list[tuple[list[Encoded], list[str]]]:
        """What a thinker takes: each query's prompts, and keys of chance that name query and document, not their places."""
        found = []
        for query, some in zip(queries, texts):
            prompts = self._encode(bound, query, some, instruction)
            self.cuts.count(prompts)
            found.append((prompts, [key_of(query, text) for text in some]))
        return found

    def likelihood(
        self, queries: Sequence[str], documents: Sequence[Sequence[Document]], progress: Callable[[int], None] | None = None
    ) -> list[np.ndarray]:
        """Query likelihood under the same weights, see `rank.likelihood`: one fp32 array a query."""
        lists = read_lists(queries, documents)
        with self._own_turn():
            return query_likelihood(self.model, self.tokenizer, lists.queries, lists.texts, self.prompt.longest, progress)

    def diagnose(self, queries: Sequence[str], documents: Sequence[Sequence[Document]]) -> Diagnosis:
        """Look at the answer position of every pair, a thinking model asked at once: see Diagnosis. Costs the whole output
        matrix."""
        lists = read_lists(queries, documents)
        with self._own_turn(), torch.inference_mode():
            seen = ((batch, self._hidden(batch)) for batch in self._batches(self._parts(lists.queries, lists.texts, None)))
            return diagnosis(self.model, self.prompt.answer_ids, seen, sum(map(len, lists.texts)))

    def _hidden(self, batch: Batch) -> torch.Tensor:
        return self._engine(batch) if self._engine else last_hidden(self.model, batch)

    def _batches(self, parts: Iterable[tuple[int, list[Encoded]]], most: int | None = None) -> Iterator[Batch]:
        """Forwards for `parts`, with at most so many documents each, see `windows`."""
        return batches(parts, self.model, self.tokenizer.pad_token_id, most, trim if self._engine else None)

    def _parts(
        self, queries: Sequence[str], texts: Sequence[list[str]], instruction: str | None
    ) -> Iterator[tuple[int, list[Encoded]]]:
        """(owner of the first, prompts) of each query, no more than a window of them at a time."""
        bound, first = self.prompt, 0
        assert isinstance(bound, PairPromptEncoder)
        for query, some in zip(queries, texts):
            query_cut = 0
            for at in range(0, len(some), WINDOW):
                prompts = self._encode(bound, query, some[at : at + WINDOW], instruction)
                query_cut = self.cuts.count(prompts, query_cut)
                yield first + at, prompts
            first += len(some)

    def _encode(self, bound: PairPromptEncoder, query: str, texts: list[str], instruction: str | None) -> list[Encoded]:
        prompts = bound.encode_many(query, texts, instruction)
        for prompt in prompts:
            self.cost.calls += 1
            self.cost.prompt_tokens += len(prompt.ids)
        return prompts
