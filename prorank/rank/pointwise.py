"""Pointwise ranking: one forward pass per document, scored by the log-odds of the two answer tokens.

The score is logit("1") - logit("0") at the end of the prompt, in fp32, as in ProRank's second stage. The prompts of one query share
their prefix within a batch (see `engine.packing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from ..engine.batches import WINDOW
from ..engine.heads import answer_rows, log_odds
from ..engine.modules import room_for_prompts
from ..engine.packing import Batch
from ..prompts.pair_encoder import Encoded, PairPromptEncoder
from ..prompts.prompt import Prompt
from .model_runtime import ModelRuntime
from .score_diagnostics import Diagnosis, diagnosis
from .strategy import Progress, RankingStrategy, ScoredLists


class PointwiseStrategy(RankingStrategy):
    """Scores each document by one forward pass.

    Args:
        runtime: the model.
        prompt: a prompt of single documents. A thinking prompt gets an empty thought, so that the model answers at once.

    Attributes:
        rows, bias: fp32 [2, H] and [2], the answers' rows of the output matrix (not relevant, relevant).
    """

    encoder: PairPromptEncoder

    def __init__(self, runtime: ModelRuntime, prompt: Prompt) -> None:
        self.runtime = runtime
        self.encoder = prompt.bind(runtime.tokenizer, room_for_prompts(runtime.model)).direct()
        self.rows, self.bias = answer_rows(runtime.model, self.encoder.answer_ids)

    def score(
        self, queries: Sequence[str], texts: Sequence[list[str]], instruction: str | None = None, batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> ScoredLists:  # fmt: skip
        """See `RankingStrategy.score`."""
        with torch.inference_mode():
            batches = self.runtime.batches(self.encoded_parts(queries, texts, instruction), batch_size)
            scores = self._score_batches(batches, [len(row) for row in texts], progress)
        return ScoredLists.without_thoughts(scores).tie_equal_texts(texts)

    def score_encoded(self, lists: Sequence[tuple[Sequence[Encoded], Sequence[str]]]) -> ScoredLists:
        """See `RankingStrategy.score_encoded`."""
        sizes = [len(prompts) for prompts, _ in lists]
        starts = [0, *np.cumsum(sizes).tolist()]
        with torch.inference_mode():
            batches = self.runtime.batches((start, list(prompts)) for start, (prompts, _) in zip(starts, lists))
            return ScoredLists.without_thoughts(self._score_batches(batches, sizes))

    def diagnose(self, queries: Sequence[str], texts: Sequence[list[str]]) -> Diagnosis:
        """See `RankingStrategy.diagnose`. Multiplies with the whole output matrix, so it is slower than scoring."""
        with torch.inference_mode():
            batches = self.runtime.batches(self.encoded_parts(queries, texts, None))
            states = ((batch, self.runtime.hidden(batch)) for batch in batches)
            return diagnosis(self.runtime.model, self.encoder.answer_ids, states, sum(map(len, texts)))

    def _score_batches(self, batches: Iterable[Batch], sizes: Sequence[int], progress: Progress | None = None) -> list[np.ndarray]:
        """Return the log-odds of lists with these sizes; `batch.owners` are indices into all of their documents."""
        flat = np.empty(sum(sizes), np.float32)
        for batch in batches:
            flat[batch.owners] = log_odds(self.runtime.hidden(batch), self.rows, self.bias).cpu().numpy()
            if progress:
                progress(len(batch.owners))
        return np.split(flat, np.cumsum(sizes)[:-1]) if sizes else []

    def encoded_parts(
        self, queries: Sequence[str], texts: Sequence[list[str]], instruction: str | None
    ) -> Iterator[tuple[int, list[Encoded]]]:
        """Yield (index of the first document, prompts) of each query, in windows, so that memory stays bounded."""
        start = 0
        for query, row in zip(queries, texts):
            query_cut = 0
            for offset in range(0, len(row), WINDOW):
                prompts = self.encoder.encode_many(query, row[offset : offset + WINDOW], instruction)
                self.runtime.cost.count_prompts(prompts)
                query_cut = self.runtime.cuts.count(prompts, query_cut)
                yield start + offset, prompts
            start += len(row)
