"""Attention of the engine: the documents of a pack at once, behind the prefix they share.

Documents stand padded side by side in attention alone, so the same causal mask fits them all, and the padding that the
layers' matrix products never see costs a few per cent of the smallest part of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import embedding, scaled_dot_product_attention

from .flat_attention import Spans
from .shapes import padded_length, powers_of_two, repeat_last

AREA = 128 * 1024  # scores of one attention call, for each head
LONG = 1024  # tokens of a prompt from which its mask would cost more than asking the prefix again


@dataclass(frozen=True)
class Call:
    """One attention of D prompts, by heads of keys: `shape` is (D * pairs, groups * Lq, Lk). `mask`: [groups * Lq, Lk] of 0 and
    -inf; None means causal, with Lq = Lk."""

    shape: tuple[int, int, int]
    mask: torch.Tensor | None


@dataclass(frozen=True)
class Plan:
    """The attentions of a batch, the same in all layers. `asked` and `keys`: which rows of queries [T * heads, d] and of keys and
    values [T * pairs, d] the calls take, one after the other. `back` [T * heads]: where in their joined results each head of each
    token stands."""

    calls: list[Call]
    asked: torch.Tensor
    keys: torch.Tensor
    back: torch.Tensor


class _Planner:
    """Collects calls, for `heads` heads of queries of which `groups` share one head of keys."""

    def __init__(self, heads: int, pairs: int) -> None:
        self.heads, self.pairs, self.groups = heads, pairs, heads // pairs
        self.calls: list[Call] = []
        self.asked: list[torch.Tensor] = []
        self.keys: list[torch.Tensor] = []
        self.back: list[torch.Tensor] = []
        self.made = 0

    def add(self, asked: torch.Tensor, keys: torch.Tensor, kept: list[slice], masked: bool = True, hidden: int = 0) -> None:
        """Tokens asked [D, Lq] look at tokens keys [D, Lk]; the prompt in row i of `asked` keeps the results at kept[i]."""
        (count, lq), lk = asked.shape, keys.shape[1]
        head, pair = torch.arange(self.heads), torch.arange(self.pairs)
        shape = count * self.pairs, self.groups * lq, lk
        by_head = (asked[:, None] * self.heads + head[:, None]).flatten()  # [D, heads, Lq]
        self.asked.append(by_head)
        self.keys.append((keys[:, None] * self.pairs + pair[:, None]).flatten())  # [D, pairs, Lk]
        # The last lq of lk tokens look at what stands before them and at themselves; the first `hidden` keys fill a size up.
        mask = torch.full((lq, lk), float("-inf")).triu_(lk - lq + 1).repeat(self.groups, 1) if masked else None
        if mask is not None and hidden:
            mask[:, :hidden] = float("-inf")
        self.calls.append(Call(shape, mask))
        place = self.made + torch.arange(by_head.numel()).view(count, self.heads, lq).transpose(1, 2)  # [D, Lq, heads]
        self.back += [place[row, some].flatten() for row, some in enumerate(kept)]
        self.made += by_head.numel()


def plan_of(spans: Spans, heads: int, pairs: int) -> Plan:
    """Attentions for packs laid end to end, see `flat.Spans`, for `heads` heads of queries and `pairs` of keys."""
    planner = _Planner(heads, pairs)
    for row, start, ends in spans.packs:
        prefix = torch.arange(row, row + start)
        begins = [row + start, *(row + end for end in ends[:-1])]
        rows = [torch.arange(begin, row + end) for begin, end in zip(begins, ends)]
        if start + max(map(len, rows)) > LONG:
            for number, own in enumerate(rows):
                whole = torch.cat((prefix, own))
                kept = slice(0 if number == 0 else start, len(whole))
                whole = repeat_last(whole, padded_length(len(whole)))[None]
                planner.add(whole, whole, [kept], masked=False)
            continue
        if start:
            _add_run(planner, prefix[:0], [prefix])
        for run in _runs(rows, start):
            _add_run(planner, prefix, run)
    return Plan(planner.calls, *map(torch.cat, (planner.asked, planner.keys, planner.back)))


def _add_run(planner: _Planner, prefix: torch.Tensor, rows: list[torch.Tensor]) -> None:
    """Plan the attention of the documents in `rows` behind `prefix`, in sizes of which there are few (see `engine.shapes`)."""
    longest = padded_length(max(map(len, rows)))
    hidden = padded_length(len(prefix) + longest) - len(prefix) - longest
    before = torch.cat((rows[0][:1].expand(hidden), prefix))  # what fills a size up comes first and is hidden
    # Short documents repeat their last token: it comes after all that counts, where the mask hides it.
    asked = torch.stack([repeat_last(own, longest) for own in rows])
    keys = torch.cat((before.expand(len(rows), -1), asked), 1)
    first = 0
    for count in powers_of_two(len(rows)):
        part = slice(first, first + count)
        planner.add(asked[part], keys[part], [slice(len(own)) for own in rows[part]], hidden=hidden)
        first += count


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


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Plan, softmax: Callable[..., torch.Tensor], dtype: torch.dtype
) -> torch.Tensor:
    """Attention of q [T, heads, d], already scaled, over k and v [T, pairs, d]: [T, heads * d] in dtype.

    `softmax(scores, mask, dtype)`, see `kernels`. Two products and a softmax take half of the time of the fused kernel here, whose
    tiles are made for long sequences; heads that share keys are rows of one product."""
    tokens, heads, width = q.shape
    q, k, v = (t.reshape(-1, width) for t in (q, k, v))
    shapes = [call.shape for call in plan.calls]
    # Rows by `embedding`: the fastest of the ways to gather, and its gradient sums rows that were taken more than once.
    asked = embedding(plan.asked, q).to(dtype).split([shape[0] * shape[1] for shape in shapes])
    keys, values = (embedding(plan.keys, t).to(dtype).split([shape[0] * shape[2] for shape in shapes]) for t in (k, v))
    seen = []
    for call, x, y, z in zip(plan.calls, asked, keys, values):
        pairs, lq, lk = call.shape
        x, y, z = x.view(pairs, lq, width), y.view(pairs, lk, width), z.view(pairs, lk, width)
        if call.mask is None:
            x = x.view(1, heads, lk, width)
            found = scaled_dot_product_attention(x, y[None], z[None], is_causal=True, scale=1.0, enable_gqa=True)
        else:
            found = torch.bmm(softmax(torch.bmm(x, y.transpose(1, 2)), call.mask, dtype), z)
        seen.append(found.reshape(-1, width))
    return embedding(plan.back, torch.cat(seen)).view(tokens, heads * width)
