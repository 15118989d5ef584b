"""Dry run of a stage: two batches with the real model and data in a temporary folder, to learn memory and time before a long run.

Sizes of weights, gradients, optimiser, reference and caches follow from model and settings; activations are counted while the loss
is computed; peak and seconds are measured. Nothing is written to the run folder.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from ..checkpoints.loading import load_config, pick_device
from ..checkpoints.resolve import resolve
from ..engine.key_values import KeyValueShape
from ..errors import extra
from .choices import choices_of, chosen_settings
from .micro_batches import LONG_RUN, total_steps
from .run import load_trainable, make_encoders, make_trainer
from .settings.stage_settings import Settings
from .stages.registry import STAGES
from .stages.stage_spec import StageInputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCHES = 2  # the first one also creates the optimiser's state, so the last one is timed
ADAM_STATES = 2  # tensors of AdamW per weight, in fp32
FP32 = 4  # bytes


@dataclass(frozen=True)
class Memory:
    """Bytes of a training, by use.

    Attributes:
        weights: weights of the model in fp32.
        reference: frozen copy of the starting model.
        gradients: gradients of the trained weights.
        optimizer: states of AdamW.
        activations: tensors that a micro-batch keeps for its backward pass.
        generator: copy of the weights that generates completions.
        rollouts: keys and values of the completions of a batch.
    """

    weights: int
    reference: int
    gradients: int
    optimizer: int
    activations: int
    generator: int
    rollouts: int

    @property
    def backward(self) -> int:
        """Bytes during a backward pass."""
        return self.weights + self.reference + self.gradients + self.optimizer + self.activations

    @property
    def generation(self) -> int:
        """Bytes while completions are generated."""
        return self.weights + self.reference + self.optimizer + self.generator + self.rollouts


@dataclass(frozen=True)
class DryRun:
    """Result of a dry run.

    Attributes:
        parameters, trained: number of weights, and of those that are trained.
        memory: bytes by use.
        peak: measured peak memory in bytes: of the process, or on a GPU of its tensors.
        device: type of the device.
        steps: optimiser steps of the run.
        seconds: measured seconds of a step.
    """

    parameters: int
    trained: int
    memory: Memory
    peak: int
    device: str
    steps: int
    seconds: float

    def __str__(self) -> str:
        memory = self.memory
        rows = [("parameters", f"{self.parameters:,}, of which {self.trained:,} are trained")]
        sizes = ((field.name, getattr(memory, field.name)) for field in fields(memory))
        rows += [(name, _megabytes(size)) for name, size in sizes if size]
        named = max(memory.backward, memory.generation if memory.generator else 0)
        rest = "process and buffers" if self.device == "cpu" else "buffers"
        rows += [("named above, at once", _megabytes(named)), (rest, _megabytes(max(0, self.peak - named)))]
        rows += [("peak (measured)", f"{_megabytes(self.peak)} on {self.device}"), ("steps", f"{self.steps:,}")]
        rows += [("seconds a step", f"{self.seconds:.2f} (measured)"), ("minutes", f"{self.steps * self.seconds / 60:.1f}")]
        return "\n".join(f"{name:<22}{value}" for name, value in rows)


def dry_run(settings: Settings) -> DryRun:
    """Train two batches in a temporary folder and return what a run with these settings needs.

    Evaluation and saving are left out.

    Args:
        settings: settings of the run.

    Raises:
        ConfigError, DataError, PromptError, ModelError, TrainingError: see `run.train`.
    """
    with extra("train"):
        import accelerate  # noqa: F401
    settings.check()
    spec = STAGES[settings.stage]
    examples, dev_examples = spec.read(settings)
    spec.check(examples, dev_examples, settings)
    source = resolve(settings.base, trust_remote_code=settings.trust_remote_code)
    encoders, device = make_encoders(spec, source, examples, settings), pick_device(settings.device)
    choices = choices_of(settings, load_config(source), device, encoders.train.longest, len(examples), resume=False)
    repeat = getattr(settings, "updates", 1)
    with tempfile.TemporaryDirectory(prefix="prorank-dry-run-") as folder:
        short = replace(chosen_settings(settings, choices), out=folder, **_short(settings, repeat))
        model = load_trainable(source, short, device)
        trainable, bf16 = spec.trainable(model, short), short.dtype == "bf16"
        stage = spec.build(StageInputs(short, examples, [], encoders.train, encoders.full, trainable, bf16))
        measured = MeasuredStage(stage)
        trainer, clock = make_trainer(measured, short, trainable, None, None), StepClock()
        trainer.add_callback(clock)
        trainer.fit(False)
        seconds = sum(clock.seconds[-repeat:]) / repeat
        memory = _memory(trainable, model, short, stage, measured.activations, encoders.train.longest, bf16)
    steps = total_steps(settings, len(stage), repeat)
    if steps == LONG_RUN and settings.minutes:
        steps = max(1, round(60 * settings.minutes / seconds))
    weights = list(trainable.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    return DryRun(sum(w.numel() for w in weights), trained, memory, peak_memory(device), device.type, steps, seconds)


def peak_memory(device: torch.device) -> int:
    """Return the peak memory of this process in bytes, or on a GPU that of its tensors."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class StepClock(TrainerCallback):
    """Measures the seconds of each optimiser step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_step_begin(self, args, state, control, **_):
        """Start the clock."""
        self._start = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        """Stop the clock."""
        self.seconds.append(time.perf_counter() - self._start)


class MeasuredStage:
    """A stage that counts the bytes that its loss keeps for the backward pass.

    Args:
        stage: the stage.

    Attributes:
        activations: largest number of bytes of a micro-batch.
    """

    def __init__(self, stage: Any) -> None:
        self._stage, self.activations = stage, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def __len__(self) -> int:
        return len(self._stage)

    def loss(self, model: Any, examples: list[Any]) -> tuple[torch.Tensor, dict[str, float]]:
        """See `Stage.loss`."""
        with saved_bytes(model) as sizes:
            result = self._stage.loss(model, examples)
        self.activations = max(self.activations, sum(sizes.values()))
        return result


@contextmanager
def saved_bytes(model: torch.nn.Module) -> Iterator[dict[int, int]]:
    """Count the storages that autograd keeps for the backward pass in the block, without the weights.

    Yields:
        Bytes by address of the storage.
    """
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # without a reference to its own graph

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


def _short(settings: Settings, repeat: int) -> dict[str, Any]:
    """Return the changes that make a run two batches long, without evaluation and files."""
    changes: dict[str, Any] = {"steps": BATCHES * repeat, "minutes": None, "epochs": None, "max_epochs": None}
    changes |= {"num_evaluations": 0, "save_every": 0, "tensorboard": False}
    return changes | ({"completions_every": 0} if hasattr(settings, "completions_every") else {})


def _memory(
    trainable: torch.nn.Module, model: PreTrainedModel, settings: Settings, stage: Any, activations: int, longest: int, bf16: bool
) -> Memory:
    """Return the bytes of a training by use. `longest`: maximum number of tokens of a prompt."""
    trained = sum(weight.numel() for weight in trainable.parameters() if weight.requires_grad)
    frozen = getattr(getattr(stage, "reference", None), "frozen", None)
    generator = rollouts = 0
    if settings.stage == "reason":
        width = 2 if bf16 else FP32
        generator = width * sum(weight.numel() for weight in model.parameters())
        completions: Any = settings
        tokens = longest + completions.num_generations * completions.max_new_tokens
        rollouts = width * KeyValueShape.of_config(model.config).per_token * settings.batch_size * tokens
    return Memory(
        weights=_bytes(trainable), reference=_bytes(frozen) if frozen is not None else 0, gradients=FP32 * trained,
        optimizer=ADAM_STATES * FP32 * trained, activations=activations, generator=generator, rollouts=rollouts,
    )  # fmt: skip


def _bytes(model: torch.nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
