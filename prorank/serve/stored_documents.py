"""Documents of requests that are in an index: their keys and values are read instead of computed.

A stored chunk is used only if a prompt has exactly its tokens and those before it. So scores are those without an index, whatever
query, instruction or truncation a request has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..index.document_index import Index
from ..index.index_scores import CachedPrompt, score_prompts
from ..index.index_settings import frame_of, indexing_strategy
from ..index.segments import Segment, locate
from ..prompts.encoded import Encoded
from ..rank.documents import document_text


class StoredDocuments:
    """Finds documents of requests in an index, and scores them.

    Args:
        index: an index of the served model.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self.head_ids = frame_of(indexing_strategy(index.reranker), index.settings.instruction).head

    def __len__(self) -> int:
        return len(self.index)

    def text(self, name: str | int) -> str | None:
        """Return the text of the document with this id, None if it is not in the index."""
        return self.index.table.text(name)

    def texts(self, limit: int) -> list[str]:
        """Return the texts of the first documents."""
        return [document_text(document) for document in self.index.documents[:limit]]

    def find(self, text: str, prompts: Sequence[Encoded]) -> list[CachedPrompt | None]:
        """Return the stored prompts of a text.

        Args:
            text: text of a document, found if the index has exactly this text.
            prompts: its prompts in a request.

        Returns:
            One value per prompt, None if its document has to be computed. The owners are 0.
        """
        position = self.index.table.position_of_text(text)
        if position is None:
            return [None] * len(prompts)
        [(segment, number)] = locate(self.index.segments, [position])
        matches = [self._match(prompt, segment, chunk) for prompt, chunk in zip(prompts, segment.chunks(number))]
        return matches + [None] * (len(prompts) - len(matches))

    def _match(self, prompt: Encoded, segment: Segment, chunk: int) -> CachedPrompt | None:
        """Return the prompt with its stored chunk, None if its tokens up to the end of the document are others."""
        head, document = prompt.ids[: prompt.document_start], prompt.ids[prompt.document_start : prompt.document_end]
        is_equal = head == self.head_ids and document == segment.chunk_ids(chunk)
        return CachedPrompt(0, prompt, segment, chunk) if is_equal else None

    def score(self, prompts: Sequence[CachedPrompt]) -> list[float]:
        """Return the log-odds of stored prompts. Only the model's thread calls it."""
        numbered = [replace(prompt, owner=number) for number, prompt in enumerate(prompts)]
        scores = np.empty(len(prompts), np.float32)
        for owners, values in score_prompts(self.index.reranker, self.index.head, numbered):
            scores[owners] = values
        return scores.tolist()
