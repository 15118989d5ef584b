"""Ranking documents against each other: a prompt shows several, and the model names the best of them or their order.

The method decides which documents are compared (`Setwise`, Zhuang et al., arXiv 2310.09497; `Listwise`, RankGPT's
sliding window, arXiv 2304.09542). The comparisons of all queries are run together, round by round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..engine.generation import make_generator
from ..engine.modules import room_for_prompts
from ..prompts.list_encoder import MAX_DOCUMENTS, EncodedList, ListPromptEncoder
from ..prompts.prompt import Prompt
from .list_readers import AnswerReader, LabelReader, ListReader, max_generated_tokens
from .methods import ListMethod
from .model_runtime import ModelRuntime
from .sorting import run_in_lockstep
from .strategy import Progress, RankingStrategy, ScoredLists

# Called for each prompt: (index of the comparison, positions of truncated documents, number of tokens truncated from the query,
# number of tokens of the prompt).
PromptCallback = Callable[[int, list[int], int, int], None]


class ListStrategy(RankingStrategy):
    """Orders documents by comparisons. A score is minus the document's position in the order, 0 for the best.

    Each document and query counts once per call in `cuts`, even if it is part of several prompts.

    Args:
        runtime: the model.
        prompt: a prompt of several documents.
        method: Setwise or Listwise.
    """

    compares_documents = True
    encoder: ListPromptEncoder

    def __init__(self, runtime: ModelRuntime, prompt: Prompt, method: ListMethod) -> None:
        self.runtime, self.method = runtime, method
        self.encoder = _list_encoder(runtime, prompt, method)
        self.read = _reader(runtime, self.encoder, method)

    @property
    def settings(self) -> list[str]:
        """See `RankingStrategy.settings`."""
        return [repr(self.method)]

    def score(
        self, queries: Sequence[str], texts: Sequence[list[str]], instruction: str | None = None, batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> ScoredLists:  # fmt: skip
        """See `RankingStrategy.score`; `batch_size` has no effect, and `progress` is called once."""
        orders = self._orders(queries, texts, instruction)
        if progress:
            progress(sum(map(len, texts)))
        return ScoredLists.without_thoughts([-np.argsort(order).astype(np.float32) for order in orders])

    def values(
        self, comparisons: Sequence[tuple[str, list[str]]], instruction: str | None = None, on_prompt: PromptCallback | None = None
    ) -> list[np.ndarray]:
        """Return the value of each document in a comparison.

        With `method.permutations` above 1 each comparison is made with its documents rotated, and the values are averaged, which
        cancels the model's preference for a position.

        Args:
            comparisons: (query, documents' texts) of each comparison.
            instruction: replaces the prompt's own; None keeps it.
            on_prompt: called for each prompt, see `PromptCallback`.

        Returns:
            One fp32 array [n] per comparison: log-probabilities of being the best, or the values of the generated answer.
        """
        rotations = [(i, shift) for i, (_, texts) in enumerate(comparisons) for shift in self._shifts(len(texts))]
        prompts = [self._encode(*comparisons[i], shift, instruction) for i, shift in rotations]
        for (i, shift), prompt in zip(rotations, prompts):
            if on_prompt:
                on_prompt(i, _cut_positions(prompt, shift), prompt.query_cut, len(prompt.ids))
        values = [np.zeros(len(texts), np.float32) for _, texts in comparisons]
        rows = self.read([prompt.whole for prompt in prompts], [len(comparisons[i][1]) for i, _ in rotations])
        for (i, shift), row in zip(rotations, rows, strict=True):
            values[i] += np.roll(row, shift) / len(self._shifts(len(row)))
        return values

    def _orders(self, queries: Sequence[str], texts: Sequence[list[str]], instruction: str | None) -> list[list[int]]:
        """Return each query's documents in order, best first, as positions in its list."""
        cut_documents: set[tuple[int, int]] = set()
        query_cuts = [0] * len(queries)

        def compare(questions: list[tuple[int, list[int]]]) -> list:
            def note_cuts(i: int, positions: list[int], query_cut: int, _: int) -> None:
                query, candidates = questions[i]
                cut_documents.update((query, candidates[position]) for position in positions)
                query_cuts[query] = max(query_cuts[query], query_cut)

            comparisons = [(queries[query], [texts[query][i] for i in candidates]) for query, candidates in questions]
            return [self.method.answer(row) for row in self.values(comparisons, instruction, note_cuts)]

        orders = run_in_lockstep([self.method.sorter(len(row)) for row in texts], compare)
        self._count_cuts(sum(map(len, texts)), len(cut_documents), query_cuts)
        return orders

    def _count_cuts(self, documents: int, cut_documents: int, query_cuts: Sequence[int]) -> None:
        cuts = self.runtime.cuts
        cuts.total += documents
        cuts.documents += cut_documents
        for tokens in query_cuts:
            cuts.count_query(tokens)

    def _shifts(self, count: int) -> list[int]:
        """Return the rotation of `count` documents in each of their prompts, evenly spaced."""
        rotations = min(self.method.permutations, count)
        return [i * count // rotations for i in range(rotations)]

    def _encode(self, query: str, documents: list[str], shift: int, instruction: str | None) -> EncodedList:
        encoded = self.encoder.encode(query, documents[shift:] + documents[:shift], instruction)
        self.runtime.cost.count_prompts([encoded])
        return encoded


def _list_encoder(runtime: ModelRuntime, prompt: Prompt, method: ListMethod) -> ListPromptEncoder:
    """Bind a prompt to the tokenizer, and reserve positions of the model for a generated answer."""
    encoder = prompt.bind_list(runtime.tokenizer, room_for_prompts(runtime.model))
    if not encoder.writes:
        return encoder
    room = room_for_prompts(runtime.model, max_generated_tokens(encoder, method, MAX_DOCUMENTS))
    return prompt.bind_list(runtime.tokenizer, room)


def _reader(runtime: ModelRuntime, encoder: ListPromptEncoder, method: ListMethod) -> ListReader:
    """Return the reader for this prompt: of generated answers, or of logits of labels."""
    if encoder.writes:
        return AnswerReader(runtime, encoder, method, make_generator(runtime.model, runtime.engine))
    return LabelReader(runtime, encoder)


def _cut_positions(prompt: EncodedList, shift: int) -> list[int]:
    """Return the positions of truncated documents before the rotation by `shift`."""
    return [(i + shift) % len(prompt.document_cuts) for i, cut in enumerate(prompt.document_cuts) if cut]
