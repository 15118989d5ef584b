"""Keep models usable in forked processes (gunicorn --preload, Celery, multiprocessing's "fork").

A fork copies only the thread that forks. In the child, locks of other threads stay locked for ever, thread pools have no threads,
and OpenMP, which PyTorch computes with, waits for its pool without end. Therefore a fork waits until no model is computing, and the
child computes with one thread.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

import torch


class Forkable(Protocol):
    """An object that has to be prepared for forks.

    Attributes:
        lock: held while the object computes; a fork waits for it.
    """

    lock: threading.RLock

    def after_fork(self) -> None:
        """Repair, in the child, what does not survive a fork."""


_known: weakref.WeakSet[Forkable] = weakref.WeakSet()
_guard = threading.Lock()
_locked: list[Forkable] = []
_registered = False


def survive_forks(owner: Forkable) -> None:
    """Let `owner` work in processes that are forked from now on. Without any call, forks are left as they are."""
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
    torch.set_num_threads(1)  # the parent's pool of compute threads does not exist here
    for owner in _locked:
        owner.after_fork()
    _release()
