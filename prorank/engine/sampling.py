"""How completions are drawn, and the state of one while it is written.

Each completion has its own uniform numbers, seeded by what it is and not by where it stands. What it writes therefore does
not depend on its batch or its process, up to float noise.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum

import torch


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: of the softmax; 0 takes the likeliest token.
        top_p: smallest probability mass that is kept (nucleus sampling, arXiv 1904.09751).
        max_tokens: of a completion.
        max_think_tokens: of a thought, after which it is closed for the model; None: no limit. In training only.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 256
    max_think_tokens: int | None = None


class StopAt(Enum):
    """Where a completion ends, apart from its token limit."""

    END_TOKEN = "end token"  # nowhere else: in training, text behind the answer is for the reward to see
    ANSWER_START = "answer start"  # where the answer's token is predicted: the hidden state there gives the score
    ANSWER_END = "answer end"  # behind a closed answer; the thought is opened for the model


@dataclass
class Completion:
    """One completion while it is written, and its result.

    Attributes:
        noise: uniform numbers [max_tokens] that draw its tokens.
        ids: its tokens so far.
        forced_positions: indices of the tokens in `ids` that were inserted and not drawn.
        forced_tokens: tokens to be inserted next.
        answer_prompted: the tokens that ask for the answer are among the forced ones.
        finished: it ended with the end token.
        thought_truncated: its thought was closed for it.
        done: nothing more is written.
        state: hidden state [H] that predicts the answer, with `StopAt.ANSWER_START`.
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
    """Draw tokens by inverting the cumulative distribution: the same number gives the same token.

    Args:
        logits: [R, V].
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
    """A random number generator seeded by a text, the same in every process."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big"))
