"""A prompt joined with a tokenizer: from (query, document, instruction) to ids.

Ids are joined from separately tokenised segments and only the document is cut (an over-long query is capped at its
share first), so the words that ask for the answer always survive. Each cut is counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import PromptError
from .encoded import Around, Encoded, TruncationCounts
from .prompt_settings import PromptSettings
from .sentinels import pair_chat, special_texts
from .slots import SLOT, split
from .template import delimiter_tokens
from .thinking_tags import OPEN, SHUT, Thinking
from .tokens import answer_token
from .truncation import WHOLE, Truncation

__all__ = ["PairPromptEncoder", "TruncationCounts", "Encoded"]


@dataclass
class PairPromptEncoder(Thinking):
    """A prompt whose template is resolved for one tokenizer. `prompt` is what gets saved with a checkpoint."""

    prompt: PromptSettings
    tokenizer: Any
    max_positions: int | None = None
    segments: list[str] = field(init=False)
    answer_ids: tuple[int, int] = field(init=False)  # (not relevant, relevant)

    def __post_init__(self) -> None:
        template = self.prompt.template
        self.segments = list(template) if isinstance(template, tuple) else split(template)
        self._open, self._close = delimiter_tokens(self.tokenizer)
        self._document_at = next(i for i, s in enumerate(self.segments) if "{document}" in s)
        self._query_at = next(i for i, s in enumerate(self.segments) if "{query}" in s)
        self.repeats = sum(s.count("{query}") for s in self.segments)
        self._literal = {i: self._tokens(s) for i, s in enumerate(self.segments) if not SLOT.search(s)}
        # Words of the template before the document within its segment: every part of a document begins with them.
        self._lead = self._tokens(self.segments[self._document_at].partition("{document}")[0].rstrip())
        self._fixed = sum(len(ids) for ids in self._literal.values())
        self._max = self._content_room()
        no, yes = self.prompt.answers
        self.answer_ids = self._answer_id(no), self._answer_id(yes)
        if self.answer_ids[0] == self.answer_ids[1]:
            raise PromptError(f"this tokenizer has one token for both answers {self.prompt.answers}; choose others (key 'answers')")

    def encode(self, query: str, document: str, instruction: str | None = None) -> Encoded:
        """Ids of one prompt. `instruction` None means the prompt's default, "" none at all."""
        return self.encode_many(query, [document], instruction)[0]

    def encode_many(self, query: str, documents: list[str], instruction: str | None = None) -> list[Encoded]:
        """Ids of one query with each document; the query's part is tokenised once."""
        return [some[0] for some in self.encode_parts(query, documents, instruction)]

    def encode_parts(
        self, query: str, documents: list[str], instruction: str | None = None, parts: Truncation = WHOLE
    ) -> list[list[Encoded]]:
        """`encode_many` with each document fitted by `parts`: one prompt, or one a part. Raises PromptError where nothing of a
        document has room."""
        capped = self._around(query, instruction, parts.query)
        room = self._room(capped, parts)
        if parts.prompt is not None and room < 1:
            taken = len(capped.head + capped.tail)
            raise PromptError(f"{parts.prompt} tokens leave no room for a document; query and template take {taken}")
        whole = self._whole(query, instruction, parts, capped)
        pieces = self._batch([self.segments[self._document_at].replace("{document}", d) for d in documents])
        return [self._joined(piece, parts, capped, room, whole) for piece in pieces]

    def _joined(self, piece: list[int], parts: Truncation, capped: Around, room: int, whole: Around | None) -> list[Encoded]:
        """The prompts of one document's ids: with the whole query where both fit together, else with the capped one."""
        lead = self._lead if piece[: len(self._lead)] == self._lead else []
        kept = len(piece) if parts.most is None else len(lead) + min(len(piece) - len(lead), parts.most)
        around = capped
        if whole and kept <= self._room(whole, parts):
            around, room = whole, self._room(whole, parts)
        head, tail = around.head, around.tail
        shown, cut = parts.of(piece[len(lead) :], max(0, room - len(lead)))
        spans = [lead + some for some in shown]
        return [Encoded(head + some + tail, len(head), len(head) + len(some), cut, around.cut) for some in spans]

    def _room(self, around: Around, parts: Truncation) -> int:
        """Tokens that a document may take between these."""
        room = self._max - around.content
        return room if parts.prompt is None else min(room, parts.prompt - len(around.head) - len(around.tail))

    def _whole(self, query: str, instruction: str | None, parts: Truncation, capped: Around) -> Around | None:
        """What stands around a document if the query keeps what its share would cut; None where nothing is gained.

        The released models' rule (`length_counts: content`) caps the query in any case.
        """
        if not capped.cut or self.prompt.length_counts == "content":
            return None
        found = self._around(query, instruction, parts.query, share=False)
        return found if found.cut < capped.cut else None

    def render(self, query: str, document: str, instruction: str | None = None) -> str:
        """The prompt as text, nothing cut."""
        values = {"query": query, "document": document, "instruction": self._instruction(instruction)}
        return "".join(SLOT.sub(lambda m: values[m.group(1)], s) for s in self.segments)

    def chat_template(self, escapes: bool = False, breaks: bool = False) -> str:
        """A Jinja chat template for messages of the roles system (the instruction), query and document.

        Other libraries read the prompt by it; sentence-transformers maps a pair to these roles.

        Args:
            escapes, breaks: with the characters of `prorank.prompts.sentinels`, which the tokenizer has to drop.
        """
        instruction = (*self._instruction_frame(), self._instruction(None))
        return pair_chat(self.segments, instruction, special_texts(self.tokenizer) if escapes else [], breaks)

    @property
    def longest(self) -> int:
        """The longest prompt in tokens, template included."""
        whole = self.prompt.max_length
        if self.prompt.length_counts == "content":
            whole += self._fixed - len(self._separator())
        return min(whole, self.max_positions or whole)

    @property
    def query_behind(self) -> bool:
        """Whether the query stands behind the document, where a cut at the end would take it."""
        return self._query_at > self._document_at or self.repeats > 1

    def answer_tokens(self, answer: int) -> list[int]:
        """The one token of the answer 1 (relevant) or 0."""
        return [self.answer_ids[answer]]

    def instruction_ids(self) -> list[int]:
        """Ids of the default instruction in its form; none where there is none."""
        return self._fill("{instruction}", "", None)

    def instruction_text(self) -> str:
        """The default instruction in its form, "" where there is none."""
        return self._instruction(None)

    def query_limit(self) -> int:
        """Most tokens of one occurrence of the query, beside the default instruction."""
        limit = self._around("", None).limit
        assert limit is not None  # as the share bounds it
        return limit

    def direct(self) -> PairPromptEncoder:
        """The same prompt with an empty thought, up to its answer: how a thinking model is asked at once. A prompt that asks for no
        thought stays as it is."""
        if self.prompt.kind != "thinking":
            return self
        template = (*self.segments, *([] if self.opened else [f"{OPEN}\n"]), SHUT)
        return PairPromptEncoder(replace(self.prompt, kind="binary", template=template), self.tokenizer, self.max_positions)

    def _content_room(self) -> int:
        """Tokens that instruction, query and document may take together."""
        room = self.longest - self._fixed
        if room < 8:
            raise PromptError(
                f"max_length {self.prompt.max_length} leaves {room} tokens beside the prompt's own {self._fixed}; raise max_length"
            )
        return room

    def _separator(self) -> list[int]:
        """Fixed ids between query and document, which count as content in the released models' rule."""
        one, other = sorted((self._query_at, self._document_at))
        return [t for i in range(one + 1, other) for t in self._literal.get(i, [])]

    def _around(self, query: str, instruction: str | None, most: int | None = None, share: bool = True) -> Around:
        """What stands around a document: the query is cut to its share (unless `share` is False) and to `most` tokens."""
        head, used, cut, limit = [], 0, 0, None if share else most
        for i in range(self._document_at):
            if i in self._literal:
                head += self._literal[i]
                continue
            ids = self._fill(self.segments[i], query, instruction)
            if "{query}" in self.segments[i]:
                limit = self._query_limit(used, most) if share else most
                cut, ids = len(ids) - len(ids[:limit]), ids[:limit]
            elif used + len(ids) > self._max - 8:
                raise PromptError(
                    f"the instruction takes {len(ids)} tokens and leaves no room in max_length {self.prompt.max_length}; "
                    "shorten it or raise max_length"
                )
            head += ids
            used += len(ids)
        if share and limit is None:  # the query stands behind the document
            limit = self._query_limit(used, most)
        tail, again, cut_again = self._tail(query, limit)
        return Around(head, tail, used + again, max(cut, cut_again), limit)

    def _tail(self, query: str, limit: int | None) -> tuple[list[int], int, int]:
        """Ids after the document, how many of them are the query's, which is capped as in the head, and tokens cut from it."""
        tail, again, cut = [], 0, 0
        for i in range(self._document_at + 1, len(self.segments)):
            if i in self._literal:
                tail += self._literal[i]
                continue
            ids = self._fill(self.segments[i], query, None)
            cut = max(cut, len(ids) - len(ids[:limit]))
            tail += ids[:limit]
            again += len(ids[:limit])
        return tail, again, cut

    def _query_limit(self, used: int, most: int | None = None) -> int:
        """Most tokens of one occurrence of the query, with `used` taken by the instruction; all occurrences share `query_share`.
        `most` bounds it."""
        content = self.prompt.length_counts == "content"
        # The released models' rule counts the separator, and caps instruction and query as one piece.
        whole = self._max + len(self._separator()) if content else self.prompt.max_length
        cap = int(whole * self.prompt.query_share) // self.repeats
        limit = cap if content else max(1, min(cap, (self._max - used) // (2 * self.repeats)))
        return limit if most is None else min(most, limit)

    def _fill(self, segment: str, query: str, instruction: str | None) -> list[int]:
        """Ids of a segment with slots. The instruction's own frame may hold special tokens; what users wrote may not."""
        if segment == "{instruction}":
            value = self.prompt.instruction if instruction is None else instruction
            before, after = self._instruction_frame()
            return self._tokens(before) + self._batch([value])[0] + self._tokens(after) if value else []
        values = {"query": query, "instruction": self._instruction(instruction)}
        return self._batch([SLOT.sub(lambda m: values[m.group(1)], segment)])[0]

    def _instruction(self, instruction: str | None) -> str:
        value = self.prompt.instruction if instruction is None else instruction
        before, after = self._instruction_frame()
        return before + value + after if value else ""

    def _instruction_frame(self) -> tuple[str, str]:
        text = self.prompt.instruction_format.replace("{open}", self._open).replace("{close}", self._close)
        before, _, after = text.partition("{instruction}")
        return before, after

    def _answer_id(self, answer: str) -> int:
        """The answer's one token after the prompt's last segment. Raises PromptError if it is not one."""
        tail = SHUT if self.prompt.kind == "thinking" else self.segments[-1]
        return answer_token(self.tokenizer, "" if SLOT.search(tail) else tail, answer)
