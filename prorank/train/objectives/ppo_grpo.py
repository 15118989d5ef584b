"""PPO (arXiv 1707.06347) and GRPO (arXiv 2402.03300) over completions: advantages and losses as plain tensor functions.

Losses are sums over sampled tokens with one weight per token, and every mean is over the whole batch, whose counts come in from
outside. So a batch that is split into micro-batches gives the same gradient.

Shapes: R completions of T tokens at most.
"""

from __future__ import annotations

import torch

from ...errors import ConfigError


def padded(flat: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Rows [R, T] from values laid end to end [sum of sizes], padded with zeros."""
    return torch.nn.utils.rnn.pad_sequence(list(flat.split(sizes)), batch_first=True)


def mask_of(sizes: list[int]) -> torch.Tensor:
    """Mask [R, T], 1 where a row of `padded` holds a value."""
    return (torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]).float()


def token_rewards(
    rewards: torch.Tensor, now: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor, beta: float
) -> torch.Tensor:
    """Rewards of tokens: the KL penalty on each, and the completion's own reward on its last one.

    Args:
        rewards: [R], of the completions.
        now, reference: [R, T], log-probabilities under the policy and the reference.
        mask: [R, T], see `mask_of`.
        beta: weight of the penalty log p - log p_reference.

    Returns:
        [R, T].
    """
    out = -beta * (now - reference) * mask
    last = mask.sum(1).long() - 1
    return out.scatter_add(1, last[:, None], rewards[:, None].to(out.dtype))


def whitened(x: torch.Tensor, mask: torch.Tensor, shift: bool = True) -> torch.Tensor:
    """Scale x [R, T] to (unbiased) variance 1 and, with `shift`, to mean 0 over the places in `mask`; 0 elsewhere."""
    count = mask.sum()
    mean = (x * mask).sum() / count
    variance = ((x - mean).pow(2) * mask).sum() / (count - 1).clamp_min(1)
    out = (x - mean) * torch.rsqrt(variance + 1e-8)
    return (out if shift else out + mean) * mask


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438, eq. 16); a completion ends the episode.

    Args:
        rewards, values: [R, T].
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


def is_clipped(now: torch.Tensor, old: torch.Tensor, weights: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Mask of the tokens whose ratio is clipped in `one_token_grpo.clipped_surrogate`; arguments as there."""
    ratio = (now - old).exp()
    return ratio * weights > ratio.clamp(1 - epsilon, 1 + epsilon) * weights


def value_loss(values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Half the squared error of each value, or of the value clipped to `old` +- epsilon where that is worse."""
    limited = old + (values - old).clamp(-epsilon, epsilon)
    return 0.5 * torch.maximum((values - returns).pow(2), (limited - returns).pow(2))


def estimated_kl(now: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """KL estimate per token, unbiased and never negative: r - 1 - log r with r = p_reference / p (Schulman's k3)."""
    log_ratio = reference - now
    return log_ratio.exp() - 1 - log_ratio


def weights_of(loss: str, sizes: list[int], tokens: int, rows: int, max_tokens: int) -> torch.Tensor:
    """Weight of each token of a completion in the batch's loss.

    Args:
        loss: "grpo": every completion counts the same, whatever its length (DeepSeekMath, arXiv 2402.03300, eq. 3). "dapo": every
            token of the batch counts the same (arXiv 2503.14476, eq. 12). "dr_grpo": divided by rows * max_tokens (arXiv
            2503.20783), so that lengths do not change the step.
        sizes: tokens of these completions.
        tokens, rows: number of tokens and completions of the whole batch.
        max_tokens: maximum tokens of a completion.

    Returns:
        [R].

    Raises:
        ConfigError: unknown `loss`.
    """
    lengths = torch.tensor(sizes, dtype=torch.float)
    if loss == "grpo":
        return 1 / (lengths.clamp_min(1) * rows)
    if loss == "dapo":
        return torch.full_like(lengths, 1 / max(tokens, 1))
    if loss == "dr_grpo":
        return torch.full_like(lengths, 1 / (rows * max_tokens))
    raise ConfigError(f"loss '{loss}' is not known; valid: grpo, dr_grpo, dapo")
