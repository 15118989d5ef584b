"""What keeps a model usable in a forked process (gunicorn --preload, Celery, multiprocessing's "fork").

A fork copies the one thread that forks. Locks that other threads held stay locked for ever in the child, pools of threads have no
threads, and OpenMP, which PyTorch computes with, waits for the threads of its pool without end. So a fork waits until no model is
at work, and the child computes with one thread.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

import torch


class Forkable(Protocol):
    """An object with a lock that a fork must not find held."""

    lock: threading.RLock

    def after_fork(self) -> None:
        """Put right, in the child, what does not survive a fork."""


_known: weakref.WeakSet[Forkable] = weakref.WeakSet()
_guard = threading.Lock()
_held: list[Forkable] = []
_registered = False


def survive_forks(owner: Forkable) -> None:
    """Let `owner` work in processes forked from this one from now on. Forks without a first call are left as they are."""
    global _registered
    with _guard:
        _known.add(owner)
        if not _registered and hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_before, after_in_parent=_release, after_in_child=_after_in_child)
            _registered = True


def _before() -> None:
    _guard.acquire()
    _held[:] = _known
    for owner in _held:
        owner.lock.acquire()


def _release() -> None:
    for owner in _held:
        owner.lock.release()
    _held.clear()
    _guard.release()


def _after_in_child() -> None:
    torch.set_num_threads(1)  # for the parent's pool of compute threads is not here
    for owner in _held:
        owner.after_fork()
    _release()
