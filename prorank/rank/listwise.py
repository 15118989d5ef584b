"""Rank documents against each other: a prompt shows several, and one forward says of each label how likely it is the answer.

Hard fact: nothing is generated. "Which is best?" (setwise) is the likeliest label, "in which order?" (listwise) the order of the
labels' logits (FIRST, arXiv 2406.15657), and the questions of all queries are asked in the same forwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from ..bound_list import MOST, BoundListPrompt
from ..errors import ConfigError, nearest
from ..prompt import Cuts, Encoded, Prompt
from .batching import Batch, batches_of, collate, pack
from .documents import Cost
from .flat import is_flat
from .sorting import bubblesort, heapsort, sliding, together
from .windows import sizes

SORTS = {"heapsort": heapsort, "bubblesort": bubblesort}


@dataclass(frozen=True)
class Setwise:
    """The best `k` in front, by comparisons of `children` + 1 documents; the others keep their order.

    `sort`: "heapsort" or "bubblesort", see `sorting`. `permutations`: each comparison is made so many times with the documents
    turned, and the log-probabilities are averaged, which takes out what a place in the prompt is worth.
    """

    children: int = 9
    k: int = 10
    sort: str = "heapsort"
    permutations: int = 1

    def check(self) -> None:
        """Raise ConfigError for what cannot work."""
        if self.sort not in SORTS:
            raise ConfigError(f"sort '{self.sort}' is not known; valid: {', '.join(SORTS)}")
        if not 1 <= self.children < MOST:
            raise ConfigError(f"children must lie in 1..{MOST - 1}, not {self.children}")
        if self.k < 1 or self.permutations < 1:
            raise ConfigError("k and permutations must be at least 1")

    def sorter(self, count: int):
        return SORTS[self.sort](count, self.children, self.k)

    def answer(self, log_probs: np.ndarray) -> int:
        """The place of the best; of equal ones the first."""
        return int(log_probs.argmax())


@dataclass(frozen=True)
class Listwise:
    """All documents in order, by windows of `window` that move by `step` from the end to the front, `passes` times."""

    window: int = 20
    step: int = 10
    passes: int = 1
    permutations: int = 1

    def check(self) -> None:
        """Raise ConfigError for what cannot work."""
        if not 2 <= self.window <= MOST:
            raise ConfigError(f"window must lie in 2..{MOST}, not {self.window}")
        if not 1 <= self.step < self.window:
            raise ConfigError(f"step must lie in 1..{self.window - 1}, below the window, not {self.step}")
        if self.passes < 1 or self.permutations < 1:
            raise ConfigError("passes and permutations must be at least 1")

    def sorter(self, count: int):
        return sliding(count, self.window, self.step, self.passes)

    def answer(self, log_probs: np.ndarray) -> list[int]:
        """Places from the likeliest label to the least likely; equal ones keep their order."""
        return np.argsort(-log_probs, kind="stable").tolist()


METHODS: dict[str, type | None] = {"pointwise": None, "setwise": Setwise, "listwise": Listwise}


def read_method(text: str) -> dict[str, Any]:
    """`name` or `name:key=value,key=value` as arguments of Reranker. Raises ConfigError for another form."""
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise ConfigError(f"method {text}: expected NAME:KEY=VALUE,…, such as setwise:k=5, and found {part!r}")
        options[key] = int(value) if value.lstrip("-").isdigit() else value
    method_of(name, options)
    return {"method": name, **options}


def method_of(name: str, options: dict[str, Any]) -> Setwise | Listwise | None:
    """The method of this name, None for pointwise. Raises ConfigError for unknown names and options."""
    if name not in METHODS:
        raise ConfigError(f"method '{name}' is not known; valid: {', '.join(METHODS)}")
    known = [f.name for f in fields(METHODS[name])] if METHODS[name] else []
    for key in options:
        if key not in known:
            raise ConfigError(f"'{key}' is no option of method {name}{nearest(key, known) if known else ''}")
        wanted = type(getattr(METHODS[name], key))
        if not isinstance(options[key], wanted) or isinstance(options[key], bool):
            raise ConfigError(f"option '{key}' of method {name} must be {wanted.__name__}, not {options[key]!r}")
    method = METHODS[name](**options) if METHODS[name] else None
    if method:
        method.check()
    return method


def prompt_for(method: Setwise | Listwise | None, given: Any, own: Prompt) -> Prompt:
    """The prompt that was given, else the checkpoint's own; for a method of lists preset setwise where that shows one document.
    Raises ConfigError where prompt and method do not go together."""
    chosen = Prompt.of(given) if given else own
    if method and not given and chosen.kind != "setwise":
        return Prompt.preset("setwise")
    if bool(method) != (chosen.kind == "setwise"):
        remedy = "choose method setwise or listwise" if not method else "methods of lists need one of kind setwise"
        raise ConfigError(f"prompt {chosen.name} is of kind {chosen.kind}, which does not go with this method; {remedy}")
    return chosen


class ListRanker:
    """Orders documents by one of the methods above.

    Args:
        method: see Setwise and Listwise.
        bound: a prompt of several documents.
        model: says how batches are laid, see `windows.sizes`.
        hidden: last hidden states [N, H] of a batch.
        rows, bias: of the labels in the output matrix, [20, H] and [20].
        cuts, cost: counted up.
    """

    def __init__(
        self, method: Setwise | Listwise, bound: BoundListPrompt, model: torch.nn.Module,
        hidden: Callable[[Batch], torch.Tensor], rows: torch.Tensor, bias: torch.Tensor, cuts: Cuts, cost: Cost,
    ) -> None:  # fmt: skip
        self.method, self.bound, self.hidden, self.rows, self.bias = method, bound, hidden, rows, bias
        self.flat, self.tokens, self.cuts, self.cost = is_flat(model), sizes(model)[0], cuts, cost

    def __call__(
        self, queries: Sequence[str], documents: Sequence[Sequence[str]], instruction: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[int]]:  # fmt: skip
        """Each query's documents in order, as places in its list, best first."""

        def ask(questions: list[tuple[int, list[int]]]) -> list:
            shown = [(queries[q], [documents[q][i] for i in some]) for q, some in questions]
            return [self.method.answer(row) for row in self.log_probs(shown, instruction)]

        orders = together([self.method.sorter(len(some)) for some in documents], ask)
        if progress:
            progress(sum(map(len, documents)))
        return orders

    def log_probs(self, shown: Sequence[tuple[str, list[str]]], instruction: str | None = None) -> list[np.ndarray]:
        """Log-probability of each document to be the best of those shown with it, fp32 [n], among their labels; the mean over
        turned orders."""
        turns = [(number, shift) for number, (_, some) in enumerate(shown) for shift in self._shifts(len(some))]
        prompts = [self._encode(*shown[number], shift, instruction) for number, shift in turns]
        out = [np.zeros(len(some), np.float32) for _, some in shown]
        packs = [pack([prompt], [i], share=False) for i, prompt in enumerate(prompts)]
        for some in batches_of(sorted(packs, key=len, reverse=True), self.tokens, flat=self.flat):
            batch = collate(some, self.bound.tokenizer.pad_token_id, self.flat).to(self.rows.device)
            with torch.inference_mode():
                logits = self.hidden(batch).float() @ self.rows.T + self.bias  # [B, 20]
            for i, row in zip(batch.owners, logits):
                number, shift = turns[i]
                n = len(out[number])
                found = row[:n].log_softmax(-1).cpu().numpy()
                out[number] += np.roll(found, shift) / len(self._shifts(n))
        return out

    def _shifts(self, count: int) -> list[int]:
        """How far so many documents are turned in each prompt about them, evenly over the list."""
        turns = min(self.method.permutations, count)
        return [turn * count // turns for turn in range(turns)]

    def _encode(self, query: str, documents: list[str], shift: int, instruction: str | None) -> Encoded:
        found = self.bound.encode(query, documents[shift:] + documents[:shift], instruction)
        self.cuts.total += len(documents)
        self.cuts.documents += sum(cut > 0 for cut in found.cuts)
        self.cuts.queries += found.query_cut > 0
        self.cost.calls += 1
        self.cost.prompt_tokens += len(found.ids)
        return found.whole
