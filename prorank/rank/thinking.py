"""Scores after a thought: each document is thought about first, then the answer is read as log-odds.

The answer is never sampled; closed by the model or closed for it, the thought is followed by the same words as in
training, and the two answer rows meet the hidden state behind them in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..engine.generation import CLOSE, PROMPT_TOKENS_PER_BATCH, Sampler, TextGenerator
from ..engine.heads import log_odds
from ..engine.modules import room_for_prompts
from ..engine.packing import Pack, batches_of, pack, packs_of
from ..engine.sampling import Completion, Sampling, StopAt
from ..errors import ConfigError
from ..prompts.pair_encoder import Encoded, PairPromptEncoder
from .documents import Cost

if TYPE_CHECKING:
    from ..prompts.prompt import Prompt

ROWS = 64  # written at once, in prompts of `TOKENS` tokens
SAMPLING = 0.7  # temperature where several thoughts are asked for; one alone takes the likeliest tokens
WORDS = 64  # tokens that the words around a thought take at most


@dataclass(frozen=True)
class Thought:
    """What was thought of a document, and whether its budget ran out so that it was closed."""

    text: str
    cut: bool


class Thinker:
    """Thinks, then scores.

    Args:
        pen: see `generate.make_generator`.
        bound: the thinking prompt.
        rows, bias: of the two answers, see `pointwise.answer_rows`.
        samples: thoughts a document; scores are their mean.
        budget: tokens of a thought.
        cost: tokens written are counted there.
    """

    def __init__(
        self,
        pen: TextGenerator,
        bound: PairPromptEncoder,
        rows: torch.Tensor,
        bias: torch.Tensor,
        samples: int,
        budget: int,
        cost: Cost,
    ) -> None:
        if samples < 1:
            raise ConfigError(f"samples must be at least 1, not {samples}")
        self.bound, self.rows, self.bias, self.samples, self.cost = bound, rows, bias, samples, cost
        self.writer = Sampler(pen, bound, Sampling(SAMPLING if samples > 1 else 0.0, max_tokens=budget), StopAt.ANSWER_START)

    def __call__(
        self, lists: Sequence[tuple[list[Encoded], list[str]]], progress: Callable[[int], None] | None = None
    ) -> tuple[list[np.ndarray], list[Sequence[Thought]]]:
        """(scores fp32, thoughts) of each query's list (prompts, keys of chance); with several samples the thought is the first."""
        scores = [np.empty(len(prompts), np.float32) for prompts, _ in lists]
        thoughts: list[list[Thought]] = [[Thought("", False)] * len(prompts) for prompts, _ in lists]
        for some in generate_batches(self.writer, lists, self.samples):
            for number, at, rows in some:
                states = torch.stack([_state(row) for row in rows])
                scores[number][at] = log_odds(states, self.rows, self.bias).mean().item()
                thoughts[number][at] = thought_of(self.bound, rows[0])
                self.cost.generated_tokens += sum(len(row.ids) - len(row.forced_positions) for row in rows)
            if progress:
                progress(len(some))
        return scores, list(thoughts)


def _state(row: Completion) -> torch.Tensor:
    """The hidden state at the answer of a row that was written to that place."""
    assert row.state is not None
    return row.state


def generate_batches(
    writer: Sampler, lists: Sequence[tuple[list[Encoded], list[str]]], samples: int = 1
) -> Iterator[list[tuple[int, int, list[Completion]]]]:
    """What is written behind the prompts of each query's list (prompts, keys of chance), some at a time: (number of the list, place
    in it, its rows). A row's ids come behind prompt and opener."""
    opener = writer.encoder.opener
    todo = [
        (number, at, replace(prompt, ids=prompt.ids + opener), key)
        for number, (prompts, keys) in enumerate(lists)
        for at, (prompt, key) in enumerate(zip(prompts, keys))
    ]
    singles = (pack([prompt], [i], share=False) for i, (_, _, prompt, _) in enumerate(todo))
    for packs in batches_of(singles, PROMPT_TOKENS_PER_BATCH, max(1, ROWS // samples), flat=True):
        some = [todo[one.owners[0]] for one in packs]
        rows = writer(_packs(some), [[f"{key}/{k}" for k in range(samples)] for *_, key in some])
        yield [(number, at, mine) for (number, at, *_), mine in zip(some, rows)]


def _packs(some: list[tuple[int, int, Encoded, str]]) -> list[Pack]:
    """These prompts as packs; those of one query share its tokens."""
    packs: list[Pack] = []
    for number in dict.fromkeys(number for number, *_ in some):
        mine = [i for i, one in enumerate(some) if one[0] == number]
        packs += packs_of([some[i][2] for i in mine], mine, PROMPT_TOKENS_PER_BATCH, ROWS)
    return packs


def key_of(query: str, document: str) -> str:
    """The key of a document's chance: it names what is thought about, not where it stands."""
    return f"{query}\0{document}"


def thought_of(bound: PairPromptEncoder, row: Completion) -> Thought:
    """The thought that a row has written."""
    return Thought(bound.tokenizer.decode(row.ids).partition(CLOSE)[0].strip(), row.thought_truncated)


def with_room(prompt: Prompt, tokenizer: Any, model: torch.nn.Module) -> PairPromptEncoder:
    """A thinking prompt bound so that a whole thought and its answer find a place behind it in the model's positions."""
    return prompt.bind(tokenizer, room_for_prompts(model, prompt.max_think_tokens + WORDS))
