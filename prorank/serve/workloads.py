"""What the model is asked for a request: documents one by one, or comparisons of several; as units for the queue.

Units of many requests go through one forward, and each gets what the library gives it alone, float noise aside: the
prompts are the Prompt's, the scores the Reranker's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np

from ..errors import ModelError
from ..prompts.tokens import free_tokens
from ..prompts.truncation import DEFAULT_TRUNCATION, Truncation
from ..rank.listwise import ListRanker
from ..rank.thinking import Thought, key_of
from ..reranker import Reranker
from .job import Request
from .messages import RequestError
from .queue import QueueItem

TOKENS = 1024  # of a batch on a CPU: about the engine's own speed with its wide ones, and nobody waits long behind it
WIDE = 16384  # where forwards are wide, on a GPU
ROWS = 32  # documents that are thought about together
QUESTIONS = 4  # comparisons of several documents in a batch
MAX_CHARS_PER_TOKEN = 256  # characters that no token is longer than: what lies behind is cut before it is tokenised
SLICE = 64, 200_000  # documents and characters that are tokenised in one go

Value = tuple[float, Thought | None]


class Documents:
    """Scores of documents one by one.

    Args:
        reranker: a pointwise one, which may think.
        budget: tokens of a batch; documents, if it thinks. None chooses.
    """

    distinct = True  # a text is read once in a list; where documents are compared, twins count

    def __init__(self, reranker: Reranker, budget: int | None = None) -> None:
        self.reranker, self.thinks = reranker, reranker.thinks
        self.budget = budget or (ROWS if self.thinks else TOKENS if reranker.device.type == "cpu" else WIDE)
        # Prompts are encoded beside the model's thread, and a tokenizer cannot be shared: it is set anew for each kind of text.
        self.bound = copy.deepcopy(reranker.bound)
        self.longest = self.bound.longest

    def slices(self, request: Request) -> Iterator[tuple[int, list[int]]]:
        """(list, places of texts) to encode in one go, so that no request keeps others from being encoded."""
        for number, texts in enumerate(request.texts):
            some, letters = [], 0
            for place, text in enumerate(texts):
                some.append(place)
                letters += min(len(text), self._letters(request))
                if len(some) >= SLICE[0] or letters >= SLICE[1]:
                    yield number, some
                    some, letters = [], 0
            if some:
                yield number, some

    def encode(self, request: Request, number: int, places: list[int]) -> list[QueueItem[Request]]:
        """Units of these texts, the longest first. Raises Refused for a text that had to be cut and must not be, PromptError where
        there is no room."""
        ask, most = request.ask, self._letters(request)
        query = ask.lists[number][0]
        texts = [_near(request.texts[number][place], most, ask.parts.side) for place in places]
        found = self.bound.encode_chunks(query[:most], texts, ask.instruction, ask.parts)
        units = []
        for place, text, prompts in zip(places, texts, found):
            whole = request.texts[number][place]
            cut = [place] if prompts[0].document_cut or len(text) < len(whole) else []
            request.heard(number, cut, prompts[0].query_cut > 0, sum(len(prompt.ids) for prompt in prompts))
            units += [self._unit(request, number, place, prompt, key_of(query, whole)) for prompt in prompts]
        return sorted(units, key=lambda unit: -unit.tokens)

    def _unit(self, request: Request, number: int, place: int, prompt: Any, key: str) -> QueueItem[Request]:
        own = 1 if self.thinks else len(prompt.ids) - prompt.document_start
        return QueueItem(request, number, place, own, 0 if self.thinks else prompt.document_start, (prompt, key))

    def _letters(self, request: Request) -> int:
        return MAX_CHARS_PER_TOKEN * self.longest * request.ask.parts.max_chunks

    def run(self, units: list[QueueItem[Request]]) -> list[Value]:
        """(log-odds, thought) of each."""
        lists = [list(some) for _, some in groupby(units, key=lambda unit: (id(unit.job), unit.number))]
        asked = [([unit.what[0] for unit in some], [unit.what[1] for unit in some]) for some in lists]
        rows, thoughts = self.reranker.score_encoded(asked)
        said: list[Thought | None] = [thought for some in thoughts for thought in some]
        return list(zip(np.concatenate(rows).tolist(), said or [None] * len(units)))

    def take(self, unit: QueueItem[Request], value: Value) -> list[QueueItem[Request]]:
        """Note a score: a document's is the best of its parts. Raises ModelError for one that is not finite."""
        request, (score, thought) = unit.job, value
        if not math.isfinite(score):
            raise ModelError(f"{self.reranker.name}: a score is not finite; the weights are damaged or its training diverged")
        if score > request.scores[unit.number][unit.place]:
            request.scores[unit.number][unit.place], request.thoughts[unit.number][unit.place] = score, thought
        return []


