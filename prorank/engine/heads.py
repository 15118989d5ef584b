"""From hidden states to scores: fp32 log-odds from two rows of the output matrix, or fp32 logits over the vocabulary.

Scoring never computes logits over the vocabulary: hidden states [N, H] are multiplied with the difference of two rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import linear

from ..errors import ModelError
from .modules import base_of, body
from .packing import Batch

# Settings with which some architectures transform their logits, so that rows of the output matrix do not give their scores.
LOGIT_TRANSFORMS = {"final_logit_softcapping": None, "logit_scale": None, "logits_scaling": 1.0}


class Fp32Head(torch.nn.Linear):
    """An output head that always computes logits in fp32, independent of autocast and the dtype of its weights.

    bf16 logits near 16 are 0.125 apart, which causes ties of scores and zero gradients of the loss. The head shares the parameters
    of the head it replaces, under the same names, so tied weights stay tied and checkpoints keep their keys.
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits [..., V] fp32 of hidden states [..., H]."""
        return fp32_logits(hidden, self.weight, self.bias)


def use_fp32_head(model: torch.nn.Module) -> None:
    """Replace the model's output head by an `Fp32Head`; `use_plain_head` reverses it."""
    _replace_head(model, Fp32Head)


def use_plain_head(model: torch.nn.Module) -> None:
    """Replace the model's `Fp32Head` by a plain Linear."""
    _replace_head(model, torch.nn.Linear)


def _replace_head(model: torch.nn.Module, kind: type[torch.nn.Linear]) -> None:
    """Replace the output head by one of this kind that shares its parameters."""
    head = body(model)[1]
    if type(head) is kind:
        return
    outputs, inputs = head.weight.shape
    bias = getattr(head, "bias", None)
    replacement = kind(inputs, outputs, bias=bias is not None, device="meta").train(head.training)
    replacement.weight = head.weight
    replacement.register_parameter("bias", bias)
    base_of(model).set_output_embeddings(replacement)


def fp32_logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return logits [..., V] fp32 of hidden states [..., H], weight [V, H] and bias [V] or None, without autocast."""
    with torch.autocast(hidden.device.type, enabled=False):
        return linear(hidden.float(), weight.float(), None if bias is None else bias.float())


def last_hidden(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Return the last hidden states [N, H] at the answers of a batch, in the model's dtype."""
    inner, _ = body(model)
    out = inner(**batch.inputs, use_cache=False)
    return out.last_hidden_state[batch.rows, batch.columns]


def answer_rows(model: torch.nn.Module, answer_ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of the output matrix.

    Args:
        model: a causal LM.
        answer_ids: ids of A tokens, such as (not relevant, relevant).

    Returns:
        (rows [A, H], bias [A]), fp32.

    Raises:
        ModelError: the architecture transforms its logits, so its rows alone do not give its scores.
    """
    for key, neutral in LOGIT_TRANSFORMS.items():
        value = getattr(model.config, key, neutral)
        if value not in (None, neutral):
            raise ModelError(f"{type(model).__name__}: {key}={value} transforms the logits; this architecture is not supported yet")
    _, head = body(model)
    ids = torch.tensor(answer_ids, dtype=torch.long, device=head.weight.device)
    bias = getattr(head, "bias", None)
    zeros = torch.zeros(len(answer_ids), device=head.weight.device)
    return head.weight[ids].float(), (zeros if bias is None else bias[ids].float())


def log_odds(hidden: torch.Tensor, rows: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return logit(relevant) - logit(not relevant), fp32 [N] (ProRank, stage 2).

    Args:
        hidden: hidden states at the answers [N, H].
        rows, bias: rows [2, H] and bias [2] of the answers (not relevant, relevant).
    """
    # Products and sum are elementwise: a matrix product would run in bf16 under autocast.
    return (hidden.float() * (rows[1] - rows[0])).sum(-1) + (bias[1] - bias[0])


def vocabulary_logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Return logits [N, V] fp32 at the answers of a batch, by the model's forward method, so that DDP, FSDP and adapters work."""
    columns, places = torch.unique(batch.columns, return_inverse=True)
    out = model(**batch.inputs, logits_to_keep=columns, use_cache=False)
    return out.logits[batch.rows, places].float()


def logits_of_hidden(model: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Return logits [N, V] fp32 of last hidden states [N, H]."""
    _, head = body(model)
    return fp32_logits(hidden, head.weight, getattr(head, "bias", None))


def exceeds(difference: float, scores: torch.Tensor, tolerance: float) -> bool:
    """Whether a difference of scores is too large, or NaN: `tolerance` is relative to the largest score if that exceeds 1."""
    return not difference <= tolerance * max(1.0, float(scores.abs().max()))
