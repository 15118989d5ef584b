"""The exact one-token policy gradient: GRPO (arXiv 2402.03300) with a single token as the action.

All G samples of a group are drawn from the same row of logits, and rewards have one of four values. So tokens fall into four
classes, and the expectation over groups has a closed form: the expected gradient is sum_c w_c * grad log P(c) over classes c. One
forward pass per prompt is enough
(ProRank stage 1, arXiv 2506.03487).

Shapes: B prompts, V tokens of the vocabulary, A answer tokens, G samples per prompt, C = 4 classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import lgamma
from typing import Any

import torch

from ...errors import ConfigError

LOG_ZERO = -1e4  # log-probability of an empty class; -inf would give NaN
CLASSES = ("correct", "wrong", "near miss", "other")
STD_EPSILON = 1e-4  # TRL adds the same to a group's standard deviation


@dataclass(frozen=True)
class Rewards:
    """Weights of the rule rewards.

    Attributes:
        format: reward of a token that is one of the answers.
        relevance: additional reward of the labelled answer.
        near_miss: share of `format` for a token that differs from an answer by white space only, such as " 1".
    """

    format: float = 0.5
    relevance: float = 1.0
    near_miss: float = 0.5

    def of_classes(self) -> torch.Tensor:
        """Return the rewards [C] of the classes, in the order of CLASSES."""
        return torch.tensor([self.format + self.relevance, self.format, self.near_miss * self.format, 0.0])


def near_miss_tokens(tokenizer: Any, answer_ids: Sequence[int]) -> list[int]:
    """Return the ids of tokens that equal an answer after white space is stripped, without the answers themselves."""
    spelled = {tokenizer.decode([i]).strip() for i in answer_ids}
    texts = ((i, tokenizer.decode([i])) for i in tokenizer.get_vocab().values())
    return sorted(i for i, text in texts if i not in answer_ids and text.strip() in spelled)


def class_log_probs(
    logits: torch.Tensor, labels: torch.Tensor, answer_ids: Sequence[int], near_miss: list[int], counts: torch.Tensor | None = None
) -> torch.Tensor:
    """Return log-probabilities of the four classes.

    Args:
        logits: logits [B, V].
        labels: [B], index of the right answer among `answer_ids` (1 relevant, 0 not; or the best document).
        answer_ids: ids of the A answer tokens.
        near_miss: see `near_miss_tokens`.
        counts: [B], number of answers that each prompt has; all A by default.

    Returns:
        [B, C], in the order of CLASSES.
    """
    log_p = logits.log_softmax(-1)
    known = log_p[:, list(answer_ids)]  # [B, A]
    answers = known.masked_fill(~valid_answers(answer_ids, counts, known), LOG_ZERO)
    correct = answers.gather(1, labels[:, None].long())
    wrong = answers.scatter(1, labels[:, None].long(), LOG_ZERO).logsumexp(-1, keepdim=True)
    empty = torch.full_like(correct, LOG_ZERO)
    close = log_p[:, near_miss].logsumexp(-1, keepdim=True) if near_miss else empty
    rest = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
    rest[[*answer_ids, *near_miss]] = False
    other = log_p[:, rest].logsumexp(-1, keepdim=True) if rest.any() else empty
    if counts is not None:  # mask labels of documents that the prompt does not have
        beyond = known.masked_fill(valid_answers(answer_ids, counts, known), LOG_ZERO)
        other = torch.cat([other, beyond], 1).logsumexp(-1, keepdim=True)
    return torch.cat([correct, wrong, close, other], 1)


def valid_answers(answer_ids: Sequence[int], counts: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """Return the mask [B, A] of the answers that each prompt has, on the device of `like` [B, ...]. `counts`: None for all A."""
    if counts is None:
        return torch.ones_like(like, dtype=torch.bool)
    return torch.arange(len(answer_ids), device=like.device) < counts.to(like.device)[:, None]


def advantages(rewards: torch.Tensor, scale_rewards: str) -> torch.Tensor:
    """Compute group-relative advantages.

    Args:
        rewards: rewards [..., G].
        scale_rewards: "group": (r - mean) / (std + 1e-4) (DeepSeekMath sec. 4.1); "batch": the same with the standard deviation
            of all rewards; "none": r - mean; "leave-one-out": r - mean of the others, unbiased (RLOO, arXiv 2402.14740).

    Returns:
        Advantages [..., G].

    Raises:
        ConfigError: `scale_rewards` is unknown.
    """
    size = rewards.shape[-1]
    centred = rewards - rewards.mean(-1, keepdim=True)
    if scale_rewards == "group":
        return centred / (rewards.std(-1, keepdim=True) + STD_EPSILON)
    if scale_rewards == "batch":
        return centred / (rewards.std() + STD_EPSILON)
    if scale_rewards == "none":
        return centred
    if scale_rewards == "leave-one-out":
        return centred * size / (size - 1)
    raise ConfigError(f"scale_rewards '{scale_rewards}' is not known; valid: group, batch, none, leave-one-out")


@lru_cache(maxsize=8)
def compositions(size: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all N distributions of `size` samples over classes: (counts [N, C], log multinomial coefficients [N]), float64."""
    bars = torch.tensor(list(combinations(range(size + classes - 1), classes - 1)))
    edges = torch.cat([torch.full((len(bars), 1), -1), bars, torch.full((len(bars), 1), size + classes - 1)], 1)
    counts = edges.diff(dim=1) - 1
    table = torch.tensor([lgamma(n + 1) for n in range(size + 1)], dtype=torch.float64)
    return counts.double(), table[size] - table[counts].sum(1)


