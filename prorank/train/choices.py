"""Values for `auto` in a run: chosen at its beginning and stored in its folder, so that a resumed run uses the same."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..engine.auto import COMPILED, PLAIN, Choice, choose_compile, choose_compile_for, choose_dtype
from ..engine.layer_speed import TRAINING
from ..utils.files import atomic_file
from ..utils.strict_json import dumps
from .distributed import any_process
from .settings.common_settings import Settings, max_list_size

log = logging.getLogger("prorank")
FILE = "choices.json"  # in the run folder


def choices_of(
    settings: Settings, config: Any, device: torch.device, longest: int, examples: int, resume: bool
) -> dict[str, Choice]:
    """Choose the values of "auto" for `dtype` and `compile`, the same in all processes of a run.

    Args:
        settings: settings of the run.
        config: configuration of the model (of transformers).
        device: device of this process.
        longest: maximum number of tokens of a prompt in training.
        examples: number of examples in one pass over the data.
        resume: read the choices of the run's beginning.
    """
    path = Path(settings.out) / FILE
    if resume and path.is_file():
        return {key: Choice(**value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
    dtype = choose_dtype(settings.dtype, device, config, TRAINING)
    dtype = replace(dtype, value="bf16" if any_process(dtype.value == "bf16") else "fp32")
    steps = _compile(settings, config, device, dtype.value, longest, examples)
    steps = replace(steps, value=COMPILED if any_process(steps.value == COMPILED) else PLAIN)
    log.debug("training: dtype %s, steps %s", dtype, steps)
    return {"dtype": dtype, "compile": steps}


def keep_choices(chosen: dict[str, Choice], out: str) -> None:
    """Write the choices into the run folder."""
    with atomic_file(Path(out) / FILE) as handle:
        handle.write(dumps({key: asdict(choice) for key, choice in chosen.items()}, indent=2))


def chosen_settings(settings: Settings, chosen: dict[str, Choice]) -> Settings:
    """Return the settings with the choices instead of "auto"."""
    return replace(settings, dtype=chosen["dtype"].value, compile=chosen["compile"].value == COMPILED)


def _compile(settings: Settings, config: Any, device: torch.device, dtype: str, longest: int, examples: int) -> Choice:
    if settings.compile != "auto":
        return Choice(COMPILED if settings.compile else PLAIN, "as asked for")
    if device.type != "cpu" or settings.gradient_checkpointing or getattr(settings, "baseline_step", False):
        return Choice(PLAIN, "only the engine has compiled steps, and this run does not use it")
    if settings.minutes is not None and settings.max_epochs is None:
        return choose_compile(config, TRAINING, dtype, 60 * settings.minutes)
    documents = max_list_size(getattr(settings, "list_size", 1)) if settings.stage in ("score", "order") else 1
    passes = settings.max_epochs or settings.epochs or 1.0
    seen = settings.steps * settings.batch_size if settings.steps else passes * examples
    return choose_compile_for(config, TRAINING, dtype, seen * documents * longest)
