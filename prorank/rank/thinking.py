"""Ranking after a thought: the model generates a thought about each document, then its answer is read as log-odds.

The answer itself is not sampled. The thought is closed by the model or after its token budget, and followed by the same text as in
training. The score is the log-odds of the two answer tokens there (fp32), averaged over thoughts if there are several.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from ..engine.generation import CLOSE, PROMPT_TOKENS_PER_BATCH, Sampler, TextGenerator
from ..engine.heads import log_odds
from ..engine.modules import room_for_prompts
from ..engine.packing import Pack, batches_of, pack, packs_of
from ..engine.sampling import Completion, Sampling, StopAt
from ..errors import ConfigError
from ..prompts.pair_encoder import Encoded, PairPromptEncoder
from ..prompts.prompt import Prompt
from .documents import GeneratedThought
from .model_runtime import ModelRuntime
from .pointwise import PointwiseStrategy
from .score_diagnostics import Diagnosis
from .strategy import EncodedQuery, Progress, RankingStrategy, ScoredLists

MAX_ROWS = 64  # number of thoughts generated together, for prompts of at most `PROMPT_TOKENS_PER_BATCH` tokens
TEMPERATURE = 0.7  # of several thoughts per document; a single one is decoded greedily
TAG_TOKENS = 64  # upper bound of the tokens around a thought


class ThinkingStrategy(RankingStrategy):
    """Generates thoughts about each document, then scores it.

    Args:
        runtime: the model.
        prompt: a prompt of kind thinking; `max_think_tokens` is the budget of a thought.
        generator: decodes with the model, see `engine.generation.make_generator`.
        samples: thoughts per document; the score is the mean of their log-odds.

    Raises:
        ConfigError: `samples` is below 1.
    """

    thinks = True
    encoder: PairPromptEncoder

    def __init__(self, runtime: ModelRuntime, prompt: Prompt, generator: TextGenerator, samples: int = 1) -> None:
        if samples < 1:
            raise ConfigError(f"samples must be at least 1, not {samples}")
        self.runtime, self.samples = runtime, samples
        self.without_thought = PointwiseStrategy(runtime, prompt)
        self.encoder = thinking_encoder(prompt, runtime.tokenizer, runtime.model)
        sampling = Sampling(TEMPERATURE if samples > 1 else 0.0, max_tokens=prompt.max_think_tokens)
        self.sampler = Sampler(generator, self.encoder, sampling, stop=StopAt.ANSWER_START)

    @property
    def prompt_fingerprint(self) -> str:
        """See `RankingStrategy.prompt_fingerprint`; the number of thoughts is part of it."""
        return f"{self.encoder.prompt.fingerprint()}, {self.samples} thoughts"

    @property
    def settings(self) -> list[str]:
        """See `RankingStrategy.settings`."""
        return [f"{self.samples} thoughts"]

    def score(
        self, queries: Sequence[str], texts: Sequence[list[str]], instruction: str | None = None, batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> ScoredLists:  # fmt: skip
        """See `RankingStrategy.score`; `batch_size` has no effect."""
        lists = [self.encode(query, row, instruction) for query, row in zip(queries, texts)]
        return self.score_encoded(lists, progress).tie_equal_texts(texts)

    def score_encoded(
        self, lists: Sequence[tuple[Sequence[Encoded], Sequence[str]]], progress: Progress | None = None
    ) -> ScoredLists:
        """See `RankingStrategy.score_encoded`. With several samples, the thought that is returned is the first one."""
        scores = [np.empty(len(prompts), np.float32) for prompts, _ in lists]
        thoughts = [[GeneratedThought("", False)] * len(prompts) for prompts, _ in lists]
        with torch.inference_mode():
            for chunk in generate_batches(self.sampler, lists, self.samples):
                for query, position, rows in chunk:
                    scores[query][position] = self._mean_log_odds(rows)
                    thoughts[query][position] = read_thought(self.encoder, rows[0])
                    self.runtime.cost.count_generated(rows)
                if progress:
                    progress(len(chunk))
        return ScoredLists(scores, list(thoughts))

    def diagnose(self, queries: Sequence[str], texts: Sequence[list[str]]) -> Diagnosis:
        """See `RankingStrategy.diagnose`; the answer follows an empty thought."""
        return self.without_thought.diagnose(queries, texts)

    def encode(self, query: str, texts: list[str], instruction: str | None) -> EncodedQuery:
        """Encode one query's prompts and count them."""
        prompts = self.encoder.encode_many(query, texts, instruction)
        self.runtime.cost.count_prompts(prompts)
        self.runtime.cuts.count(prompts)
        return EncodedQuery(prompts, [sampling_key(query, text) for text in texts])

    def _mean_log_odds(self, rows: Sequence[Completion]) -> float:
        states = torch.stack([_answer_state(row) for row in rows])  # [samples, H]
        return log_odds(states, self.without_thought.rows, self.without_thought.bias).mean().item()


