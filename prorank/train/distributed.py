"""Several processes of one run, started by `torchrun` or `accelerate launch`.

Each process computes its share of every batch and the trainer averages the gradients itself, so a run of two processes takes the
same steps as a run of one. NCCL requires tensors on the process's GPU, so all tensors are created there.
"""

from __future__ import annotations

import os

import torch

from ..errors import ConfigError


def place() -> tuple[int, int]:
    """Return (number of this process, number of processes)."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this process writes the run's files."""
    return place()[0] == 0


def check_launcher() -> None:
    """Raise ConfigError if `accelerate launch` asks for FSDP.

    accelerate shards nothing on CPUs, and on GPUs each process would have other parts of the weights, whose gradients
    `average_gradients` must not average.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("true", "1"):
        raise ConfigError(
            "FSDP (ACCELERATE_USE_FSDP) is not supported; start the processes by torchrun, which copies the model, or shard "
            "gradients and the optimiser's state by DeepSpeed's ZeRO-2 (configs/deepspeed_zero2.json)"
        )


def join(device: torch.device) -> torch.device:
    """Connect the processes of a run; a single process does nothing.

    Args:
        device: device of the settings.

    Returns:
        The device of this process. With several processes on GPUs, each has its own.
    """
    if place()[1] == 1:
        return device
    from accelerate import PartialState

    PartialState(cpu=device.type == "cpu")
    return collective_device()


def collective_device() -> torch.device:
    """Return the device for tensors of a collective call: that of this process."""
    from accelerate import PartialState

    return PartialState().device


def wait() -> None:
    """Wait until all processes have called this function."""
    if place()[1] > 1:
        device = collective_device()
        torch.distributed.barrier(device_ids=None if device.index is None else [device.index])


def any_process(flag: bool) -> bool:
    """Return whether the flag is set in any process. All processes must call this function."""
    return _reduced(float(flag), torch.distributed.ReduceOp.MAX) > 0


def mean_of_processes(value: float) -> float:
    """Return the mean of the values of all processes, NaN or infinite if one of them is. All processes must call this function."""
    return sum_of_processes(value) / place()[1]


def sum_of_processes(value: float) -> float:
    """Return the sum of the values of all processes. All processes must call this function."""
    return _reduced(value, torch.distributed.ReduceOp.SUM)


def _reduced(value: float, how: torch.distributed.ReduceOp.RedOpType) -> float:
    if place()[1] == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=collective_device())
    torch.distributed.all_reduce(shared, how)
    return float(shared)


@torch.no_grad()
def average_gradients(model: torch.nn.Module) -> None:
    """Replace the gradients of all weights by their mean over the processes, in place."""
    world = place()[1]
    for weight in model.parameters():
        if weight.requires_grad:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            torch.distributed.all_reduce(weight.grad)
            weight.grad /= world
