"""Attention of the engine: the documents of a pack at once, behind the prefix they share.

Hard fact: documents stand padded side by side in attention alone, so the same causal mask fits them all, and the padding that the
matrix products never see costs a few per cent of the smallest part of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from .flat import Spans

AREA = 128 * 1024  # scores of one attention call, for each head
LONG = 1024  # tokens of a prompt from which its mask would cost more than asking the prefix again


@dataclass(frozen=True)
class Call:
    """One attention: `asked` [D, Lq] and `keys` [D, Lk], rows of the batch. `mask`: [groups * Lq, Lk] of 0 and -inf, once for each
    head that shares keys with others; None means causal, with Lq = Lk."""

    asked: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor | None


@dataclass(frozen=True)
class Plan:
    """The attentions of a batch, the same in all layers. `back` [T]: where in their joined rows each token of the batch stands."""

    calls: list[Call]
    back: torch.Tensor


def plan_of(spans: Spans, groups: int) -> Plan:
    """Attentions for packs laid end to end, see `flat.Spans`. `groups`: query heads that share one head of keys."""
    calls: list[Call] = []
    back: list[torch.Tensor] = []
    made = 0
    for row, start, ends in spans.packs:
        prefix = torch.arange(row, row + start)
        begins = [row + start, *(row + end for end in ends[:-1])]
        rows = [torch.arange(begin, row + end) for begin, end in zip(begins, ends)]
        if start + max(map(len, rows)) > LONG:
            for number, own in enumerate(rows):
                whole = torch.cat((prefix, own))[None]
                calls.append(Call(whole, whole, None))
                back.append(made + torch.arange(0 if number == 0 else start, whole.numel()))
                made += whole.numel()
            continue
        if start:
            calls.append(Call(prefix[None], prefix[None], _mask(start, start, groups)))
            back.append(made + torch.arange(start))
            made += start
        for some in _runs(rows, start):
            longest = max(map(len, some))
            # Short documents repeat their last token: it comes after all that counts, where the mask hides it.
            asked = torch.stack([torch.cat((own, own[-1:].expand(longest - len(own)))) for own in some])
            keys = torch.cat((prefix.expand(len(some), -1), asked), 1)
            calls.append(Call(asked, keys, _mask(longest, start + longest, groups)))
            back += [made + at * longest + torch.arange(len(own)) for at, own in enumerate(some)]
            made += asked.numel()
    return Plan(calls, torch.cat(back))


def _runs(rows: list[torch.Tensor], start: int) -> Iterator[list[torch.Tensor]]:
    """Neighbours (of similar length, as packs hold them) whose scores fit into a processor's cache together."""
    some: list[torch.Tensor] = []
    for own in rows:
        longest = max(len(own), *map(len, some)) if some else len(own)
        if some and (len(some) + 1) * longest * (start + longest) > AREA:
            yield some
            some = []
        some.append(own)
    yield some


def _mask(asked: int, keys: int, groups: int) -> torch.Tensor:
    """The last `asked` of `keys` tokens look at what stands before them and at themselves."""
    return torch.full((asked, keys), float("-inf")).triu_(keys - asked + 1).repeat(groups, 1)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Plan, softmax: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Attention of q [T, heads, d], already scaled, over k [T, pairs, d], both fp32, and v [T, pairs, d]: [T, heads * d].

    `softmax(scores, mask, dtype)`, see `kernels`. Two products and a softmax take half of the time of the fused kernel here, whose
    tiles are made for long sequences; scores stay in fp32, weights of the sum are rounded as there."""
    seen, pairs = [], k.shape[1]
    for call in plan.calls:
        asked, keys, values = q[call.asked], k[call.keys].transpose(1, 2), v[call.keys].transpose(1, 2)  # values [D, pairs, Lk, d]
        if call.mask is None:
            given = {"is_causal": True, "scale": 1.0, "enable_gqa": True}
            found = scaled_dot_product_attention(asked.transpose(1, 2).to(v.dtype), keys.to(v.dtype), values, **given)
            seen.append(found.transpose(1, 2).flatten(0, 1).flatten(1))
            continue
        # Heads that share keys become rows of one product: [D * pairs, groups * Lq, d].
        folded = asked.unflatten(2, (pairs, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3).flatten(0, 1)
        weights = softmax(torch.bmm(folded, keys.flatten(0, 1).transpose(1, 2)), call.mask, v.dtype)
        found = torch.bmm(weights, values.flatten(0, 1)).unflatten(0, (-1, pairs)).unflatten(2, (-1, asked.shape[1]))
        seen.append(found.permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(1))
    return torch.cat(seen).index_select(0, plan.back)