class DocumentThoughts(NamedTuple):
    """The completions of one prompt: index of its query, its position in the query's list, one completion per sample.

    The ids of a completion follow the prompt and the encoder's `opener`.
    """

    query: int
    position: int
    completions: list[Completion]


def generate_batches(
    sampler: Sampler, lists: Sequence[tuple[Sequence[Encoded], Sequence[str]]], samples: int = 1
) -> Iterator[list[DocumentThoughts]]:
    """Generate completions of each query's prompts, and yield them batch by batch.

    Args:
        sampler: generates completions.
        lists: per query its prompts and their sampling keys, see `EncodedQuery`.
        samples: completions per prompt.
    """
    opener = sampler.encoder.opener
    requests = [
        (query, position, replace(prompt, ids=prompt.ids + opener), key)
        for query, (prompts, keys) in enumerate(lists)
        for position, (prompt, key) in enumerate(zip(prompts, keys))
    ]
    singles = (pack([prompt], [i], share=False) for i, (_, _, prompt, _) in enumerate(requests))
    for packs in batches_of(singles, PROMPT_TOKENS_PER_BATCH, max(1, MAX_ROWS // samples), flat=True):
        chunk = [requests[single.owners[0]] for single in packs]
        shared = _share_prefixes([(query, prompt) for query, _, prompt, _ in chunk])
        rows = sampler(shared, [[f"{key}/{k}" for k in range(samples)] for *_, key in chunk])
        yield [DocumentThoughts(query, position, completions) for (query, position, *_), completions in zip(chunk, rows)]


def _share_prefixes(prompts: Sequence[tuple[int, Encoded]]) -> list[Pack]:
    """Pack prompts, given with the index of their query, so that those of one query share its tokens."""
    packs: list[Pack] = []
    for query in dict.fromkeys(query for query, _ in prompts):
        indices = [i for i, (owner, _) in enumerate(prompts) if owner == query]
        packs += packs_of([prompts[i][1] for i in indices], indices, PROMPT_TOKENS_PER_BATCH, MAX_ROWS)
    return packs


def sampling_key(query: str, document: str) -> str:
    """Return the key that seeds the sampling of a document's thought: it depends on the texts, not on their position."""
    return f"{query}\0{document}"


def read_thought(encoder: PairPromptEncoder, completion: Completion) -> GeneratedThought:
    """Return the thought of a completion."""
    text = encoder.tokenizer.decode(completion.ids).partition(CLOSE)[0].strip()
    return GeneratedThought(text, completion.thought_truncated)


def thinking_encoder(prompt: Prompt, tokenizer: Any, model: torch.nn.Module) -> PairPromptEncoder:
    """Bind a thinking prompt to a tokenizer, and reserve positions of the model for a thought and its answer."""
    return prompt.bind(tokenizer, room_for_prompts(model, prompt.max_think_tokens + TAG_TOKENS))


def _answer_state(completion: Completion) -> torch.Tensor:
    """Return the hidden state [H] at the answer of a completion that was generated up to its answer."""
    assert completion.state is not None
    return completion.state
