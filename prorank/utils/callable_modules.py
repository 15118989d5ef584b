"""Modules that can be called, for a function and a subpackage of one name.

Importing `prorank.train.run` binds the subpackage `prorank.train` over whatever `prorank.train` was. So the subpackage itself
answers calls, and `prorank.train(...)` works whatever was imported before.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A module whose call is that of the function `__function__` ("module:name"), which is imported when it is first needed."""

    __function__: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._called()(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._called())

    def _called(self) -> Any:
        module, _, name = self.__function__.partition(":")
        return getattr(import_module(module), name)

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (self.__name__,)


def make_callable(module: str, function: str) -> None:
    """Let a module answer calls by `function`, such as "prorank.train.run:train"."""
    made = sys.modules[module]
    made.__class__ = CallableModule
    vars(made)["__function__"] = function
