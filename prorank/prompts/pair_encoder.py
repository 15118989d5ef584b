"""PairPromptEncoder: encodes (query, document, instruction) with a prompt and a tokenizer.

Segments of the template are tokenised separately, and their ids are joined. First the query is truncated to its share, then the
document to the remaining tokens; the prompt's own text is never truncated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import PromptError
from .document_frame import DocumentFrame, DocumentFraming
from .encoded import Encoded, TruncationCounts
from .prompt_settings import PromptSettings
from .sentinels import pair_chat, special_texts
from .slots import SLOT, split
from .template import delimiter_tokens
from .thinking_tags import OPEN, SHUT
from .tokens import answer_token
from .truncation import DEFAULT_TRUNCATION, Truncation

__all__ = ["PairPromptEncoder", "TruncationCounts", "Encoded"]


@dataclass
class PairPromptEncoder(DocumentFraming):
    """Encodes pairs with a prompt whose template is resolved for one tokenizer.

    Args:
        prompt: settings with a literal template (see `Prompt.bind`); this is what is saved with a checkpoint.
        tokenizer: tokenizer of transformers.
        max_positions: number of positions of the model, which limits `max_length`; None for no limit.

    Attributes:
        segments: parts of the template that are tokenised separately.
        answer_ids: ids of the answers (not relevant, relevant).

    Raises:
        PromptError: an answer is not one token, or `max_length` leaves no tokens besides the template.
    """

    prompt: PromptSettings
    tokenizer: Any
    max_positions: int | None = None
    segments: list[str] = field(init=False)
    answer_ids: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        template = self.prompt.template
        self.segments = list(template) if isinstance(template, tuple) else split(template)
        self._open, self._close = delimiter_tokens(self.tokenizer)
        self._document_at = next(i for i, s in enumerate(self.segments) if "{document}" in s)
        self._query_at = next(i for i, s in enumerate(self.segments) if "{query}" in s)
        self.repeats = sum(s.count("{query}") for s in self.segments)
        self._literal = {i: self._tokens(s) for i, s in enumerate(self.segments) if not SLOT.search(s)}
        # Text of the template before the document in its segment, with which every chunk begins.
        self._lead = self._tokens(self.segments[self._document_at].partition("{document}")[0].rstrip())
        self._fixed = sum(len(ids) for ids in self._literal.values())
        self._max = self._content_room()
        no, yes = self.prompt.answers
        self.answer_ids = self._answer_id(no), self._answer_id(yes)
        if self.answer_ids[0] == self.answer_ids[1]:
            raise PromptError(f"both answers {self.prompt.answers} are the same token here; choose others (key 'answers')")

    def encode(self, query: str, document: str, instruction: str | None = None) -> Encoded:
        """Encode one pair.

        Args:
            query, document: texts of the pair.
            instruction: replaces the prompt's default; None for the default, "" for no instruction.
        """
        return self.encode_many(query, [document], instruction)[0]

    def encode_many(self, query: str, documents: list[str], instruction: str | None = None) -> list[Encoded]:
        """Encode one query with each of the documents, in order. The query is tokenised once. Arguments as in `encode`."""
        return [chunks[0] for chunks in self.encode_chunks(query, documents, instruction)]

    def encode_chunks(
        self, query: str, documents: list[str], instruction: str | None = None, truncation: Truncation = DEFAULT_TRUNCATION
    ) -> list[list[Encoded]]:
        """Encode one query with each of the documents, truncated or split into chunks.

        Args:
            query: text of the query.
            documents: texts of the documents.
            instruction: see `encode`.
            truncation: how documents are fitted into their prompts.

        Returns:
            The prompts of each document: one, or one for each chunk.

        Raises:
            PromptError: query and template leave no tokens for a document.
        """
        capped = self._frame(query, instruction, truncation.max_query_tokens)
        room = self._room(capped, truncation)
        if truncation.max_prompt_tokens is not None and room < 1:
            taken = len(capped.head + capped.tail)
            limit = truncation.max_prompt_tokens
            raise PromptError(f"a limit of {limit} tokens leaves no room for a document: query and template take {taken}; raise it")
        whole = self._whole_frame(query, instruction, truncation, capped)
        pieces = self._batch([self.segments[self._document_at].replace("{document}", d) for d in documents])
        return [self._join(piece, truncation, capped, room, whole) for piece in pieces]

    def frames_of_lengths(
        self, query: str, lengths: Iterable[int], instruction: str | None = None, truncation: Truncation = DEFAULT_TRUNCATION
    ) -> dict[int, DocumentFrame]:
        """Return the ids around documents whose tokens are fixed, in a prompt with the document first.

        The query is whole if it fits beside the document, else truncated to its share, or to the tokens that the document leaves.

        Args:
            query, instruction, truncation: see `encode_chunks`.
            lengths: numbers of tokens of documents, each of which leaves a token for the query.

        Returns:
            The frame by number of tokens.
        """
        capped = self._frame(query, instruction, truncation.max_query_tokens)
        whole = self._whole_frame(query, instruction, truncation, capped)
        frames: dict[int, DocumentFrame] = {}
        for length in set(lengths):
            excess = length - self._room(capped, truncation)
            if whole and length <= self._room(whole, truncation):
                frames[length] = whole
            elif excess <= 0:
                frames[length] = capped
            else:
                frames[length] = self._frame(query, instruction, capped.query_tokens - excess, share=False)
        return frames

    def _join(
        self, piece: list[int], truncation: Truncation, capped: DocumentFrame, room: int, whole: DocumentFrame | None
    ) -> list[Encoded]:
        """Return the prompts of one document: with the whole query if both fit, else with the truncated query."""
        lead = self._lead_of(piece)
        text, frame = piece[len(lead) :], capped
        limits = (truncation.max_document_tokens, self.prompt.chunk_length)
        shown = len(lead) + min([len(text), *(limit for limit in limits if limit is not None)])  # tokens in one prompt
        if whole and shown <= self._room(whole, truncation):
            frame, room = whole, self._room(whole, truncation)
        head, tail = frame.head, frame.tail
        chunks, cut = truncation.split(text, max(0, min(room, shown) - len(lead)))
        spans = [lead + chunk for chunk in chunks]
        return [Encoded(head + span + tail, len(head), len(head) + len(span), cut, frame.query_cut) for span in spans]

    def _room(self, frame: DocumentFrame, truncation: Truncation) -> int:
        """Return the maximum number of tokens of a document in this frame."""
        room, limit = self._max - frame.content_tokens, truncation.max_prompt_tokens
        return room if limit is None else min(room, limit - len(frame.head) - len(frame.tail))

    def _whole_frame(
        self, query: str, instruction: str | None, truncation: Truncation, capped: DocumentFrame
    ) -> DocumentFrame | None:
        """Return the frame with a query longer than its share, for short documents; None for other queries.

        With `length_counts: content` the query is always truncated to its share, as in the released models.
        """
        if not capped.query_cut or self.prompt.length_counts == "content":
            return None
        frame = self._frame(query, instruction, truncation.max_query_tokens, share=False)
        return frame if frame.query_cut < capped.query_cut else None

    def document_text(self, prompt: Encoded) -> str:
        """Return the document, or the chunk of it, in a prompt as text."""
        ids = prompt.ids[prompt.document_start : prompt.document_end]
        return self.tokenizer.decode(ids[len(self._lead_of(ids)) :]).strip()

    def _lead_of(self, ids: list[int]) -> list[int]:
        """Return the template's text before the document in its segment, with which `ids` begin; [] if the tokenizer merged it."""
        return self._lead if ids[: len(self._lead)] == self._lead else []

    def render(self, query: str, document: str, instruction: str | None = None) -> str:
        """Return the prompt as text, without truncation. Arguments as in `encode`."""
        values = {"query": query, "document": document, "instruction": self._instruction(instruction)}
        return "".join(SLOT.sub(lambda m: values[m.group(1)], s) for s in self.segments)

    def chat_template(self, escapes: bool = False, breaks: bool = False) -> str:
        """Return a Jinja chat template for messages of the roles system (the instruction), query and document.

        Other libraries render the prompt with it; sentence-transformers maps a pair to these roles.

        Args:
            escapes, breaks: add the marks of `prorank.prompts.sentinels`, which the tokenizer must remove.
        """
        instruction = (*self._instruction_frame(), self._instruction(None))
        return pair_chat(self.segments, instruction, special_texts(self.tokenizer) if escapes else [], breaks)

    @property
    def longest(self) -> int:
        """Maximum number of tokens of a prompt, including the template."""
        whole = self.prompt.max_length
        if self.prompt.length_counts == "content":
            whole += self._fixed - len(self._separator())
        return min(whole, self.max_positions or whole)

    @property
    def query_behind(self) -> bool:
        """Whether the query comes after the document, so that truncating the end of the prompt would remove it."""
        return self._query_at > self._document_at or self.repeats > 1

    def answer_tokens(self, answer: int) -> list[int]:
        """Return the single token of the answer 1 (relevant) or 0."""
        return [self.answer_ids[answer]]

    def instruction_ids(self) -> list[int]:
        """Return the ids of the default instruction with its frame; empty if there is no instruction."""
        return self._fill("{instruction}", "", None)

    def instruction_text(self) -> str:
        """Return the default instruction with its frame; "" if there is no instruction."""
        return self._instruction(None)

    def query_limit(self) -> int:
        """Return the maximum number of tokens of one occurrence of the query, given the default instruction."""
        limit = self._frame("", None).query_limit
        assert limit is not None
        return limit

    def direct(self) -> PairPromptEncoder:
        """Return an encoder with an empty thought, so that a thinking model answers at once; self for other kinds of prompts."""
        if self.prompt.kind != "thinking":
            return self
        template = (*self.segments, *([] if self.opened else [f"{OPEN}\n"]), SHUT)
        return PairPromptEncoder(replace(self.prompt, kind="binary", template=template), self.tokenizer, self.max_positions)

    def _content_room(self) -> int:
        """Return the maximum number of tokens of instruction, query and document together."""
        room = self.longest - self._fixed
        if room < 8:
            raise PromptError(
                f"max_length {self.prompt.max_length} leaves {room} tokens besides the prompt's own {self._fixed}; raise max_length"
            )
        return room

    def _answer_id(self, answer: str) -> int:
        """Return the answer's token after the prompt's last segment. Raises PromptError if it is not a single token."""
        tail = SHUT if self.prompt.kind == "thinking" else self.segments[-1]
        return answer_token(self.tokenizer, "" if SLOT.search(tail) else tail, answer)
