"""Packs: documents of a query in one row after the query's tokens, which are computed once.

Each document in a pack has the positions and the attention of a single prompt (its prefix and itself), so scores equal those of
single prompts up to rounding, with and without gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from os.path import commonprefix
from typing import Any

import numpy as np
import torch

from ..prompts.prompt import Encoded
from .sequences import PackSpan, Spans, row_positions


@dataclass(frozen=True)
class Pack:
    """One row of tokens: a shared prefix, then the rest of each prompt.

    Attributes:
        ids: token ids.
        prefix_length: number of tokens of the shared prefix.
        ends: end index (exclusive) of each prompt. The first begins after the prefix, each other at the end of the previous one.
        answers: indices of the last hidden states to return: the last token of each prompt, or every token that predicts a token of
            a completion.
        owners: number of each prompt, assigned by the caller, in the order of `answers`.
    """

    ids: list[int]
    prefix_length: int
    ends: list[int]
    answers: list[int]
    owners: list[int]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of the prefix, then of each prompt without it."""
        return [self.prefix_length, *(end - begin for begin, end in zip((self.prefix_length, *self.ends), self.ends))]

    @property
    def positions(self) -> list[int]:
        """Position ids; those of every prompt continue from the prefix."""
        prefix, *rests = self.lengths
        return [*range(prefix), *(position for rest in rests for position in range(prefix, prefix + rest))]

    @property
    def segments(self) -> list[int]:
        """0 for each token of the prefix, k >= 1 for those of the k-th prompt."""
        return [number for number, length in enumerate(self.lengths) for _ in range(length)]


@dataclass(frozen=True)
class Batch:
    """One forward pass over B rows of L tokens, with N answers.

    Attributes:
        inputs: keyword arguments of the model: `input_ids` and `position_ids` [B, L], `attention_mask` [B, 1, L, L] (True
            where attention is allowed), and `spans` for a flat batch (B = 1, see `flat_attention`).
        rows, columns: positions of the answers, [N] each.
        owners: number of each answer, assigned by the caller, N.
    """

    inputs: dict[str, Any]
    rows: torch.Tensor
    columns: torch.Tensor
    owners: list[int]

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on `device`."""
        inputs = {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in self.inputs.items()}
        if "spans" in inputs:
            inputs["spans"] = inputs["spans"].to(device)
        return Batch(inputs, self.rows.to(device, non_blocking=True), self.columns.to(device, non_blocking=True), self.owners)

    def pinned(self) -> "Batch":
        """The batch in page-locked memory, from which a GPU copies while it computes, with the sequences of its attention."""
        inputs = {k: v.pin_memory() if isinstance(v, torch.Tensor) else v.pinned() for k, v in self.inputs.items()}
        return Batch(inputs, self.rows.pin_memory(), self.columns.pin_memory(), self.owners)


def pack(prompts: Sequence[Encoded], owners: Sequence[int], share: bool = True, prefix_length: int | None = None) -> Pack:
    """Pack prompts of one query into a row.

    Args:
        prompts: the prompts, at least one.
        owners: number of each prompt, returned with its answer.
        share: compute the common prefix once; False repeats it in every prompt.
        prefix_length: number of leading ids to share, which must be equal. None for all common ids before the documents.
    """
    if not share:
        prefix_length = 0
    elif prefix_length is None:
        prefix_length = _common_query_length(prompts)
    ids, ends = list(prompts[0].ids[:prefix_length]), []
    for prompt in prompts:
        ids += prompt.ids[prefix_length:]
        ends.append(len(ids))
    return Pack(ids, prefix_length, ends, [end - 1 for end in ends], list(owners))


def _common_query_length(prompts: Sequence[Encoded]) -> int:
    """Number of ids that prompts of one query share before their documents. Some prompts may have a truncated query."""
    heads = {prompt.document_start: prompt.ids[: prompt.document_start] for prompt in prompts}
    return len(commonprefix(list(heads.values())))


def pack_document(prompts: Sequence[Encoded]) -> Pack:
    """Pack prompts of one document into a row, for templates with the document first. Common ids are computed once."""
    common = len(commonprefix([prompt.ids for prompt in prompts]))  # the document is truncated earlier if the query is longer
    return pack(prompts, range(len(prompts)), prefix_length=min(common, *(prompt.document_end for prompt in prompts)))


def pack_completions(prompt: list[int], *completions: list[int], places: Sequence[Sequence[int]] | None = None) -> Pack:
    """Pack a prompt, once, and completions of it into a row.

    Args:
        prompt: ids of the prompt.
        completions: ids of each completion.
        places: indices of the tokens of each completion to predict; None for all.

    Returns:
        A pack whose answers are the indices that predict the completions' tokens, in order of the completions.
    """
    bodies = [completion[:-1] for completion in completions]  # the last token predicts nothing
    shared = len(prompt) if len(completions) > 1 and any(bodies) else 0
    ids, ends, answers = list(prompt), [], []
    for number, body in enumerate(bodies, 1):
        # The prompt's last token predicts the first token of a completion; each later token is predicted by the one before it.
        predictors = [len(prompt) - 1, *range(len(ids), len(ids) + len(body))]
        answers += predictors if places is None else [predictors[i] for i in places[number - 1]]
        ids += body
        ends += [len(ids)] if body else []
    return Pack(ids, shared, ends if shared else [len(ids)], answers, [0])


def packs_of(
    prompts: Sequence[Encoded], owners: Sequence[int], max_tokens: int = 768, max_prompts: int = 16
) -> Iterator[Pack]:  # fmt: skip
    """Yield packs of one query's prompts, grouped by similar length.

    Args:
        prompts: the prompts, in any order.
        owners: number of each prompt, returned with its answer.
        max_tokens: maximum number of tokens of a pack, unless a single prompt is longer.
        max_prompts: maximum number of prompts in a pack.
    """
    order = sorted(range(len(prompts)), key=lambda i: (prompts[i].document_start, -len(prompts[i].ids)))
    group: list[int] = []
    length = 0
    for i in order:
        rest = len(prompts[i].ids) - prompts[i].document_start
        # The query is truncated for some of the documents, so the prefixes differ.
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
        packs: the packs; if not `flat`, sorted by length to need little padding.
        max_tokens: maximum size of a batch: number of tokens if `flat`, else rows times length of the longest row.
        max_prompts: maximum number of prompts in a batch; None for no limit.
        flat: whether batches have no padding.
    """
    batch: list[Pack] = []
    tokens = longest = prompts = 0
    for one in packs:
        area = tokens + len(one) if flat else max(longest, len(one)) * (len(batch) + 1)
        full = max_prompts is not None and prompts + len(one.owners) > max_prompts
        if batch and (full or area > max_tokens):
            yield batch
            batch, tokens, longest, prompts = [], 0, 0, 0
        batch.append(one)
        tokens, longest, prompts = tokens + len(one), max(longest, len(one)), prompts + len(one.owners)
    if batch:
        yield batch


