"""A prompt joined with a tokenizer: from (query, document, instruction) to ids.

Hard fact: ids are joined from separately tokenised segments and only the document is cut (an over-long query is capped at its
share first), so the words that ask for the answer always survive. Each cut is counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .bound_thought import OPEN, SHUT, Thinking
from .errors import PromptError
from .marks import breaking, escaping, special_texts
from .parts import WHOLE, Parts
from .template import SLOT, bounds, quoted, split
from .tokens import answer_token

if TYPE_CHECKING:
    from .prompt import Prompt


@dataclass(frozen=True)
class Encoded:
    """One prompt as ids.

    `ids`: the whole prompt. `document_start`, `document_end`: where the document segment stands in it; nothing before
    `document_start` depends on the document, and where the document comes first nothing before `document_end` on the query.
    `document_cut`, `query_cut`: tokens left out of each.
    """

    ids: list[int]
    document_start: int
    document_end: int
    document_cut: int = 0
    query_cut: int = 0


@dataclass
class Cuts:
    """How many prompts were built, and in how many of them the document or the query was cut."""

    total: int = 0
    documents: int = 0
    queries: int = 0

    def count(self, encoded: Encoded) -> None:
        self.total += 1
        self.documents += encoded.document_cut > 0
        self.queries += encoded.query_cut > 0

    def __str__(self) -> str:
        return f"{self.documents} of {self.total} documents cut, {self.queries} queries cut"


@dataclass
class BoundPrompt(Thinking):
    """A prompt whose template is resolved for one tokenizer. `prompt` is what gets saved with a checkpoint."""

    prompt: Prompt
    tokenizer: Any
    max_positions: int | None = None
    segments: list[str] = field(init=False)
    answer_ids: tuple[int, int] = field(init=False)  # (not relevant, relevant)

    def __post_init__(self) -> None:
        template = self.prompt.template
        self.segments = list(template) if isinstance(template, tuple) else split(template)
        self._open, self._close = bounds(self.tokenizer)
        self._document_at = next(i for i, s in enumerate(self.segments) if "{document}" in s)
        self._query_at = next(i for i, s in enumerate(self.segments) if "{query}" in s)
        self.repeats = sum(s.count("{query}") for s in self.segments)
        self._literal = {i: self._tokens(s) for i, s in enumerate(self.segments) if not SLOT.search(s)}
        # Words of the template before the document within its segment: every part of a document begins with them.
        self._lead = self._tokens(self.segments[self._document_at].partition("{document}")[0].rstrip())
        self._fixed = sum(len(ids) for ids in self._literal.values())
        self._max = self._content_room()
        self.answer_ids = tuple(self._answer_id(answer) for answer in self.prompt.answers)
        if self.answer_ids[0] == self.answer_ids[1]:
            raise PromptError(f"this tokenizer has one token for both answers {self.prompt.answers}; choose others (key 'answers')")

    def encode(self, query: str, document: str, instruction: str | None = None) -> Encoded:
        """Ids of one prompt. `instruction` None means the prompt's default, "" none at all."""
        return self.encode_many(query, [document], instruction)[0]

    def encode_many(self, query: str, documents: list[str], instruction: str | None = None) -> list[Encoded]:
        """Ids of one query with each document; the query's part is tokenised once."""
        return [some[0] for some in self.encode_parts(query, documents, instruction)]

    def encode_parts(
        self, query: str, documents: list[str], instruction: str | None = None, parts: Parts = WHOLE
    ) -> list[list[Encoded]]:
        """`encode_many` with each document fitted by `parts`: one prompt, or one a part. Raises PromptError where nothing of a
        document has room."""
        head, query_cut, used, limit = self._head(query, instruction, parts.query)
        tail, again, cut_again = self._tail(query, limit)
        query_cut = max(query_cut, cut_again)
        room = self._max - used - again
        if parts.prompt is not None:
            room = min(room, parts.prompt - len(head) - len(tail))
            if room < 1:
                raise PromptError(f"{parts.prompt} tokens leave no room for a document; query and template take {len(head + tail)}")
        pieces = self._batch([self.segments[self._document_at].replace("{document}", d) for d in documents])
        out = []
        for piece in pieces:
            lead = self._lead if piece[: len(self._lead)] == self._lead else []
            shown, cut = parts.of(piece[len(lead) :], max(0, room - len(lead)))
            whole = [lead + some for some in shown]
            out.append([Encoded(head + some + tail, len(head), len(head) + len(some), cut, query_cut) for some in whole])
        return out

    def render(self, query: str, document: str, instruction: str | None = None) -> str:
        """The prompt as text, nothing cut."""
        values = {"query": query, "document": document, "instruction": self._instruction(instruction)}
        return "".join(SLOT.sub(lambda m: values[m.group(1)], s) for s in self.segments)

    def chat_template(self, escapes: bool = False, breaks: bool = False) -> str:
        """A Jinja chat template for messages of roles system (an instruction), query, document: this prompt as other libraries
        read it (sentence-transformers maps a pair to those roles). `escapes`, `breaks`: with the marks of `prorank.marks`, which
        the tokenizer has to drop."""
        pick = (
            "{{%- set ns = namespace(system=none, query='', document='') -%}}"
            "{{%- for m in messages -%}}{{%- set c = m['content'] if m['content'] is string else m['content'][0]['text'] -%}}"
            "{{%- if m['role'] == 'system' -%}}{{%- set ns.system = c -%}}{{%- elif m['role'] == 'document' -%}}"
            "{{%- set ns.document = c -%}}{{%- else -%}}{{%- set ns.query = c -%}}{{%- endif -%}}{{%- endfor -%}}"
        ).format()
        pick += escaping(special_texts(self.tokenizer)) if escapes else ""
        before, after = self._instruction_frame()
        default = self._instruction(None)
        slots = {
            "query": "{{ ns.query }}",
            "document": "{{ ns.document }}",
            "instruction": "{%- if ns.system -%}{{ " + quoted(before) + " + ns.system + " + quoted(after)
            + " }}{%- else -%}{{ " + quoted(default) + " }}{%- endif -%}",
        }
        out = []
        for segment in self.segments:
            edge = breaking(SLOT.findall(segment)) if breaks else ""
            out.append(edge)
            for part in split(segment):
                found = SLOT.fullmatch(part)
                out.append(slots[found.group(1)] if found else "{{ " + quoted(part) + " }}")
            out.append(edge)
        return pick + "".join(out)

    @property
    def longest(self) -> int:
        """The longest prompt in tokens, template included."""
        whole = self.prompt.max_length
        if self.prompt.lengths == "content":
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
        return self._head("", None)[3]

    def direct(self) -> BoundPrompt:
        """The same prompt with an empty thought, up to its answer: how a thinking model is asked at once. A prompt that asks for no
        thought stays as it is."""
        if self.prompt.kind != "thinking":
            return self
        template = (*self.segments, *([] if self.opened else [f"{OPEN}\n"]), SHUT)
        return BoundPrompt(replace(self.prompt, kind="binary", template=template), self.tokenizer, self.max_positions)

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

    def _head(self, query: str, instruction: str | None, most: int | None = None) -> tuple[list[int], int, int, int]:
        """Ids before the document, tokens cut from the query, tokens of content used, the query's limit (`most` bounds it)."""
        head, used, cut, limit = [], 0, 0, None
        for i in range(self._document_at):
            if i in self._literal:
                head += self._literal[i]
                continue
            ids = self._fill(self.segments[i], query, instruction)
            if "{query}" in self.segments[i]:
                limit = self._query_limit(used, most)
                cut = max(0, len(ids) - limit)
                ids = ids[:limit]
            elif used + len(ids) > self._max - 8:
                raise PromptError(
                    f"the instruction takes {len(ids)} tokens and leaves no room in max_length {self.prompt.max_length}; "
                    "shorten it or raise max_length"
                )
            head += ids
            used += len(ids)
        return head, cut, used, self._query_limit(used, most) if limit is None else limit

    def _tail(self, query: str, limit: int) -> tuple[list[int], int, int]:
        """Ids after the document, how many of them are the query's, which is capped as in the head, and tokens cut from it."""
        tail, again, cut = [], 0, 0
        for i in range(self._document_at + 1, len(self.segments)):
            if i in self._literal:
                tail += self._literal[i]
                continue
            ids = self._fill(self.segments[i], query, None)
            cut = max(cut, len(ids) - limit)
            tail += ids[:limit]
            again += len(ids[:limit])
        return tail, again, cut

    def _query_limit(self, used: int, most: int | None = None) -> int:
        """Most tokens of one occurrence of the query, with `used` taken by the instruction; all occurrences share `query_share`.
        `most` bounds it."""
        content = self.prompt.lengths == "content"
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
