"""Keep models usable in forked processes (gunicorn --preload, Celery, multiprocessing's "fork").

A fork copies only the thread that forks. In the child, locks held by other threads are never released, thread pools have no
threads, and PyTorch's OpenMP waits for its pool forever. Therefore a fork waits until no model computes, and the child computes
with one thread.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

import torch


class Forkable(Protocol):
    """An object that must be prepared for forks.

    Attributes:
        lock: held while the object computes. Forks wait for it.
    """

    lock: threading.RLock

    def after_fork(self) -> None:
        """Restore, in the child process, what does not survive a fork."""


_known: weakref.WeakSet[Forkable] = weakref.WeakSet()
_guard = threading.Lock()
_locked: list[Forkable] = []
_registered = False


def survive_forks(owner: Forkable) -> None:
    """Make `owner` usable in processes that are forked from now on. Forks are not affected until the first call."""
    global _registered
    with _guard:
        _known.add(owner)
        if not _registered and hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_before, after_in_parent=_release, after_in_child=_after_in_child)
            _registered = True


def _before() -> None:
    _guard.acquire()
    _locked[:] = _known
    for owner in _locked:
        owner.lock.acquire()


def _release() -> None:
    for owner in _locked:
        owner.lock.release()
    _locked.clear()
    _guard.release()


def _after_in_child() -> None:
    torch.set_num_threads(1)  # the parent's pool of compute threads does not exist in the child
    for owner in _locked:
        owner.after_fork()
    _release()
