"""The value head of PPO, and the module that contains policy and value head.

The head is only used in training: final checkpoints contain the policy only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PolicyWithValue(torch.nn.Module):
    """A policy and a value head on its last hidden state, trained together.

    Args:
        policy: the language model.
    """

    def __init__(self, policy: PreTrainedModel) -> None:
        super().__init__()
        self.policy = policy
        self.value_head = make_value_head(policy)

    @property
    def config(self) -> Any:
        """The policy's configuration, which the Trainer reads."""
        return self.policy.config

    @property
    def _keys_to_ignore_on_save(self) -> Any:
        """The policy's tied weights, which the Trainer need not find in a checkpoint."""
        return self.policy._keys_to_ignore_on_save

    @property
    def device(self) -> torch.device:
        """The policy's device."""
        return self.policy.device

    def forward(self, **inputs: Any) -> Any:
        """Run the policy's forward pass."""
        return self.policy(**inputs)


def make_value_head(policy: PreTrainedModel) -> torch.nn.Linear:
    """Return a linear map from the last hidden state to the value of the following tokens, initially 0."""
    head = torch.nn.Linear(policy.config.hidden_size, 1, device=next(policy.parameters()).device)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return head


def policy_of(model: torch.nn.Module) -> PreTrainedModel:
    """Return the policy of a PolicyWithValue (or of a DeepSpeed or DDP module that wraps it); any other model unchanged."""
    inner = getattr(model, "module", model)
    return inner.policy if isinstance(inner, PolicyWithValue) else cast("PreTrainedModel", model)


def value_head_of(model: torch.nn.Module) -> torch.nn.Linear | None:
    """Return the value head of a PolicyWithValue (or of a module that wraps it); None for any other model."""
    inner = getattr(model, "module", model)
    return inner.value_head if isinstance(inner, PolicyWithValue) else None


def values_of(model: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Return values [N] fp32 of hidden states [N, H]."""
    head = value_head_of(model)
    assert head is not None  # stage reason creates one for PPO
    with torch.autocast(hidden.device.type, enabled=False):
        return torch.nn.functional.linear(hidden.float(), head.weight.float(), head.bias.float())[:, 0]
