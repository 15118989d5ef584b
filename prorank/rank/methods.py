"""The methods that rank documents against each other, their options, and how what was said of a window becomes an order.

A method knows nothing of models: it says which documents to ask about next, and takes a value for each of them.
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
from .sorting import Best, Order, bubblesort, heapsort, sliding

log = logging.getLogger("prorank")
SORTS = {"heapsort": heapsort, "bubblesort": bubblesort}


@dataclass(frozen=True)
class Setwise:
    """The best `k` in front, by comparisons of `branching` + 1 documents; the others keep their order.

    `sort`: "heapsort" or "bubblesort", see `sorting`. `permutations`: each comparison is made so many times with the documents
    turned, and what was said of each is averaged, which takes out what a place in the prompt is worth.
    """

    branching: int = 9
    k: int = 10
    sort: str = "heapsort"
    permutations: int = 1

    def check(self) -> None:
        """Raise ConfigError for what cannot work."""
        if self.sort not in SORTS:
            raise ConfigError(f"sort '{self.sort}' is not known; valid: {', '.join(SORTS)}")
        if not 1 <= self.branching < MAX_DOCUMENTS:
            raise ConfigError(f"children must lie in 1..{MAX_DOCUMENTS - 1}, not {self.branching}")
        if self.k < 1 or self.permutations < 1:
            raise ConfigError("k and permutations must be at least 1")

    def sorter(self, count: int) -> Best:
        return SORTS[self.sort](count, self.branching, self.k)

    def answer(self, values: np.ndarray) -> int:
        """The place of the best; of equal ones the first."""
        return int(values.argmax())

    def values(self, said: ParsedRanking) -> np.ndarray:
        """1 for the document that was named, 0 for the others."""
        return (np.arange(len(said.order)) == said.best).astype(np.float32)

    def tokens(self, count: int) -> int:
        """Most tokens of a written answer."""
        return 16


@dataclass(frozen=True)
class Listwise:
    """All documents in order, by windows of `window` that move by `step` from the end to the front, `passes` times."""

    window: int = 20
    step: int = 10
    passes: int = 1
    permutations: int = 1

    def check(self) -> None:
        """Raise ConfigError for what cannot work."""
        if not 2 <= self.window <= MAX_DOCUMENTS:
            raise ConfigError(f"window must lie in 2..{MAX_DOCUMENTS}, not {self.window}")
        if not 1 <= self.step < self.window:
            raise ConfigError(f"step must lie in 1..{self.window - 1}, below the window, not {self.step}")
        if self.passes < 1 or self.permutations < 1:
            raise ConfigError("passes and permutations must be at least 1")

    def sorter(self, count: int) -> Order:
        return sliding(count, self.window, self.step, self.passes)

    def answer(self, values: np.ndarray) -> list[int]:
        """Places from the best to the worst; equal ones keep their order."""
        return np.argsort(-values, kind="stable").tolist()

    def values(self, said: ParsedRanking) -> np.ndarray:
        """Minus the place in the order that was written."""
        return -np.argsort(said.order).astype(np.float32)

    def tokens(self, count: int) -> int:
        """Most tokens of a written answer about so many documents."""
        return 16 + 8 * count


METHODS: dict[str, type[Setwise] | type[Listwise] | None] = {"pointwise": None, "setwise": Setwise, "listwise": Listwise}


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
    kind = METHODS[name]
    known = [f.name for f in fields(kind)] if kind else []
    for key in options:
        if key not in known:
            raise ConfigError(f"'{key}' is no option of method {name}{nearest(key, known) if known else ''}")
        wanted = type(getattr(kind, key))
        if not isinstance(options[key], wanted) or isinstance(options[key], bool):
            raise ConfigError(f"option '{key}' of method {name} must be {wanted.__name__}, not {options[key]!r}")
    method = kind(**options) if kind else None
    if method:
        method.check()
    return method


def prompt_for(
    method: Setwise | Listwise | None, given: Any, own: Prompt, name: str = "the model", saved: Prompt | None = None
) -> Prompt:
    """The prompt to ask a checkpoint with.

    Args:
        method: a method of lists, None for pointwise.
        given: the prompt that was asked for, if any.
        own: the checkpoint's own prompt, or the default where it has none.
        name: of the checkpoint, for messages.
        saved: the prompt that was saved with the checkpoint, None for a base model.

    Returns:
        `given`, else `own`; for a method of lists preset setwise where that shows one document, with a warning.

    Raises:
        ConfigError: prompt and method do not go together, or the checkpoint was trained on single documents.
    """
    chosen = Prompt.of(given) if given else own
    if method and not given and not chosen.lists:
        if saved:
            raise ConfigError(
                f"{name} was trained to judge one document at a time (its prompt is of kind {saved.kind}), so its order of several "
                "means nothing; leave method out, take a checkpoint trained for lists, or give prompt='setwise' to try it anyway"
            )
        chosen = Prompt.preset("setwise")
    if bool(method) != chosen.lists:
        remedy = "choose method setwise or listwise" if not method else "methods of lists need one that shows several"
        raise ConfigError(f"prompt {chosen.name} is of kind {chosen.kind}, which does not go with this method; {remedy}")
    if method and (saved is None or not saved.lists or saved.kind != chosen.kind):
        log.warning("%s was not trained with prompts of kind %s; its order of several documents may mean little", name, chosen.kind)
    return chosen
