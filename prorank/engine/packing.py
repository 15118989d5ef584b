"""Packs: the documents of a query in one row behind the query's own tokens, which are computed once.

A pack gives every document the positions and the attention it would have alone (its prefix and itself), so scores
equal those of single prompts up to float noise, with or without gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from os.path import commonprefix
from typing import Any

import torch

from ..prompts.prompt import Encoded
from .flat_attention import Spans


@dataclass(frozen=True)
class Pack:
    """One row: the shared prefix, then the rest of each prompt. `owners[k]` says whose score `answers[k]` carries."""

    ids: list[int]
    positions: list[int]
    segments: list[int]  # 0 for the prefix, k >= 1 for the k-th prompt
    answers: list[int]  # indices whose last hidden states are wanted: the last token of each prompt, or all before a completion's
    owners: list[int]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def start(self) -> int:
        """Tokens of the prefix."""
        return self.segments.count(0)

    @property
    def ends(self) -> list[int]:
        """Where each prompt ends."""
        runs = [len(list(run)) for number, run in groupby(self.segments) if number]
        return list(accumulate(runs, initial=self.start))[1:]


@dataclass(frozen=True)
class Batch:
    """One forward: `inputs` of the model, and where the N answers stand.

    `inputs`: `input_ids`, `position_ids` [B, L], and `attention_mask` [B, 1, L, L], True where attention may look, or `spans`
    (B = 1, see `flat`). `rows`, `columns` [N]: the answers' places; `owners`: whose they are.
    """

    inputs: dict[str, Any]
    rows: torch.Tensor
    columns: torch.Tensor
    owners: list[int]

    def to(self, device: torch.device) -> "Batch":
        inputs = {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in self.inputs.items()}
        return Batch(inputs, self.rows.to(device, non_blocking=True), self.columns.to(device, non_blocking=True), self.owners)


def pack(prompts: Sequence[Encoded], owners: Sequence[int], share: bool = True, start: int | None = None) -> Pack:
    """Lay prompts of one query into a row. What comes before their documents is shared, or their ids before `start`, which must be
    the same; share=False keeps all."""
    start = 0 if not share else _shared(prompts) if start is None else start
    head = prompts[0].ids[:start]
    ids, positions, segments, answers = list(head), list(range(start)), [0] * start, []
    for k, prompt in enumerate(prompts, 1):
        rest = prompt.ids[start:]
        ids += rest
        positions += range(start, start + len(rest))
        segments += [k] * len(rest)
        answers.append(len(ids) - 1)
    return Pack(ids, positions, segments, answers, list(owners))


def _shared(prompts: Sequence[Encoded]) -> int:
    """Tokens that the prompts of one query have in common before their documents: a long query may be cut for some of them."""
    heads = {prompt.document_start: prompt.ids[: prompt.document_start] for prompt in prompts}
    return len(commonprefix(list(heads.values())))


def pack_document(prompts: Sequence[Encoded]) -> Pack:
    """Lay prompts of one document, which comes first in them, into a row: what they have in common is computed once."""
    common = len(commonprefix([prompt.ids for prompt in prompts]))  # a longer query may have cut the document earlier
    return pack(prompts, range(len(prompts)), start=min(common, *(prompt.document_end for prompt in prompts)))


def completed(prompt: list[int], *completions: list[int], places: Sequence[Sequence[int]] | None = None) -> Pack:
    """A prompt and completions of it as a row, the prompt once; its answers are the places from which the completions' tokens
    follow, one completion after the other: of all tokens, or of those at `places` in each."""
    bodies = [completion[:-1] for completion in completions]  # nothing follows from the last token
    shared = len(prompt) if len(completions) > 1 and any(bodies) else 0
    ids, positions, segments, answers = list(prompt), list(range(len(prompt))), [0 if shared else 1] * len(prompt), []
    for k, some in enumerate(bodies, 1):
        # The first token follows from the prompt, the others from those before them.
        before = [len(prompt) - 1, *range(len(ids), len(ids) + len(some))]
        answers += before if places is None else [before[i] for i in places[k - 1]]
        ids += some
        positions += range(len(prompt), len(prompt) + len(some))
        segments += [k] * len(some)
    return Pack(ids, positions, segments, answers, [0])


def packs_of(prompts: Sequence[Encoded], owners: Sequence[int], most_tokens: int = 768, most: int = 16) -> Iterator[Pack]:
    """Packs of one query's prompts, similar lengths together, none over `most_tokens` unless one prompt alone is."""
    order = sorted(range(len(prompts)), key=lambda i: (prompts[i].document_start, -len(prompts[i].ids)))
    some: list[int] = []
    length = 0
    for i in order:
        rest = len(prompts[i].ids) - prompts[i].document_start
        apart = some and prompts[i].document_start != prompts[some[0]].document_start  # a query that was cut for some documents
        if some and (apart or length + rest > most_tokens or len(some) == most):
            yield pack([prompts[j] for j in some], [owners[j] for j in some])
            some, length = [], 0
        length += rest if some else len(prompts[i].ids)
        some.append(i)
    if some:
        yield pack([prompts[j] for j in some], [owners[j] for j in some])


