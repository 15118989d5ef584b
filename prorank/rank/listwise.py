"""Rank documents against each other: a prompt shows several, and the model names the best or their order.

With kind "setwise" nothing is written: one forward says of each label how likely it is the answer, the best
is the likeliest, the order that of the labels' logits (FIRST, arXiv 2406.15657). The questions of all queries are asked together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..engine.batches import sizes
from ..engine.flat_attention import is_flat
from ..engine.generation import Sampler, Sampling, TextGenerator, generate
from ..engine.packing import Batch, batches_of, collate, pack
from ..errors import ModelError
from ..prompts.list_encoder import EncodedList, ListPromptEncoder
from ..prompts.prompt import Encoded, TruncationCounts
from .answer_parsing import parse_ranking
from .documents import Cost
from .methods import Listwise, Setwise
from .sorting import run_in_lockstep

Reader = Callable[[list[Encoded], list[int]], list[np.ndarray]]  # of prompts and their numbers of documents: a value for each


class LabelReader:
    """Reads log-probabilities of labels at the answer, among those of the documents shown.

    Args:
        model: says how batches are laid, see `windows.sizes`.
        hidden: last hidden states [N, H] of a batch.
        rows, bias: of the labels in the output matrix, [20, H] and [20].
        pad: the padding token.
    """

    def __init__(
        self, model: torch.nn.Module, hidden: Callable[[Batch], torch.Tensor], rows: torch.Tensor, bias: torch.Tensor, pad: int
    ) -> None:
        self.hidden, self.rows, self.bias, self.pad = hidden, rows, bias, pad
        self.flat, self.tokens = is_flat(model), sizes(model)[0]

    def __call__(self, prompts: list[Encoded], counts: list[int]) -> list[np.ndarray]:
        out: list[np.ndarray] = [np.empty(0)] * len(prompts)
        packs = [pack([prompt], [i], share=False) for i, prompt in enumerate(prompts)]
        for some in batches_of(sorted(packs, key=len, reverse=True), self.tokens, flat=self.flat):
            batch = collate(some, self.pad, self.flat).to(self.rows.device)
            with torch.inference_mode():
                logits = self.hidden(batch).float() @ self.rows.T + self.bias  # [B, 20]
            for i, row in zip(batch.owners, logits):
                out[i] = row[: counts[i]].log_softmax(-1).cpu().numpy()
                if not np.isfinite(out[i]).all():
                    raise ModelError("scores are not finite; the weights are damaged or their training diverged")
        return out


class AnswerReader:
    """Lets the model write, a thought first where the prompt asks for one, and reads which documents it names.

    Args:
        pen: see `generate.make_generator`.
        bound: a prompt whose answers are written.
        method: says what a written answer is worth.
        cost: tokens written, and answers that name none of the documents, are counted there.
    """

    def __init__(self, pen: TextGenerator, bound: ListPromptEncoder, method: Setwise | Listwise, cost: Cost) -> None:
        self.pen, self.bound, self.method, self.cost = pen, bound, method, cost

    def __call__(self, prompts: list[Encoded], counts: list[int]) -> list[np.ndarray]:
        budget = self.bound.prompt.max_think_tokens if self.bound.thinks else None
        most = most_written(self.bound, self.method, max(counts, default=0))
        writer = Sampler(self.pen, self.bound, Sampling(0.0, most=most, budget=budget), in_form=True)
        out = []
        for number, (row,) in enumerate(generate(writer, prompts, [["0"]] * len(prompts))):
            said = parse_ranking(self.bound.tokenizer.decode(row.ids, skip_special_tokens=True), counts[number])
            out.append(self.method.values(said))
            self.cost.generated_tokens += len(row.ids) - len(row.forced_positions)
            self.cost.unparsed_answers += said.best is None
        return out


def most_written(bound: ListPromptEncoder, method: Setwise | Listwise, count: int) -> int:
    """Tokens that are written at most about so many documents: thought, tags and answer."""
    thought = bound.prompt.max_think_tokens + len(bound.opener) + len(bound.shut) if bound.thinks else 0
    return thought + method.tokens(count)


class ListRanker:
    """Orders documents by a method of lists.

    Args:
        method: see `methods`.
        bound: a prompt of several documents.
        read: LabelReader or AnswerReader.
        cuts, cost: counted up. A document and a query count once in a call, in however many prompts they are shown.
    """

    def __init__(
        self, method: Setwise | Listwise, bound: ListPromptEncoder, read: Reader, cuts: TruncationCounts, cost: Cost
    ) -> None:
        self.method, self.bound, self.read, self.cuts, self.cost = method, bound, read, cuts, cost

    def __call__(
        self, queries: Sequence[str], documents: Sequence[Sequence[str]], instruction: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[int]]:  # fmt: skip
        """Each query's documents in order, as places in its list, best first."""

        cut_documents: set[tuple[int, int]] = set()
        cut_queries = [0] * len(queries)

        def ask(questions: list[tuple[int, list[int]]]) -> list:
            def hear(number: int, places: list[int], query_cut: int, _: int) -> None:
                query, some = questions[number]
                cut_documents.update((query, some[place]) for place in places)
                cut_queries[query] = max(cut_queries[query], query_cut)

            shown = [(queries[q], [documents[q][i] for i in some]) for q, some in questions]
            return [self.method.answer(row) for row in self.values(shown, instruction, hear)]

        orders = run_in_lockstep([self.method.sorter(len(some)) for some in documents], ask)
        self.cuts.total += sum(map(len, documents))
        self.cuts.documents += len(cut_documents)
        for tokens in cut_queries:
            self.cuts.count_query(tokens)
        if progress:
            progress(sum(map(len, documents)))
        return orders

    def values(
        self, shown: Sequence[tuple[str, list[str]]], instruction: str | None = None, hear: Callable[..., None] | None = None
    ) -> list[np.ndarray]:
        """What each document is worth beside those shown with it, fp32 [n]: its log-probability to be the best, or what was
        written of it; the mean over turned orders. `hear(i, places, query_cut, tokens)` is told of each prompt about shown[i]:
        which of its documents were cut, tokens cut from the query, and the prompt's tokens."""
        turns = [(number, shift) for number, (_, some) in enumerate(shown) for shift in self._shifts(len(some))]
        found = [self._encode(*shown[number], shift, instruction) for number, shift in turns]
        for (number, shift), one in zip(turns, found):
            cut = [(at + shift) % len(one.document_cuts) for at, left_out in enumerate(one.document_cuts) if left_out]
            if hear:
                hear(number, cut, one.query_cut, len(one.ids))
        prompts = [one.whole for one in found]
        out = [np.zeros(len(some), np.float32) for _, some in shown]
        for (number, shift), row in zip(turns, self.read(prompts, [len(shown[number][1]) for number, _ in turns])):
            out[number] += np.roll(row, shift) / len(self._shifts(len(row)))
        return out

    def _shifts(self, count: int) -> list[int]:
        """How far so many documents are turned in each prompt about them, evenly over the list."""
        turns = min(self.method.permutations, count)
        return [turn * count // turns for turn in range(turns)]

    def _encode(self, query: str, documents: list[str], shift: int, instruction: str | None) -> EncodedList:
        found = self.bound.encode(query, documents[shift:] + documents[:shift], instruction)
        self.cost.calls += 1
        self.cost.prompt_tokens += len(found.ids)
        return found
