"""The methods that rank documents against each other, and their options.

Methods are independent of the model: a sorter yields the documents to compare next, and receives an answer computed from one value
per document.

Sources: setwise, Zhuang et al. 2023 (arXiv 2310.09497); listwise with a sliding window, RankGPT, Sun et al. 2023
(arXiv 2304.09542); permutations, Tang et al. 2023 (arXiv 2310.07712).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..errors import ConfigError, nearest
from ..prompts.list_encoder import MAX_DOCUMENTS
from ..prompts.prompt import Prompt
from .answer_parsing import ParsedRanking
from .sorting import BestSorter, OrderSorter, bubblesort, heapsort, sliding

log = logging.getLogger("prorank")
SORTS = {"heapsort": heapsort, "bubblesort": bubblesort}


@dataclass(frozen=True)
class Setwise:
    """Brings the best `k` documents to the front, by comparisons of `branching` + 1 documents; the others keep their order.

    Attributes:
        branching: children of a node of the heap, 1 to 19.
        k: number of documents to find.
        sort: "heapsort" or "bubblesort", see `sorting`.
        permutations: how often each comparison is made, with its documents rotated. The values are averaged, which cancels the
            model's preference for a position in the prompt.
    """

    branching: int = 9
    k: int = 10
    sort: str = "heapsort"
    permutations: int = 1

    def validate(self) -> None:
        """Raise ConfigError if an option is out of range."""
        if self.sort not in SORTS:
            raise ConfigError(f"sort '{self.sort}' is not known; valid: {', '.join(SORTS)}")
        if not 1 <= self.branching < MAX_DOCUMENTS:
            raise ConfigError(f"branching must be in 1..{MAX_DOCUMENTS - 1}, not {self.branching}")
        if self.k < 1 or self.permutations < 1:
            raise ConfigError("k and permutations must be at least 1")

    def sorter(self, count: int) -> BestSorter:
        """Return a sorter of `count` documents. It expects the position of the best document of each comparison."""
        return SORTS[self.sort](count, self.branching, self.k)

    def answer(self, values: np.ndarray) -> int:
        """Return the position of the highest of values [n], the first one of equal values."""
        return int(values.argmax())

    def values(self, ranking: ParsedRanking) -> np.ndarray:
        """Return fp32 [n]: 1 for the document that was named, 0 for the others."""
        return (np.arange(len(ranking.order)) == ranking.best).astype(np.float32)

    def max_answer_tokens(self, count: int) -> int:
        """Return the maximum number of tokens of a generated answer about `count` documents."""
        return 16


@dataclass(frozen=True)
class Listwise:
    """Puts all documents in order, by a window that moves from the end of the list to its front.

    Attributes:
        window: number of documents in a prompt, 2 to 20.
        step: number of documents by which the window moves.
        passes: how often the window goes through the list.
        permutations: how often each window is shown, with its documents rotated, see `Setwise`.
    """

    window: int = 20
    step: int = 10
    passes: int = 1
    permutations: int = 1

    def validate(self) -> None:
        """Raise ConfigError if an option is out of range."""
        if not 2 <= self.window <= MAX_DOCUMENTS:
            raise ConfigError(f"window must be in 2..{MAX_DOCUMENTS}, not {self.window}")
        if not 1 <= self.step < self.window:
            raise ConfigError(f"step must be in 1..{self.window - 1}, below the window, not {self.step}")
        if self.passes < 1 or self.permutations < 1:
            raise ConfigError("passes and permutations must be at least 1")

    def sorter(self, count: int) -> OrderSorter:
        """Return a sorter of `count` documents. It expects the order of each window."""
        return sliding(count, self.window, self.step, self.passes)

    def answer(self, values: np.ndarray) -> list[int]:
        """Return the positions of values [n] from the highest to the lowest; equal values keep their order."""
        return np.argsort(-values, kind="stable").tolist()

    def values(self, ranking: ParsedRanking) -> np.ndarray:
        """Return fp32 [n]: minus the position in the generated order."""
        return -np.argsort(ranking.order).astype(np.float32)

    def max_answer_tokens(self, count: int) -> int:
        """Return the maximum number of tokens of a generated answer about `count` documents."""
        return 16 + 8 * count


ListMethod = Setwise | Listwise
METHODS: dict[str, type[Setwise] | type[Listwise] | None] = {"pointwise": None, "setwise": Setwise, "listwise": Listwise}


def read_method(text: str) -> dict[str, Any]:
    """Parse `name` or `name:key=value,key=value`.

    Returns:
        Arguments of Reranker: {"method": name, key: value, …}.

    Raises:
        ConfigError: the form is invalid, or the method or an option is unknown.
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise ConfigError(f"method {text}: expected NAME:KEY=VALUE,…, such as setwise:k=5, found {part!r}")
        options[key] = int(value) if value.lstrip("-").isdigit() else value
    make_method(name, options)
    return {"method": name, **options}


def make_method(name: str, options: dict[str, Any]) -> ListMethod | None:
    """Return the method of this name with these options, None for pointwise.

    Raises:
        ConfigError: the name or an option is unknown, or the value of an option has a wrong type or is out of range.
    """
    if name not in METHODS:
        raise ConfigError(f"method '{name}' is not known; valid: {', '.join(METHODS)}")
    kind = METHODS[name]
    known = [f.name for f in fields(kind)] if kind else []
    for key in options:
        if key not in known:
            raise ConfigError(f"'{key}' is not an option of method {name}{nearest(key, known) if known else ''}")
        expected = type(getattr(kind, key))
        if not isinstance(options[key], expected) or isinstance(options[key], bool):
            raise ConfigError(f"option '{key}' of method {name} must be {expected.__name__}, not {options[key]!r}")
    method = kind(**options) if kind else None
    if method:
        method.validate()
    return method


def choose_prompt(
    method: ListMethod | None, requested: Any, default: Prompt, name: str = "the model", saved: Prompt | None = None
) -> Prompt:
    """Return the prompt to use with a checkpoint.

    Args:
        method: a method of lists, None for pointwise.
        requested: the prompt that the caller requests, or None; see `Prompt.of`.
        default: the checkpoint's own prompt, or the preset for checkpoints that have none.
        name: name of the checkpoint, for messages.
        saved: the prompt that was saved with the checkpoint, None for a base model.

    Returns:
        `requested`, else `default`. If that shows single documents and the method is of lists, preset setwise with a warning.

    Raises:
        ConfigError: prompt and method are incompatible, or the checkpoint was trained on single documents.
    """
    prompt = Prompt.of(requested) if requested else default
    if method and not requested and not prompt.lists:
        if saved:
            raise ConfigError(
                f"{name} was trained on single documents (its prompt is of kind {saved.kind}), so its order of several "
                "is meaningless; omit method, use a checkpoint trained for lists, or pass prompt='setwise' to try it anyway"
            )
        prompt = Prompt.preset("setwise")
    if bool(method) != prompt.lists:
        remedy = "choose method setwise or listwise" if not method else "methods of lists need one that shows several"
        raise ConfigError(f"prompt {prompt.name} is of kind {prompt.kind}, which is incompatible with this method; {remedy}")
    if method and (saved is None or not saved.lists or saved.kind != prompt.kind):
        log.warning("%s was not trained with prompts of kind %s; its order of several documents may be poor", name, prompt.kind)
    return prompt
