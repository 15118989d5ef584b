"""Pickling by construction: an object travels as the arguments that made it, not as its threads, locks and weights."""

from __future__ import annotations

import inspect
from typing import Any, Self


class MadeByArguments:
    """Base of objects that pickle (and deep-copy) as their constructor's arguments and are made again from them elsewhere.

    Attributes:
        made_with: arguments of the constructor by name; None where the object was made in another way.
    """

    made_with: dict[str, Any] | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        try:
            made.made_with = _by_name(cls, args, kwargs)
        except TypeError:  # arguments that do not fit, which the constructor is about to refuse itself
            made.made_with = None
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (type(self), dict(self.made_with or {}))


def _by_name(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name; those of `**options` are among them."""
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]
    arguments = dict(signature.bind(None, *args, **kwargs).arguments)
    arguments.pop(next(iter(signature.parameters)))  # self
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name, {})
    return arguments


def _make(cls: type, arguments: dict[str, Any]) -> Any:
    return cls(**arguments)