def expected_weights(log_p: torch.Tensor, rewards: torch.Tensor, size: int, scale_rewards: str) -> torch.Tensor:
    """Return weights w_c such that the expected gradient of a group is sum_c w_c * grad log P(c).

    Args:
        log_p: [B, C], log-probabilities of the classes under the sampling policy; gets no gradient.
        rewards: rewards [C] of the classes.
        size: number of samples G; 0 for the limit of large groups.
        scale_rewards: see `advantages`.

    Returns:
        [B, C].
    """
    log_p, rewards = log_p.detach().double(), rewards.double().to(log_p.device)
    p = log_p.exp()
    if size == 0:
        mean = (p * rewards).sum(1, keepdim=True)
        centred = rewards - mean
        if scale_rewards == "group":
            centred = centred / ((p * centred**2).sum(1, keepdim=True).sqrt() + STD_EPSILON)
        return (p * centred).float()
    counts, log_ways = (t.to(log_p.device) for t in compositions(size, len(rewards)))
    # A class without probability and without members contributes 0, not 0 * -inf.
    chance = (log_ways + log_p.clamp(min=LOG_ZERO) @ counts.T).exp()  # [B, N]
    mean = counts @ rewards / size
    centred = rewards - mean[:, None]  # [N, C]
    if scale_rewards == "group":
        spread = ((counts * centred**2).sum(1) / (size - 1)).sqrt()
        centred = centred / (spread[:, None] + STD_EPSILON)
    elif scale_rewards == "leave-one-out":
        centred = centred * size / (size - 1)
    return (chance @ (counts / size * centred)).float()


def exploration_policy(log_p: torch.Tensor, exploration_rate: float, counts: torch.Tensor | None = None) -> torch.Tensor:
    """Return the sampling policy if a share of samples is replaced by random answers.

    Args:
        log_p: [B, C], log-probabilities of the classes under the model.
        exploration_rate: share of samples that are replaced.
        counts: [B], number of answers of each prompt; 2 by default.

    Returns:
        Log-probabilities [B, C].
    """
    if not exploration_rate:
        return log_p.detach()
    counts = torch.full((len(log_p),), 2) if counts is None else counts
    uniform = torch.zeros_like(log_p)
    uniform[:, 0] = (1 / counts).to(log_p.device)
    uniform[:, 1] = 1 - uniform[:, 0]
    return ((1 - exploration_rate) * log_p.detach().exp() + exploration_rate * uniform).clamp(min=1e-30).log()


def sample_tokens(
    logits: torch.Tensor, size: int, generator: torch.Generator, answer_ids: Sequence[int], exploration_rate: float
) -> torch.Tensor:
    """Sample a group of tokens from one row of logits.

    Args:
        logits: logits [V].
        size: number of samples G.
        generator: random number generator.
        answer_ids: ids of the answer tokens.
        exploration_rate: share of samples that are replaced by random answers.

    Returns:
        Token ids [G].
    """
    # Sampling must not fail for logits that are not finite: the loss then is not finite either, which ends the run with a clear
    # error.
    p = logits.detach().float().cpu().softmax(-1).nan_to_num(1.0)
    tokens = torch.multinomial(p, size, replacement=True, generator=generator)
    if exploration_rate:
        swap = torch.rand(size, generator=generator) < exploration_rate
        tokens[swap] = torch.tensor(answer_ids)[torch.randint(len(answer_ids), (size,), generator=generator)][swap]
    return tokens


def rewards_of_tokens(
    tokens: torch.Tensor, labels: torch.Tensor, answer_ids: Sequence[int], near_miss: list[int], rewards: torch.Tensor,
    counts: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Return the rewards [B, G] of sampled tokens.

    Args:
        tokens: sampled token ids [B, G].
        labels, answer_ids, near_miss, counts: see `class_log_probs`.
        rewards: reward of each class [C].
    """
    right = torch.tensor(answer_ids)[labels.long().cpu()][:, None]
    valid = valid_answers(answer_ids, counts, torch.empty(len(tokens), len(answer_ids)))
    answered = ((tokens[:, :, None] == torch.tensor(answer_ids)) & valid[:, None]).any(-1)
    close = torch.isin(tokens, torch.tensor(near_miss or [-1]))
    kind = torch.where(tokens == right, 0, torch.where(answered, 1, torch.where(close, 2, 3)))
    return rewards.cpu()[kind]


def clipped_surrogate(
    log_now: torch.Tensor, log_old: torch.Tensor, weights: torch.Tensor, epsilon: float, epsilon_high: float | None = None
) -> torch.Tensor:  # fmt: skip
    """Return the clipped objective to maximise, elementwise: min(ratio * w, clip(ratio) * w) (PPO, arXiv 1707.06347, eq. 7).

    On the first pass the ratio is exactly 1 and the gradient is w * grad log_now.

    Args:
        log_now, log_old: log-probabilities now and on the first pass.
        weights: w, such as advantages.
        epsilon: the ratio is clipped to 1 - epsilon to 1 + epsilon.
        epsilon_high: upper clip range in place of epsilon (clip-higher, arXiv 2503.14476, eq. 10); None for the same.
    """
    ratio = (log_now - log_old).exp()
    limited = ratio.clamp(1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high))
    return torch.minimum(ratio * weights, limited * weights)


def exact_kl(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return the exact KL(policy || reference) [B] over the whole vocabulary, from logits [B, V] of both."""
    now, then = logits.log_softmax(-1), reference.log_softmax(-1)
    return (now.exp() * (now - then)).sum(-1)
