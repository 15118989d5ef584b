"""Attention of the engine: computes the documents of a pack, after their shared prefix, in few calls.

Documents are padded to equal length for attention, so that one causal mask is valid for all of them. The matrix products of the
layers have no padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import embedding, scaled_dot_product_attention

from .sequences import PackSpan, Spans
from .shapes import padded_length, powers_of_two, repeat_last

MAX_SCORES = 128 * 1024  # scores of an attention call, per head, that fit into a processor's cache
LONG_PROMPT = 1024  # for longer prompts (tokens), recomputing the prefix for each document is cheaper than a mask


@dataclass(frozen=True)
class AttentionCall:
    """Attention over D prompts with Lq queries and Lk keys each. Query heads that share a key head are rows of one product.

    Attributes:
        batch: D * num_kv_heads.
        query_rows: (num_heads / num_kv_heads) * Lq.
        key_rows: Lk.
        mask: [query_rows, key_rows] of 0 and -inf; None for causal attention with Lq = Lk.
    """

    batch: int
    query_rows: int
    key_rows: int
    mask: torch.Tensor | None


@dataclass(frozen=True)
class AttentionPlan:
    """The attention calls of a batch of T tokens, the same in all layers.

    Attributes:
        calls: the calls, in the order of the indices below.
        queries: indices into the query rows [T * num_heads, head_dim] of all calls, in order of the calls.
        keys: indices into the key and value rows [T * num_kv_heads, head_dim], in the same order.
        back: [T * num_heads], index of each token's heads in the joined results of the calls.
    """

    calls: list[AttentionCall]
    queries: torch.Tensor
    keys: torch.Tensor
    back: torch.Tensor


class _Planner:
    """Collects attention calls."""

    def __init__(self, num_heads: int, num_kv_heads: int) -> None:
        self.num_heads, self.num_kv_heads, self.num_kv_groups = num_heads, num_kv_heads, num_heads // num_kv_heads
        self.calls: list[AttentionCall] = []
        self.queries: list[torch.Tensor] = []
        self.keys: list[torch.Tensor] = []
        self.back: list[torch.Tensor] = []
        self.result_rows = 0

    def add(self, queries: torch.Tensor, keys: torch.Tensor, kept: list[slice], masked: bool = True, hidden_keys: int = 0) -> None:
        """Plan one call.

        Args:
            queries: token indices [D, Lq], the last Lq of each prompt's keys.
            keys: token indices [D, Lk].
            kept: slices of each prompt's Lq results that are used.
            masked: False for plain causal attention with Lq = Lk.
            hidden_keys: number of leading keys that are padding.
        """
        (count, lq), lk = queries.shape, keys.shape[1]
        heads, kv_heads = torch.arange(self.num_heads), torch.arange(self.num_kv_heads)
        query_rows = (queries[:, None] * self.num_heads + heads[:, None]).flatten()  # [D, num_heads, Lq]
        self.queries.append(query_rows)
        self.keys.append((keys[:, None] * self.num_kv_heads + kv_heads[:, None]).flatten())  # [D, num_kv_heads, Lk]
        mask = self._mask(lq, lk, hidden_keys) if masked else None
        self.calls.append(AttentionCall(count * self.num_kv_heads, self.num_kv_groups * lq, lk, mask))
        results = self.result_rows + torch.arange(query_rows.numel()).view(count, self.num_heads, lq).transpose(1, 2)
        self.back += [results[number, part].flatten() for number, part in enumerate(kept)]
        self.result_rows += query_rows.numel()

    def _mask(self, lq: int, lk: int, hidden_keys: int) -> torch.Tensor:
        """Mask [num_kv_groups * Lq, Lk] for the last Lq of Lk tokens, which attend to preceding tokens and themselves."""
        mask = torch.full((lq, lk), float("-inf")).triu_(lk - lq + 1).repeat(self.num_kv_groups, 1)
        mask[:, :hidden_keys] = float("-inf")
        return mask


def plan_of(spans: Spans, num_heads: int, num_kv_heads: int) -> AttentionPlan:
    """Plan the attention calls for packs that are joined end to end.

    Args:
        spans: positions of the packs.
        num_heads, num_kv_heads: heads of queries, and of keys and values.
    """
    planner = _Planner(num_heads, num_kv_heads)
    for span in spans.packs:
        longest = max(map(len, span.suffixes))
        (_plan_long if span.prefix_length + longest > LONG_PROMPT else _plan_short)(planner, span)
    return AttentionPlan(planner.calls, *map(torch.cat, (planner.queries, planner.keys, planner.back)))


def _plan_long(planner: _Planner, span: PackSpan) -> None:
    """Plan a call for each prompt, without a mask. Each call recomputes the prefix; the result of the first is used."""
    for number, suffix in enumerate(span.suffixes):
        prompt = torch.cat((_indices(span.prefix), _indices(suffix)))
        kept = slice(0 if number == 0 else span.prefix_length, len(prompt))
        padded = repeat_last(prompt, padded_length(len(prompt)))[None]
        planner.add(padded, padded, [kept], masked=False)


def _plan_short(planner: _Planner, span: PackSpan) -> None:
    """Plan a call for the prefix, then one for each run of prompts of similar length."""
    prefix = _indices(span.prefix)
    if len(prefix):
        _plan_run(planner, prefix[:0], [prefix])
    for run in _runs([_indices(suffix) for suffix in span.suffixes], len(prefix)):
        _plan_run(planner, prefix, run)


def _plan_run(planner: _Planner, prefix: torch.Tensor, suffixes: list[torch.Tensor]) -> None:
    """Plan the attention of prompts after `prefix`, padded to one of the few sizes in `shapes`."""
    longest = padded_length(max(map(len, suffixes)))
    hidden_keys = padded_length(len(prefix) + longest) - len(prefix) - longest
    before = torch.cat((suffixes[0][:1].expand(hidden_keys), prefix))  # key padding comes first and is masked
    # Short prompts are padded by their last token. No other token attends to the padding, as it comes last.
    queries = torch.stack([repeat_last(suffix, longest) for suffix in suffixes])
    keys = torch.cat((before.expand(len(suffixes), -1), queries), 1)
    first = 0
    for count in powers_of_two(len(suffixes)):
        part = slice(first, first + count)
        planner.add(queries[part], keys[part], [slice(len(suffix)) for suffix in suffixes[part]], hidden_keys=hidden_keys)
        first += count


def _runs(suffixes: list[torch.Tensor], prefix_length: int) -> Iterator[list[torch.Tensor]]:
    """Yield runs of neighbouring prompts, which packs sort by length, whose scores fit into a processor's cache."""
    run: list[torch.Tensor] = []
    for suffix in suffixes:
        longest = max(map(len, [*run, suffix]))
        if run and (len(run) + 1) * longest * (prefix_length + longest) > MAX_SCORES:
            yield run
            run = []
        run.append(suffix)
    yield run


