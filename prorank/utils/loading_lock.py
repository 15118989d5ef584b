"""One lock around the libraries that load models: none of them is made for two threads.

transformers imports its parts lazily, and `from_pretrained` patches torch's initialisers and the default dtype of the process while
it runs; two at once undo each other's patches in the wrong order, after which every later load of the process fails.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
LOADING = threading.RLock()  # taken last: nothing that waits for a file lock or another lock is called under it


def one_at_a_time(function: Callable[P, T]) -> Callable[P, T]:
    """A function whose calls take turns with those of every other one that is decorated so, in all threads of the process."""

    @functools.wraps(function)
    def locked(*arguments: P.args, **options: P.kwargs) -> T:
        with LOADING:
            return function(*arguments, **options)

    return locked
