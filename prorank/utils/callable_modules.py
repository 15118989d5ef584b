"""Callable modules, for a function and a subpackage with the same name.

Importing `prorank.train.run` binds the subpackage to `prorank.train`, replacing any function of this name. So the subpackage itself
is made callable, and `prorank.train(...)` works after any import.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A module that can be called. The call is passed to `__function__` ("module:name"), which is imported at the first call."""

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
    """Make a module callable.

    Args:
        module: name of the module.
        function: function to call, such as "prorank.train.run:train".
    """
    made = sys.modules[module]
    made.__class__ = CallableModule
    vars(made)["__function__"] = function
