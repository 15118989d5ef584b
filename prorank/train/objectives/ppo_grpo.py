"""PPO (arXiv 1707.06347) and GRPO (arXiv 2402.03300) over completions: advantages and losses as plain tensor functions.

Losses are weighted sums over sampled tokens. Means are over the whole batch, whose counts are arguments, so splitting a batch into
micro-batches does not change the gradient.

Shapes: R completions of at most T tokens.
"""

from __future__ import annotations

import torch

from ...errors import ConfigError
from .one_token_grpo import clipped_surrogate


def padded(flat: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Split concatenated values [sum of sizes] into rows [R, T], padded with zeros."""
    return torch.nn.utils.rnn.pad_sequence(list(flat.split(sizes)), batch_first=True)


def mask_of(sizes: list[int]) -> torch.Tensor:
    """Return the mask [R, T] of `padded`: 1 for values, 0 for padding."""
    return (torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]).float()


def token_rewards(
    rewards: torch.Tensor, now: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor, beta: float
) -> torch.Tensor:
    """Return rewards of tokens: the KL penalty on each, plus the completion's reward on its last one.

    Args:
        rewards: rewards [R] of the completions.
        now, reference: [R, T], log-probabilities under the policy and the reference.
        mask: [R, T], see `mask_of`.
        beta: weight of the penalty log p - log p_reference.

    Returns:
        Rewards [R, T].
    """
    out = -beta * (now - reference) * mask
    last = mask.sum(1).long() - 1
    return out.scatter_add(1, last[:, None], rewards[:, None].to(out.dtype))


def whitened(x: torch.Tensor, mask: torch.Tensor, shift: bool = True) -> torch.Tensor:
    """Scale x [R, T] to (unbiased) variance 1 and, with `shift`, to mean 0 over the positions in `mask`; 0 elsewhere."""
    count = mask.sum()
    mean = (x * mask).sum() / count
    variance = ((x - mean).pow(2) * mask).sum() / (count - 1).clamp_min(1)
    out = (x - mean) * torch.rsqrt(variance + 1e-8)
    return (out if shift else out + mean) * mask


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute generalised advantage estimation (arXiv 1506.02438, eq. 16); a completion ends the episode.

    Args:
        rewards, values: rewards and values [R, T] of tokens.
        mask: [R, T], see `mask_of`.
        gamma, lam: discount and decay per token.

    Returns:
        (advantages [R, T], returns [R, T]).
    """
    values = values * mask
    following = torch.cat((values[:, 1:], torch.zeros_like(values[:, :1])), 1)
    deltas = (rewards + gamma * following - values) * mask
    running, out = torch.zeros_like(deltas[:, 0]), torch.zeros_like(deltas)
    for t in range(deltas.shape[1] - 1, -1, -1):
        running = deltas[:, t] + gamma * lam * running
        out[:, t] = running
    return out, (out + values) * mask


def is_clipped(
    now: torch.Tensor, old: torch.Tensor, weights: torch.Tensor, epsilon: float, epsilon_high: float | None = None
) -> torch.Tensor:
    """Return the mask of tokens whose ratio is clipped in `one_token_grpo.clipped_surrogate`. Arguments as there."""
    return (now - old).exp() * weights > clipped_surrogate(now, old, weights, epsilon, epsilon_high)


def value_loss(values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return half the squared error of each value, or of the value clipped to `old` +- epsilon if that is larger."""
    limited = old + (values - old).clamp(-epsilon, epsilon)
    return 0.5 * torch.maximum((values - returns).pow(2), (limited - returns).pow(2))


def estimated_kl(now: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return a KL estimate per token, unbiased and never negative: r - 1 - log r with r = p_reference / p (Schulman's k3)."""
    log_ratio = reference - now
    return log_ratio.exp() - 1 - log_ratio


def weights_of(loss: str, sizes: list[int], tokens: int, rows: int, max_tokens: int) -> torch.Tensor:
    """Return the weight of each token of a completion in the batch's loss.

    Args:
        loss: "grpo": all completions have equal weight, independent of length (DeepSeekMath, arXiv 2402.03300, eq. 3). "dapo": all
            tokens of the batch have equal weight (arXiv 2503.14476, eq. 12). "dr_grpo": divided by rows * max_tokens (arXiv
            2503.20783), so that lengths do not change the step.
        sizes: number of tokens of these completions.
        tokens, rows: number of tokens and completions of the whole batch.
        max_tokens: maximum number of tokens of a completion.

    Returns:
        Weights [R].

    Raises:
        ConfigError: `loss` is unknown.
    """
    lengths = torch.tensor(sizes, dtype=torch.float)
    if loss == "grpo":
        return 1 / (lengths.clamp_min(1) * rows)
    if loss == "dapo":
        return torch.full_like(lengths, 1 / max(tokens, 1))
    if loss == "dr_grpo":
        return torch.full_like(lengths, 1 / (rows * max_tokens))
    raise ConfigError(f"loss '{loss}' is not known; valid: grpo, dr_grpo, dapo")