def _indices(part: range) -> torch.Tensor:
    return torch.arange(part.start, part.stop)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: AttentionPlan, softmax: Callable[..., torch.Tensor],
    dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """Compute the attention of every prompt to itself and its prefix.

    Two products and a softmax take half the time of torch's fused kernel here, which is tuned for long sequences.

    Args:
        q: queries [T, num_heads, head_dim], already scaled.
        k, v: keys and values [T, num_kv_heads, head_dim].
        plan: see `plan_of`.
        softmax: see `kernels.softmax`.
        dtype: dtype of the products.

    Returns:
        [T, num_heads * head_dim] in `dtype`.
    """
    tokens, num_heads, head_dim = q.shape
    q, k, v = (t.reshape(-1, head_dim) for t in (q, k, v))
    # `embedding` is the fastest way to gather rows, and its gradient sums over rows that occur more than once.
    queries = embedding(plan.queries, q).to(dtype).split([call.batch * call.query_rows for call in plan.calls])
    key_sizes = [call.batch * call.key_rows for call in plan.calls]
    keys, values = (embedding(plan.keys, t).to(dtype).split(key_sizes) for t in (k, v))
    results = []
    for call, x, y, z in zip(plan.calls, queries, keys, values):
        x = x.view(call.batch, call.query_rows, head_dim)
        y, z = (t.view(call.batch, call.key_rows, head_dim) for t in (y, z))
        if call.mask is None:
            x = x.view(1, num_heads, call.key_rows, head_dim)
            result = scaled_dot_product_attention(x, y[None], z[None], is_causal=True, scale=1.0, enable_gqa=True)
        else:
            result = torch.bmm(softmax(torch.bmm(x, y.transpose(1, 2)), call.mask, dtype), z)
        results.append(result.reshape(-1, head_dim))
    return embedding(plan.back, torch.cat(results)).view(tokens, num_heads * head_dim)
