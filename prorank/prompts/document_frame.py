"""Build the token ids before and after the document of a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import PromptError
from .slots import SLOT
from .thinking_tags import Thinking


@dataclass(frozen=True)
class DocumentFrame:
    """Token ids before and after the document of a prompt.

    Attributes:
        head, tail: ids before and after the document.
        content_tokens: number of these ids that belong to the instruction and the query.
        query_tokens: number of these ids after the document that belong to the query.
        query_cut: number of tokens truncated from the query.
        query_limit: maximum number of tokens of one occurrence of the query, None for no limit.
    """

    head: list[int]
    tail: list[int]
    content_tokens: int
    query_tokens: int
    query_cut: int
    query_limit: int | None


class DocumentFraming(Thinking):
    """Builds the frame around a document and truncates the query in it.

    Subclasses set the attributes from their template.

    Attributes:
        repeats: how many times the template contains the query.
    """

    repeats: int
    _open: str  # delimiters of the instruction
    _close: str
    _document_at: int  # indices of segments
    _query_at: int
    _literal: dict[int, list[int]]  # ids of the segments without slots, by index
    _max: int  # number of tokens that instruction, query and document may take together

    def _separator(self) -> list[int]:
        """Literal ids between query and document, which `length_counts: content` counts, as the released models do."""
        one, other = sorted((self._query_at, self._document_at))
        return [t for i in range(one + 1, other) for t in self._literal.get(i, [])]

    def _frame(self, query: str, instruction: str | None, max_query_tokens: int | None = None, share: bool = True) -> DocumentFrame:
        """Return the ids around a document. The query is truncated to `max_query_tokens` and, if `share`, to its share."""
        head, used, cut, limit = [], 0, 0, None if share else max_query_tokens
        for i in range(self._document_at):
            if i in self._literal:
                head += self._literal[i]
                continue
            ids = self._fill(self.segments[i], query, instruction)
            if "{query}" in self.segments[i]:
                limit = self._query_limit(used, max_query_tokens) if share else max_query_tokens
                cut, ids = len(ids) - len(ids[:limit]), ids[:limit]
            elif used + len(ids) > self._max - 8:
                raise PromptError(
                    f"the instruction takes {len(ids)} tokens and leaves no room in max_length {self.prompt.max_length}; "
                    "shorten it or raise max_length"
                )
            head += ids
            used += len(ids)
        if share and limit is None:  # the query comes after the document
            limit = self._query_limit(used, max_query_tokens)
        tail, again, cut_again = self._tail(query, limit)
        return DocumentFrame(head, tail, used + again, again, max(cut, cut_again), limit)

    def _tail(self, query: str, limit: int | None) -> tuple[list[int], int, int]:
        """Return (ids after the document, number of them from the query, number of tokens truncated from the query)."""
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

    def _query_limit(self, used: int, max_tokens: int | None = None) -> int:
        """Return the maximum number of tokens of one occurrence of the query; all occurrences together take at most `query_share`.

        Args:
            used: number of tokens of the instruction.
            max_tokens: a further limit, None for none.
        """
        content = self.prompt.length_counts == "content"
        # The released models count the separator, and truncate instruction and query as one text.
        whole = self._max + len(self._separator()) if content else self.prompt.max_length
        cap = int(whole * self.prompt.query_share) // self.repeats
        limit = cap if content else max(1, min(cap, (self._max - used) // (2 * self.repeats)))
        return limit if max_tokens is None else min(max_tokens, limit)

    def _fill(self, segment: str, query: str, instruction: str | None) -> list[int]:
        """Return the ids of a segment with slots. The instruction's frame may contain special tokens; users' texts may not."""
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
