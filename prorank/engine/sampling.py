"""Sampling of completions, and the state of a completion during generation.

Each completion has its own uniform random numbers, seeded by its key and not by its position. So its tokens do not depend on its
batch or process, up to rounding.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum

import torch


@dataclass(frozen=True)
class Sampling:
    """Settings of the sampling.

    Attributes:
        temperature: temperature of the softmax; 0 takes the most probable token.
        top_p: probability mass of the most probable tokens to draw from (nucleus sampling, arXiv 1904.09751).
        max_tokens: maximum number of tokens of a completion.
        max_think_tokens: maximum number of tokens of a thought, which is then closed; None for no limit. In training only.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 256
    max_think_tokens: int | None = None


class StopAt(Enum):
    """Where a completion ends, apart from its token limit."""

    END_TOKEN = "end token"  # for training, where the reward also depends on text after the answer
    ANSWER_START = "answer start"  # before the answer's token, where the hidden state gives the score
    ANSWER_END = "answer end"  # after a closed answer; the opening tag of the thought is forced


@dataclass
class Completion:
    """A completion: its state during generation, and its result.

    Attributes:
        noise: uniform random numbers [max_tokens] for drawing its tokens.
        ids: the tokens generated so far.
        forced_positions: indices of tokens in `ids` that were forced instead of drawn.
        forced_tokens: tokens to append next.
        answer_prompted: whether the tokens that open the answer were forced.
        finished: whether it ended with the end token.
        thought_truncated: whether its thought was closed because of its length.
        done: whether its generation has ended.
        state: hidden state [H] that predicts the answer, for `StopAt.ANSWER_START`.
    """

    noise: torch.Tensor
    ids: list[int] = field(default_factory=list)
    forced_positions: list[int] = field(default_factory=list)
    forced_tokens: list[int] = field(default_factory=list)
    answer_prompted: bool = False
    finished: bool = False
    thought_truncated: bool = False
    done: bool = False
    state: torch.Tensor | None = None

    def append(self, drawn: int) -> None:
        """Append the next forced token or, if there is none, the drawn one."""
        if self.forced_tokens:
            self.forced_positions.append(len(self.ids))
        self.ids.append(self.forced_tokens.pop(0) if self.forced_tokens else drawn)


def draw(logits: torch.Tensor, noise: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Draw tokens by inverting the cumulative distribution, so equal numbers give equal tokens.

    Args:
        logits: logits [R, V].
        noise: uniform numbers [R] in 0..1.
        temperature, top_p: see `Sampling`.

    Returns:
        Token ids [R].
    """
    if temperature == 0:
        return logits.argmax(-1)
    p = (logits.float() / temperature).softmax(-1)
    if top_p < 1:
        ordered, tokens = p.sort(-1, descending=True)
        kept = ordered * (ordered.cumsum(-1) - ordered < top_p)  # the token that passes top_p stays
        p = torch.zeros_like(p).scatter_(-1, tokens, kept)
    cumulative = p.cumsum(-1)
    index = torch.searchsorted(cumulative, noise[:, None] * cumulative[:, -1:], right=True)
    return index[:, 0].clamp_max(p.shape[-1] - 1)


def rng_of_key(key: str) -> torch.Generator:
    """Return a random number generator seeded by a text, the same in every process."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big"))
