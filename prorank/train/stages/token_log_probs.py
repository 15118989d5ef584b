"""Log-probabilities of sampled tokens from hidden states, in chunks if all logits would not fit into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...engine.heads import logits_of_hidden
from ...engine.modules import body

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_LOGITS = 2**26  # maximum number of logits in memory with their gradient


def token_log_probs(
    model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities at the sampling temperature.

    Args:
        model: the model, whose head computes the logits.
        hidden: [N, H], last hidden states.
        targets: [N], the tokens after them.
        temperature: divisor of the logits.

    Returns:
        (log-probabilities [N], entropies [N] without gradient).
    """

    def of_chunk(states: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = logits_of_hidden(model, states) / temperature
        total = logits.logsumexp(-1)
        with torch.no_grad():
            entropy = total - ((logits - total[:, None]).exp() * logits).sum(-1)
        return logits.gather(1, tokens[:, None])[:, 0] - total, entropy

    rows = max(1, MAX_LOGITS // len(body(model)[1].weight))
    if len(hidden) <= rows:
        return of_chunk(hidden, targets)
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    for states, tokens in zip(hidden.split(rows), targets.split(rows)):
        # Long batches recompute their logits in the backward pass, as all of them would not fit into memory.
        parts.append(torch.utils.checkpoint.checkpoint(of_chunk, states, tokens, use_reentrant=False))
    return torch.cat([logs for logs, _ in parts]), torch.cat([entropies for _, entropies in parts])
