"""Pickle objects as the arguments of their constructor, without threads, locks and weights."""

from __future__ import annotations

import inspect
from typing import Any, Self


class MadeByArguments:
    """Base of objects that are pickled and deep-copied as their constructor's arguments.

    Attributes:
        made_with: constructor arguments by name; None if the object was not made by its constructor.
    """

    made_with: dict[str, Any] | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        try:
            made.made_with = _by_name(cls, args, kwargs)
        except TypeError:  # wrong arguments; the constructor will raise its own error
            made.made_with = None
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (type(self), dict(self.made_with or {}))


def _by_name(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, including those of `**options`."""
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]
    arguments = dict(signature.bind(None, *args, **kwargs).arguments)
    arguments.pop(next(iter(signature.parameters)))  # self
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name, {})
    return arguments


def _make(cls: type, arguments: dict[str, Any]) -> Any:
    return cls(**arguments)
