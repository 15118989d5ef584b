"""The balance term: what keeps a warm-up from giving every prompt the same answer.

The expected reward of a prompt has the gradient p(1 - p), which vanishes once the answer is certain, right or wrong. Nothing then
brings back a model that answers every prompt alike. The term compares the mean answer over a batch that is balanced by construction
with the uniform distribution: cross-entropy(uniform, mean answer). It reads no label of any single prompt.

It is a policy gradient as well: that of a reward which is the larger, the rarer an answer is in the batch. With the stage's own
reward, which makes each answer certain, it raises the mutual information of prompt and answer; see docs/warmup-math.md.

Shapes: B prompts, V tokens of the vocabulary, G samples per prompt. There are two answers, 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def answer_shares(logits: torch.Tensor, answer_ids: Sequence[int]) -> torch.Tensor:
    """Probabilities [B, 2] of the two answers, given that the token is one of them.

    Args:
        logits: [B, V].
        answer_ids: ids of the two answer tokens.
    """
    return logits[:, list(answer_ids)].softmax(-1)


def label_weights(labels: torch.Tensor) -> torch.Tensor:
    """Weights [B] of prompts, with sum 1, that give each label that occurs the same weight.

    They are all 1 / B where both labels are equally frequent.

    Args:
        labels: [B], 0 or 1.
    """
    _, place, number = labels.unique(return_inverse=True, return_counts=True)
    return 1 / (number[place] * len(number))


def balance_loss(shares: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Cross-entropy between equal shares and the mean answer, at least log 2.

    Args:
        shares: [B, 2], see `answer_shares`.
        weights: [B], see `label_weights`.
    """
    return -_mean_answer(shares, weights).log().mean()


def answer_entropy(logits: torch.Tensor, answer_ids: Sequence[int]) -> torch.Tensor:
    """Mean entropy over the prompts of the answer, given that the token is one of the two; 0 to log 2.

    Args:
        logits: [B, V].
        answer_ids: ids of the two answer tokens.
    """
    log_shares = logits[:, list(answer_ids)].log_softmax(-1)  # finite where a share is 0, so the gradient is finite, too
    return -(log_shares.exp() * log_shares).sum(-1).mean()


def balance_advantages(
    tokens: torch.Tensor, logits: torch.Tensor, answer_ids: Sequence[int], weights: torch.Tensor
) -> torch.Tensor:
    """Advantages [B, G] of sampled tokens whose policy gradient is in expectation that of `-balance_loss`.

    Args:
        tokens: [B, G], sampled from `logits`.
        logits: [B, V]; get no gradient.
        answer_ids, weights: as above.
    """
    logits = logits.detach()
    shares = answer_shares(logits, answer_ids)
    rarity = 0.5 / _mean_answer(shares, weights)  # [2]
    centred = rarity - (shares * rarity).sum(1, keepdim=True)  # [B, 2]
    mass = logits.softmax(-1)[:, list(answer_ids)].sum(1)  # [B]
    # The objective is a mean over prompts; the factor B undoes it, since the weights average already.
    gains = centred * (len(tokens) * weights / mass)[:, None]
    answers = tokens.to(logits.device)[:, :, None] == torch.tensor(list(answer_ids), device=logits.device)  # [B, G, 2]
    return (answers * gains[:, None]).sum(-1)


def _mean_answer(shares: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean [2] of the shares, kept above 0 so that its logarithm is finite."""
    return (weights @ shares).clamp(min=torch.finfo(shares.dtype).tiny)
