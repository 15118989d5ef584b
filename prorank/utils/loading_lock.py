"""A global lock for the libraries that load models, which are not thread-safe.

transformers imports its submodules lazily, and `from_pretrained` temporarily patches torch's initialisers and default dtype. Two
concurrent loads restore them in the wrong order, after which every later load in the process fails.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
LOADING = threading.RLock()  # acquired last: no other lock is acquired while holding it


def one_at_a_time(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function so that it runs under the global lock: decorated functions never run concurrently."""

    @functools.wraps(function)
    def locked(*arguments: P.args, **options: P.kwargs) -> T:
        with LOADING:
            return function(*arguments, **options)

    return locked