def collate(packs: Sequence[Pack], pad: int, flat: bool = False) -> Batch:
    """Make a batch of packs.

    Args:
        packs: the packs.
        pad: id of the padding token.
        flat: join the packs end to end in one row; otherwise each pack is a row, padded on the right, with a mask.
    """
    if flat:
        return _collate_flat(packs)
    longest = max(map(len, packs))
    fill = lambda rows, value: torch.tensor([row + [value] * (longest - len(row)) for row in rows])  # noqa: E731
    segments = fill([p.segments for p in packs], -1)  # padding is a separate segment, so no row of the softmax is empty
    queries, keys = segments[:, :, None], segments[:, None, :]
    mask = ((keys == 0) | (queries == keys)) & torch.ones(longest, longest, dtype=torch.bool).tril()
    rows, columns = torch.tensor([(row, column) for row, p in enumerate(packs) for column in p.answers]).T
    ids, positions = fill([p.ids for p in packs], pad), fill([p.positions for p in packs], 0)
    inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": mask[:, None]}
    return Batch(inputs, rows, columns, _owners(packs))


def spans_of(packs: Sequence[Pack]) -> Spans:
    """Return the spans of packs that are joined end to end."""
    return Spans([PackSpan(start, p.prefix_length, p.ends) for start, p in zip(_starts(packs), packs)])


def _collate_flat(packs: Sequence[Pack]) -> Batch:
    """Join packs end to end. numpy fills the arrays, because a loop over tokens would take longer than a GPU computes."""
    spans, tokens = spans_of(packs), sum(map(len, packs))
    ids = np.fromiter(chain.from_iterable(p.ids for p in packs), np.int64, tokens)
    counts = [len(p.answers) for p in packs]
    columns = np.fromiter(chain.from_iterable(p.answers for p in packs), np.int64, sum(counts)) + np.repeat(_starts(packs), counts)
    inputs = {
        "input_ids": torch.from_numpy(ids)[None],
        "position_ids": torch.from_numpy(row_positions(spans))[None],
        # transformers uses a mask of four dimensions unchanged; the attention itself depends on the spans.
        "attention_mask": torch.empty(1, 1, 1, 1),
        "spans": spans,
    }
    return Batch(inputs, torch.zeros(len(columns), dtype=torch.long), torch.from_numpy(columns), _owners(packs))


def _owners(packs: Sequence[Pack]) -> list[int]:
    return [owner for p in packs for owner in p.owners]


def _starts(packs: Sequence[Pack]) -> list[int]:
    """Index of each pack's first token if the packs are joined end to end."""
    return list(accumulate(map(len, packs), initial=0))[:-1]