def batches_of(packs: Iterable[Pack], most_tokens: int, most: int | None = None, flat: bool = False) -> Iterator[list[Pack]]:
    """Lists of packs with an area within `most_tokens`, at most `most` prompts. The area is padded unless `flat`: then sort by
    length first to waste little."""
    some: list[Pack] = []
    for one in packs:
        area = sum(map(len, [*some, one])) if flat else max(map(len, [*some, one])) * (len(some) + 1)
        full = most is not None and sum(len(p.owners) for p in [*some, one]) > most
        if some and (full or area > most_tokens):
            yield some
            some = []
        some.append(one)
    if some:
        yield some


def collate(packs: Sequence[Pack], pad: int, flat: bool = False) -> Batch:
    """Packs as one forward: end to end in one row if `flat`, else a row each, padded on the right, with a mask."""
    owners = [owner for p in packs for owner in p.owners]
    if flat:
        return _end_to_end(packs, owners)
    longest = max(map(len, packs))
    fill = lambda rows, value: torch.tensor([row + [value] * (longest - len(row)) for row in rows])  # noqa: E731
    segments = fill([p.segments for p in packs], -1)  # padding is a segment of its own, so no row of the softmax is empty
    here, there = segments[:, :, None], segments[:, None, :]
    mask = ((there == 0) | (here == there)) & torch.ones(longest, longest, dtype=torch.bool).tril()
    rows, columns = torch.tensor([(row, column) for row, p in enumerate(packs) for column in p.answers]).T
    ids, positions = fill([p.ids for p in packs], pad), fill([p.positions for p in packs], 0)
    return Batch({"input_ids": ids, "position_ids": positions, "attention_mask": mask[:, None]}, rows, columns, owners)


def spans_of(packs: Sequence[Pack]) -> Spans:
    """The spans of packs laid end to end."""
    begins = accumulate([0, *map(len, packs)])
    return Spans([(begin, pack.start, pack.ends) for begin, pack in zip(begins, packs)])


def _end_to_end(packs: Sequence[Pack], owners: list[int]) -> Batch:
    begins = accumulate([0, *map(len, packs)])
    columns = torch.tensor([begin + answer for begin, p in zip(begins, packs) for answer in p.answers])
    ids, positions = (torch.tensor([[x for p in packs for x in getattr(p, name)]]) for name in ("ids", "positions"))
    # A mask of four dimensions is taken as it is, so none is built; attention goes by the spans.
    none = torch.empty(1, 1, 1, 1)
    inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": none, "spans": spans_of(packs)}
    return Batch(inputs, torch.zeros_like(columns), columns, owners)
