"""PPO and GRPO over completions: from rewards and log-probabilities to advantages and losses, plain tensor functions.

Both are sums over drawn tokens with one weight a token, so a batch cut into micro-batches gives the very same gradient:
every mean is over the whole batch, whose counts come in from outside.
"""

from __future__ import annotations

import torch

from ...errors import ConfigError


def padded(flat: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Rows [R, T] from values laid end to end [sum of sizes], zeros behind the shorter ones."""
    return torch.nn.utils.rnn.pad_sequence(list(flat.split(sizes)), batch_first=True)


def mask_of(sizes: list[int]) -> torch.Tensor:
    """[R, T], 1 where a row of `padded` holds a value."""
    return (torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]).float()


def token_rewards(
    rewards: torch.Tensor, now: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor, coef: float
) -> torch.Tensor:
    """Rewards of tokens [R, T]: minus coef * (log p - log p of the reference) each, and a row's own reward [R] on its last one."""
    out = -coef * (now - reference) * mask
    last = mask.sum(1).long() - 1
    return out.scatter_add(1, last[:, None], rewards[:, None].to(out.dtype))


def whitened(x: torch.Tensor, mask: torch.Tensor, shift: bool = True) -> torch.Tensor:
    """x [R, T] with mean 0 (unless not `shift`) and variance 1 over the places in mask, 0 elsewhere; the unbiased variance."""
    count = mask.sum()
    mean = (x * mask).sum() / count
    variance = ((x - mean).pow(2) * mask).sum() / (count - 1).clamp_min(1)
    out = (x - mean) * torch.rsqrt(variance + 1e-8)
    return (out if shift else out + mean) * mask


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(advantages, returns) [R, T] by generalised advantage estimation (arXiv 1506.02438, eq. 16), nothing behind a row's end."""
    values = values * mask
    after = torch.cat((values[:, 1:], torch.zeros_like(values[:, :1])), 1)
    deltas = (rewards + gamma * after - values) * mask
    gained, out = torch.zeros_like(deltas[:, 0]), torch.zeros_like(deltas)
    for t in range(deltas.shape[1] - 1, -1, -1):
        gained = deltas[:, t] + gamma * lam * gained
        out[:, t] = gained
    return out, (out + values) * mask


def clip_binds(now: torch.Tensor, old: torch.Tensor, weights: torch.Tensor, clip: float) -> torch.Tensor:
    """Which tokens the clipped surrogate (see `policy.clipped`) holds back."""
    ratio = (now - old).exp()
    return ratio * weights > ratio.clamp(1 - clip, 1 + clip) * weights


def value_loss(values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """Half the squared error of each value, or of the value held within `clip` of the old one where that is worse."""
    held = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).pow(2), (held - returns).pow(2))


def estimated_kl(now: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Of each token, unbiased, never negative: r - 1 - log r with r = p of the reference / p now (Schulman's k3)."""
    log_ratio = reference - now
    return log_ratio.exp() - 1 - log_ratio


def weights_of(loss: str, sizes: list[int], tokens: int, rows: int, longest: int) -> torch.Tensor:
    """What each row's tokens count in the batch's loss [R].

    "grpo": every row the same, whatever its length (DeepSeekMath eq. 3). "dapo": every token of the batch the same (arXiv
    2503.14476 eq. 12). "dr_grpo": the same, over rows * longest (arXiv 2503.20783), so that lengths do not change the step.

    Args:
        sizes: tokens of these rows. tokens, rows: of the whole batch. longest: most tokens of a row.
    """
    lengths = torch.tensor(sizes, dtype=torch.float)
    if loss == "grpo":
        return 1 / (lengths.clamp_min(1) * rows)
    if loss == "dapo":
        return torch.full_like(lengths, 1 / max(tokens, 1))
    if loss == "dr_grpo":
        return torch.full_like(lengths, 1 / (rows * longest))
    raise ConfigError(f"loss '{loss}' is not known; valid: grpo, dr_grpo, dapo")
