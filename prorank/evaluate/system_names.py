"""Names of systems and datasets: short, unique, and safe in file names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from .candidates import Task


def slug(name: str) -> str:
    """Return a system's name for use in file names and as a run tag."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "system"


def short_name(name: str) -> str:
    """Return the last two parts of a path, which identify a checkpoint without the machine's folders."""
    parts = [p for p in name.split("/") if p not in ("", ".", "..")]
    return "/".join(parts[-2:]) if len(parts) > 2 else name


def unique_name(name: str, used: set[str]) -> str:
    """Return `name`, or "name (2)", "name (3)", ... if it or its slug is in `used`."""
    candidates = (name, *(f"{name} ({i})" for i in range(2, 1000)))
    return next(n for n in candidates if n not in used and slug(n) not in used)


def name_tasks(tasks: list[Task]) -> list[Task]:
    """Give each task a unique name, as folders may have equal names."""
    for i, task in enumerate(tasks):
        task.name = unique_name(task.name, {t.name for t in tasks[:i]})
    return tasks


class RenamedModel:
    """A model under another name.

    All other attributes are those of the model.

    Args:
        model: the model, whose own name becomes `whole_name`.
        name: the new name.
    """

    def __init__(self, model: Any, name: str) -> None:
        self._model, self.name, self.whole_name = model, name, model.name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._model, attribute)


def load_models(models: Sequence[Any], reserved: Sequence[str]) -> Iterator[RenamedModel]:
    """Load models one after another, so that only one is in memory.

    Args:
        models: models, or functions without arguments that return one.
        reserved: names of other systems, which models must not have.
    """
    used = {slug(name) for name in reserved}
    for model in models:
        model = model if hasattr(model, "score_lists") else model()
        name = unique_name(short_name(model.name), used)
        used.add(slug(name))
        yield RenamedModel(model, name)
        del model  # free its memory before the next one is loaded
