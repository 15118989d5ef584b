"""Packs: the documents of a query in one row behind the query's own tokens, which are computed once.

A pack gives every document the positions and the attention it would have alone (its prefix and itself), so scores equal
those of single prompts up to float noise, with and without gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from os.path import commonprefix
from typing import Any

import torch

from ..prompts.prompt import Encoded
from .flat_attention import PackSpan, Spans


@dataclass(frozen=True)
class Pack:
    """One row of tokens: a shared prefix, then the rest of each prompt.

    Attributes:
        ids: token ids.
        positions: position ids; every prompt counts on from the prefix.
        segments: 0 for the prefix, k >= 1 for the k-th prompt.
        answers: indices whose last hidden states are read: the last token of each prompt, or every token that predicts one
            of a completion.
        owners: the caller's number of each prompt, in the order of `answers`.
    """

    ids: list[int]
    positions: list[int]
    segments: list[int]
    answers: list[int]
    owners: list[int]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def prefix_length(self) -> int:
        """Number of tokens of the shared prefix."""
        return self.segments.count(0)

    @property
    def ends(self) -> list[int]:
        """Index behind the last token of each prompt."""
        runs = [len(list(run)) for number, run in groupby(self.segments) if number]
        return list(accumulate(runs, initial=self.prefix_length))[1:]


@dataclass(frozen=True)
class Batch:
    """One forward pass over B rows of L tokens, with N answers.

    Attributes:
        inputs: keyword arguments of the model: `input_ids` and `position_ids` [B, L], `attention_mask` [B, 1, L, L] (True
            where attention is allowed), and `spans` for a flat batch (B = 1, see `flat_attention`).
        rows, columns: where the answers stand, [N] each.
        owners: the caller's number of each answer, N.
    """

    inputs: dict[str, Any]
    rows: torch.Tensor
    columns: torch.Tensor
    owners: list[int]

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on `device`."""
        inputs = {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in self.inputs.items()}
        return Batch(inputs, self.rows.to(device, non_blocking=True), self.columns.to(device, non_blocking=True), self.owners)


def pack(prompts: Sequence[Encoded], owners: Sequence[int], share: bool = True, prefix_length: int | None = None) -> Pack:
    """Lay prompts of one query into a row.

    Args:
        prompts: at least one.
        owners: the caller's number of each.
        share: compute the common prefix once; False repeats it in every prompt.
        prefix_length: number of leading ids to share, which must be equal. None: all that the prompts have in common
            before their documents.
    """
    if not share:
        prefix_length = 0
    elif prefix_length is None:
        prefix_length = _common_query_length(prompts)
    ids = list(prompts[0].ids[:prefix_length])
    positions, segments, answers = list(range(prefix_length)), [0] * prefix_length, []
    for number, prompt in enumerate(prompts, 1):
        rest = prompt.ids[prefix_length:]
        ids += rest
        positions += range(prefix_length, prefix_length + len(rest))
        segments += [number] * len(rest)
        answers.append(len(ids) - 1)
    return Pack(ids, positions, segments, answers, list(owners))


def _common_query_length(prompts: Sequence[Encoded]) -> int:
    """Number of ids that the prompts of one query share before their documents: a long query may be cut for some of them."""
    heads = {prompt.document_start: prompt.ids[: prompt.document_start] for prompt in prompts}
    return len(commonprefix(list(heads.values())))


def pack_document(prompts: Sequence[Encoded]) -> Pack:
    """Lay prompts of one document into a row, for templates that put the document first: the common ids are computed once."""
    common = len(commonprefix([prompt.ids for prompt in prompts]))  # a longer query may have cut the document earlier
    return pack(prompts, range(len(prompts)), prefix_length=min(common, *(prompt.document_end for prompt in prompts)))


def pack_completions(prompt: list[int], *completions: list[int], places: Sequence[Sequence[int]] | None = None) -> Pack:
    """Lay a prompt and completions of it into a row, the prompt once.

    Args:
        prompt: its ids.
        completions: the ids of each.
        places: which tokens of each completion are predicted; None: all.

    Returns:
        A pack whose answers are the indices that predict the completions' tokens, one completion after the other.
    """
    bodies = [completion[:-1] for completion in completions]  # the last token predicts nothing
    shared = len(prompt) if len(completions) > 1 and any(bodies) else 0
    ids, positions, segments, answers = list(prompt), list(range(len(prompt))), [0 if shared else 1] * len(prompt), []
    for number, body in enumerate(bodies, 1):
        # The prompt's last token predicts the first of the completion, each other one is predicted by the one before.
        predictors = [len(prompt) - 1, *range(len(ids), len(ids) + len(body))]
        answers += predictors if places is None else [predictors[i] for i in places[number - 1]]
        ids += body
        positions += range(len(prompt), len(prompt) + len(body))
        segments += [number] * len(body)
    return Pack(ids, positions, segments, answers, [0])


