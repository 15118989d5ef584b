"""ListPromptEncoder: encodes a query and several documents as one prompt.

Documents share the available tokens evenly. Tokens that short documents do not need go to the longer ones, so documents of equal
length are truncated equally.
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

MAX_DOCUMENTS = 20  # in one prompt
NUMBER_LABELS = [str(i + 1) for i in range(MAX_DOCUMENTS)]
LETTER_LABELS = list(string.ascii_uppercase[:MAX_DOCUMENTS])


@dataclass(frozen=True)
class EncodedList:
    """A prompt of several documents as token ids.

    Attributes:
        ids: the whole prompt.
        document_cuts: number of tokens truncated from each document.
        query_cut: number of tokens truncated from each occurrence of the query.
    """

    ids: list[int]
    document_cuts: list[int]
    query_cut: int = 0

    @property
    def whole(self) -> Encoded:
        """The prompt as an `Encoded` without a prefix that others share."""
        return Encoded(self.ids, 0, len(self.ids))


@dataclass
class ListPromptEncoder(Thinking):
    """Encodes lists with a prompt whose template is resolved for one tokenizer.

    In prompts of kind "setwise" the answer is a label that is one token; in other kinds the answer is text, and labels are numbers.

    Args:
        prompt: settings with a literal template (see `Prompt.bind_list`).
        tokenizer: tokenizer of transformers.
        max_positions: number of positions of the model, which limits `max_length`; None for no limit.

    Attributes:
        labels: labels of the documents in a prompt, by position.
        answer_ids: tokens of the labels as answers; empty if answers are text.

    Raises:
        PromptError: neither numbers nor letters are one token each (kind "setwise").
    """

    prompt: PromptSettings
    tokenizer: Any
    max_positions: int | None = None
    labels: list[str] = field(init=False)
    answer_ids: list[int] = field(init=False)

    def __post_init__(self) -> None:
        template = self.prompt.template
        self.segments = [part for text in ((template,) if isinstance(template, str) else template) for part in split(text)]
        self.repeats = sum(s.count("{query}") for s in self.segments)
        tail = self.segments[-1]
        self.labels, self.answer_ids = NUMBER_LABELS, []
        if not self.writes:
            self.labels, self.answer_ids = _single_token_labels(self.tokenizer, "" if SLOT.search(tail) else tail)
        self.longest = min(self.prompt.max_length, self.max_positions or self.prompt.max_length)
        self._literal = {i: self._tokens(s) for i, s in enumerate(self.segments) if not SLOT.search(s)}
        before, close = delimiter_tokens(self.tokenizer)
        self._document_format = self.prompt.document_format.replace("{open}", before).replace("{close}", close)
        self._frames = [self._frame("\n" * (i > 0), label) for i, label in enumerate(self.labels)]

    @property
    def writes(self) -> bool:
        """Whether the answer is text that has to be generated and parsed."""
        return self.prompt.kind != "setwise"

    def encode(self, query: str, documents: list[str], instruction: str | None = None) -> EncodedList:
        """Encode a query with several documents.

        Args:
            query: text of the query.
            documents: texts of the documents, in the order of the prompt.
            instruction: replaces the prompt's default; None for the default, "" for no instruction.

        Raises:
            PromptError: there are too many documents, or `max_length` leaves no tokens for them.
        """
        if not 0 < len(documents) <= MAX_DOCUMENTS:
            raise PromptError(f"a prompt shows 1 to {MAX_DOCUMENTS} documents, not {len(documents)}")
        whole, pieces, frames = self._batch([query])[0], self._batch(documents), self._frames[: len(documents)]
        values: dict[str, list[int]] = {"{query}": [], "{instruction}": self._instruction_ids(instruction), "{documents}": []}
        fixed = sum(map(len, chain(self._joined(values), *([part or [] for part in frame] for frame in frames))))
        places = self.repeats + len(documents) * self.prompt.document_format.count("{query}")
        shown_query = self._capped(whole, places, self.longest - fixed - sum(map(len, pieces)))
        shares = fair_shares([len(piece) for piece in pieces], self.longest - fixed - places * len(shown_query))
        values["{query}"] = shown_query
        filled = [[shown_query if part is None else part for part in frame] for frame in frames]
        for (before, *after), piece, share in zip(filled, pieces, shares):
            values["{documents}"] += [*before, *piece[:share], *chain(*after)]
        ids = list(chain(*self._joined(values)))
        return EncodedList(ids, [len(piece) - share for piece, share in zip(pieces, shares)], len(whole) - len(shown_query))

    def _joined(self, values: dict[str, list[int]]) -> list[list[int]]:
        """Return the ids of each segment, with `values` for the slots."""
        return [self._literal[i] if i in self._literal else values[segment] for i, segment in enumerate(self.segments)]

    def _instruction_ids(self, instruction: str | None) -> list[int]:
        """Return the ids of the instruction with its frame; empty if there is no instruction."""
        value = self.prompt.instruction if instruction is None else instruction
        return self._batch([self.prompt.instruction_format.replace("{instruction}", value)])[0] if value else []

    def _frame(self, lead: str, label: str) -> list[list[int] | None]:
        """Return the ids before a document, then those after it, with None in place of the query."""
        before, _, after = (lead + self._document_format).replace("{label}", label).partition("{document}")
        return [self._tokens(before), *(None if part == "{query}" else self._tokens(part) for part in split(after))]

    def render(self, query: str, documents: list[str], instruction: str | None = None) -> str:
        """Return the prompt as text, without truncation. Arguments as in `encode`."""
        value = self.prompt.instruction if instruction is None else instruction
        frames = [split(self._document_format.replace("{label}", label)) for label in self.labels]
        shown = (
            "".join({"{query}": query, "{document}": document}.get(part, part) for part in frame)
            for frame, document in zip(frames, documents)
        )
        framed = self.prompt.instruction_format.replace("{instruction}", value) if value else ""
        values = {"query": query, "documents": "\n".join(shown), "instruction": framed}
        return "".join(SLOT.sub(lambda m: values[m.group(1)], segment) for segment in self.segments)

    def answer(self, places: list[int]) -> str:
        """Return the answer for documents in this order, such as `[3] > [1]`."""
        return " > ".join(f"[{self.labels[place]}]" for place in places)

    def answer_tokens(self, answer: str) -> list[int]:
        """Return the ids of an answer such as `[3]`."""
        return self._tokens(answer)

    def _capped(self, ids: list[int], places: int, room: int) -> list[int]:
        """Truncate the query's ids so that its occurrences together take at most `query_share`, unless everything fits.

        Args:
            ids: ids of the query.
            places: number of occurrences of the query.
            room: number of tokens that remain if no document is truncated.
        """
        if len(ids) * places <= room:
            return ids
        return ids[: max(1, int(self.longest * self.prompt.query_share) // places)]


def fair_shares(lengths: list[int], room: int) -> list[int]:
    """Share `room` tokens evenly among texts. Tokens that short texts do not need go to longer ones.

    Args:
        lengths: number of tokens of each text.
        room: number of tokens to share.

    Returns:
        The number of tokens that each text may keep.

    Raises:
        PromptError: there is less than one token for each text.
    """
    if room < len(lengths):
        raise PromptError(f"max_length leaves {max(0, room)} tokens for {len(lengths)} documents; raise it or show fewer documents")
    shares = [0] * len(lengths)
    left = room
    for done, i in enumerate(sorted(range(len(lengths)), key=lambda i: lengths[i])):
        shares[i] = min(lengths[i], left // (len(lengths) - done))
        left -= shares[i]
    return shares


def _single_token_labels(tokenizer: Any, tail: str) -> tuple[list[str], list[int]]:
    """Return (labels that are single tokens after the prompt, their ids): numbers, else letters. Raises PromptError."""
    for labels in (NUMBER_LABELS, LETTER_LABELS):
        try:
            ids = [answer_token(tokenizer, tail, label) for label in labels]
        except PromptError as error:
            reason = error
            continue
        if len(set(ids)) == len(ids):
            return labels, ids
        reason = PromptError("two labels share a token")
    raise PromptError(f"neither numbers nor letters are single tokens after {tail[-20:]!r} with this tokenizer ({reason})")
