"""Several processes of one run, as `torchrun` or `accelerate launch` start them.

Each process computes its share of every batch and the trainer averages the gradients itself, so a run of two processes takes the
same steps as a run of one. NCCL only handles tensors on the process's GPU, so every tensor made here lies there.
"""

from __future__ import annotations

import os

import torch


def place() -> tuple[int, int]:
    """(number of this process, number of processes)."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this process writes the run's files."""
    return place()[0] == 0


def join(device: torch.device) -> torch.device:
    """Connect the processes of a run; a single process does nothing.

    Args:
        device: of the settings.

    Returns:
        The process's own device; several processes on GPUs have one each.
    """
    if place()[1] == 1:
        return device
    from accelerate import PartialState

    PartialState(cpu=device.type == "cpu")
    return collective_device()


def collective_device() -> torch.device:
    """The device on which tensors of a collective call must lie: the process's own."""
    from accelerate import PartialState

    return PartialState().device


def wait() -> None:
    """Wait until all processes have come here."""
    if place()[1] > 1:
        device = collective_device()
        torch.distributed.barrier(device_ids=None if device.index is None else [device.index])


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; all processes must call this."""
    return _reduced(float(flag), torch.distributed.ReduceOp.MAX) > 0


def mean_of_processes(value: float) -> float:
    """The mean of all processes' values, NaN or infinite if one of them is; all processes must call this."""
    return sum_of_processes(value) / place()[1]


def sum_of_processes(value: float) -> float:
    """The sum of all processes' values; all processes must call this."""
    return _reduced(value, torch.distributed.ReduceOp.SUM)


def _reduced(value: float, how: torch.distributed.ReduceOp.RedOpType) -> float:
    if place()[1] == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=collective_device())
    torch.distributed.all_reduce(shared, how)
    return float(shared)


@torch.no_grad()
def average_gradients(model: torch.nn.Module) -> None:
    """Replace the gradients of all weights by their mean over the processes."""
    world = place()[1]
    for weight in model.parameters():
        if weight.requires_grad:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            torch.distributed.all_reduce(weight.grad)
            weight.grad /= world
