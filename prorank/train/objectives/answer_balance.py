"""The balance term: what keeps a warm-up from giving every prompt the same answer.

The expected reward of a prompt has the gradient p(1 - p), which vanishes once the answer is certain, right or wrong. Nothing then
brings back a model that answers every prompt alike. The term compares the mean answer over a batch that is balanced by construction
with the uniform distribution: cross-entropy(uniform, mean answer). It reads no label of any single prompt.

It is a policy gradient as well: that of a reward which is the larger, the rarer an answer is in the batch. With the stage's own
reward, which makes each answer certain, it raises the mutual information of prompt and answer; see docs/warmup-math.md.

Shapes: B prompts, A answers, V tokens of the vocabulary, G samples per prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .one_token_grpo import valid_answers


def answer_shares(logits: torch.Tensor, answer_ids: Sequence[int], counts: torch.Tensor) -> torch.Tensor:
    """Probabilities [B, A] of the answers given that the token is one of them.

    Args:
        logits: [B, V].
        answer_ids: ids of the A answer tokens.
        counts: [B], number of answers that each prompt has.
    """
    known = logits[:, list(answer_ids)]
    return known.masked_fill(~valid_answers(answer_ids, counts, known), -torch.inf).softmax(-1)


def prompt_weights(labels: torch.Tensor, by_label: bool) -> torch.Tensor:
    """Weights [B] of the prompts in the mean answer, with sum 1.

    Args:
        labels: [B], index of the right answer.
        by_label: give each label that occurs the same weight, so that a batch need not hold as many of each.
    """
    if not by_label:
        return torch.full(labels.shape, 1 / len(labels), device=labels.device)
    _, place, number = labels.unique(return_inverse=True, return_counts=True)
    return 1 / (number[place] * len(number))


def balance_loss(shares: torch.Tensor, weights: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Cross-entropy between the uniform distribution and the mean answer.

    Args:
        shares: [B, A], see `answer_shares`.
        weights: [B], see `prompt_weights`.
        counts: [B], number of answers that each prompt has.
    """
    mean, uniform = weights @ shares, _uniform(shares, weights, counts)
    return -(uniform * mean.clamp(min=torch.finfo(mean.dtype).tiny).log()).sum()


def balance_advantages(
    tokens: torch.Tensor, logits: torch.Tensor, answer_ids: Sequence[int], weights: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """Advantages [B, G] of sampled tokens whose policy gradient is in expectation that of `-balance_loss` times B.

    The factor B makes up for the mean over prompts in the objective.

    Args:
        tokens: [B, G], sampled from `logits`.
        logits: [B, V]; get no gradient.
        answer_ids, weights, counts: as above.
    """
    logits = logits.detach()
    shares = answer_shares(logits, answer_ids, counts)
    rarity = _uniform(shares, weights, counts) / (weights @ shares).clamp(min=torch.finfo(shares.dtype).tiny)  # [A]
    centred = rarity - (shares * rarity).sum(1, keepdim=True)  # [B, A]
    valid = valid_answers(answer_ids, counts, shares)
    mass = logits.softmax(-1)[:, list(answer_ids)].masked_fill(~valid, 0.0).sum(1)  # [B]
    gains = (centred * weights[:, None] * len(tokens) / mass[:, None]).masked_fill(~valid, 0.0)
    answered = tokens.to(logits.device)[:, :, None] == torch.tensor(list(answer_ids), device=logits.device)  # [B, G, A]
    return (answered * gains[:, None]).sum(-1)


def _uniform(shares: torch.Tensor, weights: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Mean [A] of the uniform distributions over the answers that each prompt has."""
    valid = torch.arange(shares.shape[1], device=shares.device) < counts.to(shares.device)[:, None]
    return weights @ (valid / counts.to(shares.device)[:, None])
