"""Score prompts one by one: from the last hidden state and two rows of the output matrix to fp32 log-odds.

Logits over the vocabulary are never made for scoring; [N, H] hidden states meet the difference of two rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import ModelError
from .modules import body
from .packing import Batch

# Settings by which some architectures bend their logits; two plain rows would then give other scores than the model's own.
BENDING = {"final_logit_softcapping": None, "logit_scale": None, "logits_scaling": 1.0}


def last_hidden(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Last hidden states [N, H] at the answer positions, in the model's dtype."""
    inner, _ = body(model)
    out = inner(**batch.inputs, use_cache=False)
    return out.last_hidden_state[batch.rows, batch.columns]


def answer_rows(model: torch.nn.Module, answer_ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows [A, H], bias [A]) of the output matrix for A answers, such as (not relevant, relevant), fp32. Raises ModelError for
    bent logits."""
    for key, plain in BENDING.items():
        value = getattr(model.config, key, plain)
        if value not in (None, plain):
            raise ModelError(f"{type(model).__name__}: {key}={value} bends the logits; this architecture is not supported yet")
    _, head = body(model)
    chosen = torch.tensor(answer_ids, dtype=torch.long, device=head.weight.device)
    bias = getattr(head, "bias", None)
    zero = torch.zeros(len(answer_ids), device=head.weight.device)
    return head.weight[chosen].float(), (zero if bias is None else bias[chosen].float())


def log_odds(hidden: torch.Tensor, rows: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """logit(relevant) - logit(not relevant), fp32 [N], from hidden states [N, H] (ProRank, stage 2)."""
    # Products and sum elementwise: a matrix product would fall to bf16 under autocast.
    return (hidden.float() * (rows[1] - rows[0])).sum(-1) + (bias[1] - bias[0])


def vocabulary_logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Logits [N, V] fp32 at the answer positions, through the model's own forward (so DDP, FSDP and adapters take part)."""
    keep, where = torch.unique(batch.columns, return_inverse=True)
    out = model(**batch.inputs, logits_to_keep=keep, use_cache=False)
    return out.logits[batch.rows, where].float()


def vocabulary_of(model: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Logits [N, V] fp32 from last hidden states [N, H]."""
    _, head = body(model)
    bias = getattr(head, "bias", None)
    with torch.autocast(hidden.device.type, enabled=False):
        return torch.nn.functional.linear(hidden.float(), head.weight.float(), None if bias is None else bias.float())