def packs_of(
    prompts: Sequence[Encoded], owners: Sequence[int], max_tokens: int = 768, max_prompts: int = 16
) -> Iterator[Pack]:  # fmt: skip
    """Packs of one query's prompts, similar lengths together.

    Args:
        prompts: in any order.
        owners: the caller's number of each.
        max_tokens: limit of a pack, unless a single prompt is longer.
        max_prompts: limit of a pack.
    """
    order = sorted(range(len(prompts)), key=lambda i: (prompts[i].document_start, -len(prompts[i].ids)))
    group: list[int] = []
    length = 0
    for i in order:
        rest = len(prompts[i].ids) - prompts[i].document_start
        # The query was cut for some of the documents, so the prefixes differ.
        other_prefix = group and prompts[i].document_start != prompts[group[0]].document_start
        if group and (other_prefix or length + rest > max_tokens or len(group) == max_prompts):
            yield pack([prompts[j] for j in group], [owners[j] for j in group])
            group, length = [], 0
        length += rest if group else len(prompts[i].ids)
        group.append(i)
    if group:
        yield pack([prompts[j] for j in group], [owners[j] for j in group])


def batches_of(
    packs: Iterable[Pack], max_tokens: int, max_prompts: int | None = None, flat: bool = False
) -> Iterator[list[Pack]]:  # fmt: skip
    """Group packs into batches, in their order.

    Args:
        packs: sorted by length, if not `flat`, to waste little on padding.
        max_tokens: limit of a batch: of its tokens if `flat`, else of rows times the longest row.
        max_prompts: limit of a batch; None: no limit.
        flat: without padding.
    """
    batch: list[Pack] = []
    for one in packs:
        grown = [*batch, one]
        area = sum(map(len, grown)) if flat else max(map(len, grown)) * len(grown)
        full = max_prompts is not None and sum(len(p.owners) for p in grown) > max_prompts
        if batch and (full or area > max_tokens):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def collate(packs: Sequence[Pack], pad: int, flat: bool = False) -> Batch:
    """Packs as one batch: end to end in one row if `flat`, else a row each, padded on the right with `pad`, with a mask."""
    if flat:
        return _collate_flat(packs)
    longest = max(map(len, packs))
    fill = lambda rows, value: torch.tensor([row + [value] * (longest - len(row)) for row in rows])  # noqa: E731
    segments = fill([p.segments for p in packs], -1)  # padding is a segment of its own, so no row of the softmax is empty
    queries, keys = segments[:, :, None], segments[:, None, :]
    mask = ((keys == 0) | (queries == keys)) & torch.ones(longest, longest, dtype=torch.bool).tril()
    rows, columns = torch.tensor([(row, column) for row, p in enumerate(packs) for column in p.answers]).T
    ids, positions = fill([p.ids for p in packs], pad), fill([p.positions for p in packs], 0)
    inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": mask[:, None]}
    return Batch(inputs, rows, columns, _owners(packs))


def spans_of(packs: Sequence[Pack]) -> Spans:
    """The spans of packs laid end to end."""
    return Spans([PackSpan(start, p.prefix_length, p.ends) for start, p in zip(_starts(packs), packs)])


def _collate_flat(packs: Sequence[Pack]) -> Batch:
    columns = torch.tensor([start + answer for start, p in zip(_starts(packs), packs) for answer in p.answers])
    ids, positions = (torch.tensor([[x for p in packs for x in getattr(p, name)]]) for name in ("ids", "positions"))
    # transformers takes a mask of four dimensions as it is and builds none; attention goes by the spans.
    no_mask = torch.empty(1, 1, 1, 1)
    inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": no_mask, "spans": spans_of(packs)}
    return Batch(inputs, torch.zeros_like(columns), columns, _owners(packs))


def _owners(packs: Sequence[Pack]) -> list[int]:
    return [owner for p in packs for owner in p.owners]


def _starts(packs: Sequence[Pack]) -> list[int]:
    """The index of each pack's first token when they lie end to end."""
    return list(accumulate(map(len, packs), initial=0))[:-1]
