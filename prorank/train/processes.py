"""Several processes of one run, as `torchrun` or `accelerate launch` start them.

Hard fact: each process has its share of every batch and the trainer averages the gradients itself, so a run of two processes takes
the very steps of a run of one.
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


def join(cpu: bool) -> None:
    """Let the processes of a run find each other; nothing happens where there is one."""
    if place()[1] > 1:
        from accelerate import PartialState

        PartialState(cpu=cpu)


def wait() -> None:
    """Go on when all have come here."""
    if place()[1] > 1:
        torch.distributed.barrier()


def any_process(flag: bool) -> bool:
    """Whether the flag is up in any of them; all have to ask."""
    if place()[1] == 1:
        return flag
    shared = torch.tensor(int(flag))
    torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
    return bool(shared)


@torch.no_grad()
def average_gradients(model: torch.nn.Module) -> None:
    """Gradients of all weights, the mean over the processes."""
    world = place()[1]
    for weight in model.parameters():
        if weight.requires_grad:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            torch.distributed.all_reduce(weight.grad)
            weight.grad /= world
