"""Conditions that end a training run: numbers that are not finite, and files that cannot be written.

A run that fails does not change the files it saved before, and its error names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from ..errors import ModelError, TrainingError
from ..utils.targets import is_torch_write_error
from .schedule import checkpoints


def damaged_weight(model: torch.nn.Module) -> str | None:
    """Return the name of the first weight with a NaN or an infinity; None if all are finite."""
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            return name
    return None


def check_base(model: torch.nn.Module, base: str) -> None:
    """Raise ModelError if the checkpoint that a run starts from has weights that are not finite."""
    if name := damaged_weight(model):
        raise ModelError(f"base {base}: weight '{name}' has values that are not finite; the checkpoint is damaged, use another one")


def gradient_norm(model: torch.nn.Module) -> float:
    """Return the L2 norm of all gradients together; 0 without gradients."""
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0


def saved(run: Path, best: Mapping[str, float] | None = None) -> str:
    """Return a sentence that names the complete files of a run.

    Args:
        run: the run folder.
        best: dev measures of its best weights, with their step.
    """
    of_step = f", of step {best['step']}" if best else ""
    kept = [f"{run / 'model'} contains the best weights so far{of_step}"] if (run / "model").is_dir() else []
    kept += [f"{folder} is a complete checkpoint" for folder in checkpoints(run)[-1:]]
    return "; ".join(kept) if kept else "No weights of this run are saved"


@contextmanager
def disk_errors(folder: Path, describe_saved: Callable[[], str]) -> Iterator[None]:
    """Convert errors of failed writes to a TrainingError.

    Args:
        folder: the run folder, for errors that name no file.
        describe_saved: returns a sentence that names the complete files.

    Raises:
        TrainingError: a file cannot be written, because of a full or read-only disk, a missing folder or a quota.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        where = getattr(error, "filename", None) or folder
        raise _unwritable(where, getattr(error, "strerror", None) or str(error), describe_saved()) from error
    except RuntimeError as error:
        if not is_torch_write_error(error):
            raise
        raise _unwritable(folder, "torch could not write a file; is the disk full?", describe_saved()) from error


def _unwritable(where: object, why: str, saved_files: str) -> TrainingError:
    remedy = "fix this and continue with the same command (train: add --resume)"
    return TrainingError(f"{where}: cannot be read or written ({why}); {remedy}. {saved_files}")
