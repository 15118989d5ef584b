"""A prompt of several documents joined with a tokenizer: from (query, documents) to ids that ask for a label or an order.

Documents share what room there is: a short one takes what it needs, and what it leaves goes to the longer ones, so no
document is cut while another of its length is whole. Each cut is counted.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from ..errors import PromptError
from .pair_encoder import Encoded
from .prompt_settings import PromptSettings
from .slots import SLOT, split
from .template import delimiter_tokens
from .thinking_tags import Thinking
from .tokens import answer_token

MOST = 20  # documents shown at once
LABELS = ([str(i + 1) for i in range(MOST)], list(string.ascii_uppercase[:MOST]))  # the first kind that is one token each


@dataclass(frozen=True)
class EncodedList:
    """A prompt of several documents as ids. `cuts`: tokens left out of each document; `query_cut`: of the query, in each of its
    places."""

    ids: list[int]
    cuts: list[int]
    query_cut: int = 0

    @property
    def whole(self) -> Encoded:
        """The prompt as one that shares nothing with others."""
        return Encoded(self.ids, 0, len(self.ids))


@dataclass
class ListPromptEncoder(Thinking):
    """A prompt of several documents whose template is resolved for one tokenizer. Where the answer is one label (kind "setwise") it
    is one token; elsewhere it is written, and labels are numbers."""

    prompt: PromptSettings
    tokenizer: Any
    max_positions: int | None = None
    labels: list[str] = field(init=False)
    answer_ids: list[int] = field(init=False)  # their tokens as answers; none where answers are written

    def __post_init__(self) -> None:
        template = self.prompt.template
        self.segments = [part for text in ((template,) if isinstance(template, str) else template) for part in split(text)]
        self.repeats = sum(s.count("{query}") for s in self.segments)
        tail = self.segments[-1]
        self.labels, self.answer_ids = LABELS[0], []
        if not self.writes:
            self.labels, self.answer_ids = _labels(self.tokenizer, "" if SLOT.search(tail) else tail)
        self.longest = min(self.prompt.max_length, self.max_positions or self.prompt.max_length)
        self._literal = {i: self._tokens(s) for i, s in enumerate(self.segments) if not SLOT.search(s)}
        before, close = delimiter_tokens(self.tokenizer)
        self._form = self.prompt.document_format.replace("{open}", before).replace("{close}", close)
        self._frames = [self._frame("\n" * (i > 0), label) for i, label in enumerate(self.labels)]

    @property
    def writes(self) -> bool:
        """Whether the answer is written, so that it has to be read."""
        return self.prompt.kind != "setwise"

    def encode(self, query: str, documents: list[str], instruction: str | None = None) -> EncodedList:
        """Ids that show these documents and ask for a label. Raises PromptError for too many, or where they have no room."""
        if not 0 < len(documents) <= MOST:
            raise PromptError(f"a prompt shows 1 to {MOST} documents, not {len(documents)}")
        whole, pieces, frames = self._batch([query])[0], self._batch(documents), self._frames[: len(documents)]
        values: dict[str, list[int]] = {"{query}": [], "{instruction}": self._told(instruction), "{documents}": []}
        fixed = sum(map(len, chain(self._joined(values), *([part or [] for part in frame] for frame in frames))))
        places = self.repeats + len(documents) * self.prompt.document_format.count("{query}")
        asked = self._capped(whole, places, self.longest - fixed - sum(map(len, pieces)))
        shares = fair_shares([len(piece) for piece in pieces], self.longest - fixed - places * len(asked))
        values["{query}"] = asked
        filled = [[asked if part is None else part for part in frame] for frame in frames]
        for (before, *after), piece, share in zip(filled, pieces, shares):
            values["{documents}"] += [*before, *piece[:share], *chain(*after)]
        ids = list(chain(*self._joined(values)))
        return EncodedList(ids, [len(piece) - share for piece, share in zip(pieces, shares)], len(whole) - len(asked))

    def _joined(self, values: dict[str, list[int]]) -> list[list[int]]:
        """The ids of each segment, with these for the slots."""
        return [self._literal[i] if i in self._literal else values[segment] for i, segment in enumerate(self.segments)]

    def _told(self, instruction: str | None) -> list[int]:
        """Ids of the instruction in its form; none where there is none."""
        value = self.prompt.instruction if instruction is None else instruction
        return self._batch([self.prompt.instruction_format.replace("{instruction}", value)])[0] if value else []

    def _frame(self, lead: str, label: str) -> list[list[int] | None]:
        """What stands around a document: the ids before it, then those behind it, with None for the query."""
        before, _, after = (lead + self._form).replace("{label}", label).partition("{document}")
        return [self._tokens(before), *(None if part == "{query}" else self._tokens(part) for part in split(after))]

    def render(self, query: str, documents: list[str], instruction: str | None = None) -> str:
        """The prompt as text, nothing cut."""
        value = self.prompt.instruction if instruction is None else instruction
        frames = [split(self._form.replace("{label}", label)) for label in self.labels]
        shown = (
            "".join({"{query}": query, "{document}": document}.get(part, part) for part in frame)
            for frame, document in zip(frames, documents)
        )
        told = self.prompt.instruction_format.replace("{instruction}", value) if value else ""
        values = {"query": query, "documents": "\n".join(shown), "instruction": told}
        return "".join(SLOT.sub(lambda m: values[m.group(1)], segment) for segment in self.segments)

    def answer(self, places: list[int]) -> str:
        """What is written for documents in this order: `[3] > [1]`."""
        return " > ".join(f"[{self.labels[place]}]" for place in places)

    def answer_tokens(self, answer: str) -> list[int]:
        """Ids of an answer such as `[3]`."""
        return self._tokens(answer)

    def _capped(self, ids: list[int], places: int, room: int) -> list[int]:
        """What each of the query's `places` shows of its ids: all of them where they fit into `room`, which whole documents leave;
        else all places share `query_share`."""
        if len(ids) * places <= room:
            return ids
        return ids[: max(1, int(self.longest * self.prompt.query_share) // places)]


def fair_shares(lengths: list[int], room: int) -> list[int]:
    """Tokens each text may keep of `room`: all of it where it fits into an even share of what is left, else that share.

    Raises PromptError if there is not a token for each.
    """
    if room < len(lengths):
        raise PromptError(f"max_length leaves {max(0, room)} tokens for {len(lengths)} documents; raise it or show fewer")
    shares = [0] * len(lengths)
    left = room
    for done, i in enumerate(sorted(range(len(lengths)), key=lambda i: lengths[i])):
        shares[i] = min(lengths[i], left // (len(lengths) - done))
        left -= shares[i]
    return shares


def _labels(tokenizer: Any, tail: str) -> tuple[list[str], list[int]]:
    """Labels that are one token each behind the prompt, and these tokens: numbers, else letters."""
    for labels in LABELS:
        try:
            ids = [answer_token(tokenizer, tail, label) for label in labels]
        except PromptError as error:
            reason = error
            continue
        if len(set(ids)) == len(ids):
            return labels, ids
        reason = PromptError("two labels share a token")
    raise PromptError(f"neither numbers nor letters are one token each behind {tail[-20:]!r} under this tokenizer ({reason})")
