"""Keep models usable in forked processes (gunicorn --preload, Celery, multiprocessing's "fork").

A fork copies only the thread that forks. In the child, locks held by other threads are never released, thread pools have no
threads, and PyTorch's OpenMP waits for its pool forever. Therefore a fork waits until no model computes, and the child computes
with one thread.

MKL locks all its buffers while a thread that has used it ends, and those locks stay locked in a child that is forked meanwhile. No
function waits for that. Therefore a fork also waits until the process has had the same threads for SETTLED seconds.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from pathlib import Path
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


SETTLED, PATIENCE = 0.05, 1.0  # in seconds: without a change of threads, and at most
TASKS = Path("/proc/self/task")  # one entry per thread of this process, on Linux
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
    _wait_for_ending_threads()


def _wait_for_ending_threads() -> None:
    """Wait until no thread has ended or started for SETTLED seconds, at most PATIENCE seconds. Does nothing without /proc."""
    if not TASKS.is_dir():
        return
    end = time.monotonic() + PATIENCE
    before, since = set(os.listdir(TASKS)), time.monotonic()
    while (now := time.monotonic()) < min(since + SETTLED, end):
        time.sleep(SETTLED / 20)
        if (tasks := set(os.listdir(TASKS))) != before:
            before, since = tasks, now


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
