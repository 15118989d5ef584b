"""`python -m tests.nccl WORDS...`: the command line in a process whose collectives are as strict as NCCL, on CPUs.

NCCL takes tensors on the process's GPU alone. Here the process's device goes by the name "cpu:<number>"; what a factory
of torch made anywhere else, as a bare `torch.tensor(1)` does, is refused, and so is a barrier that does not name the device.
"""

from __future__ import annotations

import atexit
import functools
import sys

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch.overrides import TorchFunctionMode

from prorank.cli.command_line import main
from prorank.train.distributed import place

MINE = torch.device("cpu", place()[0])
FACTORIES = {torch.tensor, torch.as_tensor, torch.zeros, torch.ones, torch.full, torch.empty, torch.arange, torch.from_numpy}
COLLECTIVES = ("all_reduce", "broadcast", "all_gather", "all_gather_into_tensor", "reduce", "reduce_scatter_tensor")
calls: list[str] = []


class MarkHost(TorchFunctionMode):
    """Marks tensors that are made without the process's device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = function(*args, **kwargs)
        if function in FACTORIES and str(kwargs.get("device")) != str(MINE):
            made.on_host = True
        return made


def strict(name: str):
    """The collective of this name, for tensors on the process's device."""
    real = getattr(dist, name)

    @functools.wraps(real)
    def checked(*args, **kwargs):
        flat = [one for arg in args for one in (arg if isinstance(arg, (list, tuple)) else [arg])]
        if any(getattr(one, "on_host", False) for one in flat if isinstance(one, torch.Tensor)):
            raise RuntimeError(f"No backend type associated with device type cpu ({name})")
        calls.append(name)
        return real(*args, **kwargs)

    return checked


def barrier(*args, device_ids=None, **kwargs):
    if sys._getframe(1).f_globals["__name__"].startswith("prorank") and device_ids != [MINE.index]:
        raise RuntimeError("barrier: devices used by this process are unknown")
    calls.append("barrier")
    return real_barrier(*args, **kwargs)


if __name__ == "__main__":
    real_barrier, dist.barrier = dist.barrier, barrier
    for each in COLLECTIVES:
        setattr(dist, each, strict(each))
    PartialState.device = property(lambda self: MINE, lambda self, device: self.__dict__.update(device=MINE))
    atexit.register(lambda: print(f"collectives: {sorted(set(calls))}"))
    with MarkHost():
        main()
