"""Pointwise ranking: one forward pass per document, scored by the log-odds of the two answer tokens.

The score is logit("1") - logit("0") at the end of the prompt, in fp32, as in ProRank's second stage. The prompts of one query share
their prefix within a batch (see `engine.packing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

import torch

from ..engine.batches import WINDOW
from ..engine.heads import answer_rows
from ..engine.modules import room_for_prompts
from ..prompts.pair_encoder import Encoded, PairPromptEncoder
from ..prompts.prompt import Prompt
from ..prompts.truncation import DEFAULT_TRUNCATION, Truncation
from .chunk_scores import ChunkScores
from .model_runtime import ModelRuntime
from .score_diagnostics import Diagnosis, diagnosis
from .strategy import Progress, RankingStrategy, ScoredLists

DOCUMENTS_AHEAD = 256  # documents that are encoded in one call while a GPU computes


class PointwiseStrategy(RankingStrategy):
    """Scores each document by one forward pass.

    Args:
        runtime: the model.
        prompt: a prompt of single documents. A thinking prompt gets an empty thought, so that the model answers at once.
        truncation: how documents that do not fit are read. A document has the score of its best chunk (MaxP, arXiv 1905.09217).

    Attributes:
        rows, bias: fp32 [2, H] and [2], the answers' rows of the output matrix (not relevant, relevant).
    """

    encoder: PairPromptEncoder

    def __init__(self, runtime: ModelRuntime, prompt: Prompt, truncation: Truncation = DEFAULT_TRUNCATION) -> None:
        self.runtime, self.truncation = runtime, truncation
        self.encoder = prompt.bind(runtime.tokenizer, room_for_prompts(runtime.model)).direct()
        self.rows, self.bias = answer_rows(runtime.model, self.encoder.answer_ids)

    def score(
        self, queries: Sequence[str], texts: Sequence[list[str]], instruction: str | None = None, batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> ScoredLists:  # fmt: skip
        """See `RankingStrategy.score`."""
        encoded = self.encoded_chunks(queries, texts, instruction, self.truncation)
        return self._score_prompts(encoded, [len(row) for row in texts], batch_size, progress).tie_equal_texts(texts)

    def score_encoded(self, lists: Sequence[tuple[Sequence[Encoded], Sequence[str]]]) -> ScoredLists:
        """See `RankingStrategy.score_encoded`."""
        parts = ([[prompt] for prompt in prompts] for prompts, _ in lists)
        return self._score_prompts(parts, [len(prompts) for prompts, _ in lists], encoded=True)

    @property
    def settings(self) -> list[str]:
        """See `RankingStrategy.settings`."""
        chunks = self.truncation.max_chunks
        return [f"{chunks} chunks, overlap {self.truncation.overlap}"] if chunks > 1 else []

    def diagnose(self, queries: Sequence[str], texts: Sequence[list[str]]) -> Diagnosis:
        """See `RankingStrategy.diagnose`. Multiplies with the whole output matrix, so it is slower than scoring."""
        with torch.inference_mode():
            parts = ChunkScores().parts(self.encoded_chunks(queries, texts, None, DEFAULT_TRUNCATION))
            with closing(self.runtime.batches(parts)) as batches:
                states = ((batch, self.runtime.hidden(batch)) for batch in batches)
                return diagnosis(self.runtime.model, self.encoder.answer_ids, states, sum(map(len, texts)))

    def _score_prompts(
        self, queries: Iterable[Sequence[Sequence[Encoded]]], sizes: Sequence[int], batch_size: int | None = None,
        progress: Progress | None = None, encoded: bool = False,
    ) -> ScoredLists:  # fmt: skip
        """Score lists with these numbers of documents, each of which is the sequence of its prompts.

        `encoded`: see `ModelRuntime.batches`.
        """
        scores = ChunkScores()
        log_odds = self.runtime.log_odds(scores.parts(queries), batch_size, self.rows, self.bias, encoded)
        with torch.inference_mode(), closing(log_odds):
            for numbers, values in log_odds:
                finished = scores.add(numbers, values)
                if progress and finished:
                    progress(finished)
        return scores.scored_lists(sizes)

    def encoded_chunks(
        self, queries: Sequence[str], texts: Sequence[list[str]], instruction: str | None, truncation: Truncation
    ) -> Iterator[list[list[Encoded]]]:
        """Yield the prompts of each document of a query, in windows of documents, so that memory stays bounded."""
        size = DOCUMENTS_AHEAD if self.runtime.ahead else WINDOW
        for query, row in zip(queries, texts):
            query_cut = 0
            for offset in range(0, len(row), size):
                documents = self.encoder.encode_chunks(query, row[offset : offset + size], instruction, truncation)
                self.runtime.cost.count_prompts([prompt for chunks in documents for prompt in chunks])
                query_cut = self.runtime.cuts.count_chunks(documents, query_cut)
                yield documents
