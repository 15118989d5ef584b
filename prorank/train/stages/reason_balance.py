"""The balance term of stage `reason`: what keeps a policy from giving every prompt the same answer behind its thoughts.

It is the term of stage `warmup` (see `objectives.answer_balance`), with the probabilities of the two answers behind the thoughts
that were generated. A micro-batch may hold a single prompt, so the mean answer is that of the whole batch before its first step:
with it as a constant, micro-batches add up to the gradient of the batch's term.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ...engine.heads import logits_of_hidden
from ...prompts.pair_encoder import PairPromptEncoder
from ..objectives.answer_balance import answer_shares, balance_loss, label_weights
from .rollouts import Episode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ANSWER = "<answer>"


class AnswerBalance:
    """The balance term over the batches of a run.

    Args:
        encoder: the thinking prompt, for its answers.

    Attributes:
        value: the term of the current batch, at least log 2.
    """

    def __init__(self, encoder: PairPromptEncoder) -> None:
        self.encoder, self.value = encoder, 0.0
        self._rarity = torch.zeros(2)  # 1/2 divided by the mean answer of the batch
        self._weights: dict[int, float] = {}  # of a completion by its label

    @torch.no_grad()
    def begin_batch(self, policy: PreTrainedModel, episodes: Sequence[Episode], hidden: Sequence[torch.Tensor]) -> None:
        """Compute the mean answer of a batch.

        Args:
            policy: the policy before the batch's first step.
            episodes: all completions of the batch.
            hidden: last hidden states [N, H] of each episode's sampled tokens.
        """
        shares, labels = [], []
        for episode, states in zip(episodes, hidden):
            places = self.places([episode])
            shares.append(answer_shares(logits_of_hidden(policy, states[places]), self.encoder.answer_ids))
            labels += [episode.label] * len(places)
        if not labels:
            self.value, self._weights = 0.0, {}
            return
        weights = label_weights(torch.tensor(labels))
        all_shares = torch.cat(shares).float().cpu()
        mean = (weights @ all_shares).clamp(min=torch.finfo(torch.float32).tiny)
        self.value = float(balance_loss(all_shares, weights))
        self._rarity, self._weights = 0.5 / mean, dict(zip(labels, weights.tolist()))

    def loss(self, policy: PreTrainedModel, episodes: Sequence[Episode], hidden: torch.Tensor) -> torch.Tensor:
        """Return these episodes' part of the batch's term, up to a constant.

        Args:
            policy: the policy.
            episodes: some of the batch's completions.
            hidden: last hidden states [N, H] of all their sampled tokens.
        """
        places = self.places(episodes)
        if not places or not self._weights:
            return hidden.new_zeros((), dtype=torch.float32)
        shares = answer_shares(logits_of_hidden(policy, hidden[places]), self.encoder.answer_ids).float()
        weights = torch.tensor([self._weights[e.label] for e in episodes for _ in self.places([e])], device=hidden.device)
        return -(weights[:, None] * self._rarity.to(hidden.device) * shares).sum()

    def places(self, episodes: Sequence[Episode]) -> list[int]:
        """Return the indices of the answers among all sampled tokens of the episodes; completions without an answer have none."""
        indices, start = [], 0
        for episode in episodes:
            for row, drawn in zip(episode.rows, episode.drawn):
                indices += [start + i for i in self._place_in(row, drawn)]
                start += len(drawn)
        return indices

    def _place_in(self, row: list[int], drawn: list[int]) -> list[int]:
        """Return the index in `drawn` of the first sampled answer of a completion, [] if there is none."""
        for index, place in enumerate(drawn):
            if row[place] in self.encoder.answer_ids and self.encoder.tokenizer.decode(row[:place]).endswith(ANSWER):
                return [index]
        return []
