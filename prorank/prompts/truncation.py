"""Truncation: which tokens of a document are in its prompts: its beginning, its end, or overlapping chunks.

Chunks overlap by a share of their length, so a passage shorter than the overlap is complete in at least one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError

SIDES = ("right", "left")
LONG_DOCUMENTS = ("auto", "truncate", "chunk")
MAX_CHUNKS = 32  # of a document, unless another limit is given


@dataclass(frozen=True)
class Truncation:
    """How a document is fitted into one or several prompts.

    Args:
        max_document_tokens: maximum number of tokens of the document, over all chunks; None for no limit.
        max_prompt_tokens: maximum number of tokens of a whole prompt; None for the prompt's own limit.
        max_query_tokens: maximum number of tokens of the query; None for the query's share.
        side: "right" truncates the end of long texts, "left" the beginning.
        max_chunks: maximum number of prompts per document. With 1 it is truncated, with more it is split into overlapping chunks.
        overlap: share of a chunk that is repeated in the next one, in [0, 1).

    Raises:
        ConfigError: a value is out of range.
    """

    max_document_tokens: int | None = None
    max_prompt_tokens: int | None = None
    max_query_tokens: int | None = None
    side: str = "right"
    max_chunks: int = 1
    overlap: float = 0.25

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise ConfigError(f"side '{self.side}' is not known; valid: {', '.join(SIDES)}")
        if self.max_chunks < 1 or not 0 <= self.overlap < 1:
            raise ConfigError(f"max_chunks must be at least 1 and overlap in 0..1, not {self.max_chunks} and {self.overlap}")

    def split(self, ids: list[int], room: int) -> tuple[list[list[int]], int]:
        """Split a document's ids into chunks, and truncate what does not fit.

        Args:
            ids: ids of the document.
            room: maximum number of tokens of a chunk.

        Returns:
            (chunks, number of truncated tokens).
        """
        kept = ids if self.max_document_tokens is None else self._truncate(ids, self.max_document_tokens)
        step = max(1, room - int(room * self.overlap))
        needed = 1 + -(-max(0, len(kept) - room) // step)
        if needed <= 1 or self.max_chunks == 1:
            shown = self._truncate(kept, room)
            return [shown], len(ids) - len(shown)
        count = min(needed, self.max_chunks)
        kept = self._truncate(kept, room + (count - 1) * step)
        return [kept[at * step : at * step + room] for at in range(count)], len(ids) - len(kept)

    def _truncate(self, ids: list[int], limit: int) -> list[int]:
        return ids[:limit] if self.side == "right" else ids[max(0, len(ids) - limit) :]


DEFAULT_TRUNCATION = Truncation()


def truncation_of(long_documents: str, can_chunk: bool) -> Truncation:
    """Return how documents that do not fit into a prompt are read.

    Args:
        long_documents: "truncate" reads their beginning, "chunk" reads them whole in overlapping chunks, "auto" does the latter
            where it is possible.
        can_chunk: whether it is possible: where a document is scored by one forward pass.

    Raises:
        ConfigError: the value is unknown, or chunks are not possible.
    """
    if long_documents not in LONG_DOCUMENTS:
        raise ConfigError(f"long_documents '{long_documents}' is not known; valid: {', '.join(LONG_DOCUMENTS)}")
    if long_documents == "chunk" and not can_chunk:
        raise ConfigError("long_documents 'chunk' is for models that score single documents without a thought; use 'truncate'")
    chunks = can_chunk and long_documents != "truncate"
    return Truncation(max_chunks=MAX_CHUNKS) if chunks else DEFAULT_TRUNCATION