class Comparisons:
    """Orders of documents by a method of lists; a unit is a question of it.

    Args:
        reranker: one with a method of lists.
        lists: that method, with its prompts and its reader.
        budget: questions of a batch; None chooses.
    """

    thinks, distinct = False, False

    def __init__(self, reranker: Reranker, lists: ListRanker, budget: int | None = None) -> None:
        self.reranker, self.lists, self.budget = reranker, lists, budget or QUESTIONS
        self.bound = copy.deepcopy(reranker.prompt)
        self.longest = self.bound.longest

    def slices(self, request: Request) -> Iterator[tuple[int, list[int]]]:
        """Each list at once."""
        return ((number, list(range(len(texts)))) for number, texts in enumerate(request.texts) if texts)

    def encode(self, request: Request, number: int, places: list[int]) -> list[QueueItem[Request]]:
        """The first question about a list. Raises Refused where its documents should be fitted in a way that it cannot."""
        parts = request.ask.parts
        if parts.max_chunks > 1 or parts.max_prompt_tokens or parts.max_query_tokens:
            raise RequestError(
                "invalid", "this model is shown several documents at once: no chunks, no tokens of a prompt or a query"
            )
        texts = request.texts[number]
        request.texts[number] = [self._fitted(request, number, at, text, parts) for at, text in enumerate(texts)]
        request.sorters[number] = self.lists.method.sorter(len(places))
        return self._next(request, number, None)

    def _fitted(self, request: Request, number: int, place: int, text: str, parts: Truncation) -> str:
        """What can be shown of a text."""
        kept = _near(text, MAX_CHARS_PER_TOKEN * self.longest, parts.side)
        if parts != DEFAULT_TRUNCATION:
            ids = free_tokens(self.bound.tokenizer, [kept])[0]
            shown = parts.split(ids, self.longest)[0][0]
            kept = kept if len(shown) == len(ids) else self.bound.tokenizer.decode(shown)
        if kept != text:
            request.heard(number, [place], False, 0)
        return kept

    def run(self, units: list[QueueItem[Request]]) -> list[Any]:
        """The method's answer to each question."""
        out: list[Any] = [None] * len(units)
        for instruction in dict.fromkeys(unit.job.ask.instruction for unit in units):
            mine = [i for i, unit in enumerate(units) if unit.job.ask.instruction == instruction]
            for i, value in zip(mine, self._asked([units[i] for i in mine], instruction)):
                out[i] = value
        return out

    def _asked(self, units: list[QueueItem[Request]], instruction: str | None) -> list[Any]:
        """(answer, what was cut of it and what it cost) of each."""
        heard: list[list[tuple]] = [[] for _ in units]
        rows = self.lists.values([self._shown(unit) for unit in units], instruction, lambda i, *what: heard[i].append(what))
        return [(self.lists.method.answer(row), some) for row, some in zip(rows, heard)]

    def _shown(self, unit: QueueItem[Request]) -> tuple[str, list[str]]:
        texts = unit.job.texts[unit.number]
        return unit.job.ask.lists[unit.number][0][: MAX_CHARS_PER_TOKEN * self.longest], [texts[place] for place in unit.what]

    def take(self, unit: QueueItem[Request], value: Any) -> list[QueueItem[Request]]:
        """The question that follows from an answer; none where the order is known."""
        answer, heard = value
        for places, query_cut, tokens in heard:
            unit.job.heard(unit.number, [unit.what[place] for place in places], query_cut, tokens)
        return self._next(unit.job, unit.number, answer)

    def _next(self, request: Request, number: int, answer: Any) -> list[QueueItem[Request]]:
        try:
            question = request.sorters[number].send(answer)
            return [QueueItem(request, number, 0, 1, 0, question)]
        except StopIteration as end:
            del request.sorters[number]
            request.scores[number] = -np.argsort(end.value).astype(np.float32)
            return []


def _near(text: str, most: int, side: str) -> str:
    """The letters that can count of a text that is cut on this side."""
    return text[:most] if side == "right" else text[-most:]


def work_of(reranker: Reranker, budget: int | None = None) -> Documents | Comparisons:
    """What a reranker's requests are made of."""
    return Comparisons(reranker, reranker.lists, budget) if reranker.lists else Documents(reranker, budget)
