"""Measure how fast one layer of a model runs on this machine, in fp32 and bf16, plain and compiled. Results are stored.

The processor's flags do not tell which dtype is faster: with AVX512-BF16 but without AMX, bf16 products take twice as long as fp32
on Intel processors and half as long on AMD processors. Therefore a layer of the model's shapes with random weights is run by the
code that ranks or trains.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..utils.files import atomic_file, cache_dir
from ..utils.hardware import processor_identity
from ..utils.loading_lock import one_at_a_time
from . import flat_attention
from .cpu_engine import Engine, is_supported
from .modules import body, cast_weights
from .packing import Batch
from .random_layer import random_batch, random_layer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("prorank")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
RANKING, TRAINING = "ranking", "training"
PROBE_TOKENS = 64  # tokens of a first run, which estimates the duration and excludes slow dtypes
MAX_TOKENS = 1024  # maximum number of tokens of a measured batch
MAX_RUN_SECONDS = 0.15  # maximum duration of a run; slow layers are measured with fewer tokens
MAX_PROBE_RATIO = 3.0  # a dtype that takes this many times as long as fp32 in the probe is not measured
ROUNDS = 4  # dtypes take turns; the fastest run of each counts
MIN_CPU_SHARE = 0.7  # with a smaller share of processor time, other processes disturbed the measurement: it is not stored
DEADLINE = 2.0  # no round begins after this number of seconds, for busy machines
VERSION = 1  # version of the measurement; a change invalidates stored figures
_known: dict[Path, LayerSpeed] = {}  # measured or read by this process, by file


@dataclass(frozen=True)
class LayerSpeed:
    """The measured speed of one layer.

    Attributes:
        processor, threads, torch, shapes, purpose: machine, version, sizes and use for which the figures are valid.
        tokens: number of tokens of the measured batch.
        seconds: duration of a forward pass over the batch, by dtype; for training, of forward and backward pass.
        compiled: the same with compiled steps; empty if not measured.
        compile_seconds: duration of compiling, by dtype.
        disturbed: whether other processes used the processors during the measurement.
    """

    processor: str
    threads: int
    torch: str
    shapes: str
    purpose: str
    tokens: int
    seconds: dict[str, float]
    compiled: dict[str, float] = field(default_factory=dict)
    compile_seconds: dict[str, float] = field(default_factory=dict)
    disturbed: bool = False


@one_at_a_time
def layer_speed(config: Any, purpose: str = RANKING, remeasure: bool = False) -> LayerSpeed:
    """Return the speed of one layer of a model on this CPU with torch's current number of threads.

    Args:
        config: configuration of the model (of transformers).
        purpose: RANKING or TRAINING.
        remeasure: ignore a stored measurement.
    """
    path = _file(config, purpose)
    stored = _known.get(path) or _read(path)
    if stored and not remeasure:
        return stored
    with torch.random.fork_rng(devices=[]):  # random numbers must not depend on whether a measurement took place
        return _store(path, _measure(config, purpose))


@one_at_a_time
def compiled_speed(config: Any, purpose: str, dtype: str) -> LayerSpeed:
    """Return the result of `layer_speed` with figures of compiled steps. Measuring them takes as long as compiling.

    Args:
        config, purpose: see `layer_speed`.
        dtype: dtype of the compiled steps.

    Raises:
        ModelError: there is no working C++ compiler.
    """
    known = layer_speed(config, purpose)
    if dtype in known.compiled:
        return known
    with torch.random.fork_rng(devices=[]):
        plain, compiled = (_ProbeLayer(config, purpose).runner(DTYPES[dtype], known.tokens, value) for value in (False, True))
        compile_seconds = compiled()
        plain()
        with _LoadMonitor() as monitor:
            rounds = _rounds(lambda: (plain(), compiled()))
    seconds, best = (min(times) for times in zip(*rounds))
    return _store(_file(config, purpose), replace(
        known, seconds={**known.seconds, dtype: seconds}, compiled={**known.compiled, dtype: best},
        compile_seconds={**known.compile_seconds, dtype: compile_seconds}, disturbed=monitor.disturbed,
    ))  # fmt: skip


def shapes_of(config: Any) -> str:
    """Return the sizes that determine the duration of a layer, as text."""
    names = ("model_type", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    return " ".join(f"{name}={getattr(config, name, None)}" for name in names)


def _measure(config: Any, purpose: str) -> LayerSpeed:
    layer = _ProbeLayer(config, purpose)
    probes = {name: layer.runner(dtype, PROBE_TOKENS) for name, dtype in DTYPES.items()}
    probed = {name: min(run() for _ in range(2)) for name, run in probes.items()}
    tokens = MAX_TOKENS
    while tokens > PROBE_TOKENS and probed["fp32"] * tokens / PROBE_TOKENS > MAX_RUN_SECONDS:
        tokens //= 2
    runs = {name: layer.runner(DTYPES[name], tokens) for name in DTYPES if probed[name] < MAX_PROBE_RATIO * probed["fp32"]}
    for run in runs.values():
        run()  # the first run compiles programs
    with _LoadMonitor() as monitor:
        rounds = _rounds(lambda: {name: run() for name, run in runs.items()})
    # The figure of a dtype that was only probed is extrapolated from the probe.
    extrapolated = {name: seconds * tokens / PROBE_TOKENS for name, seconds in probed.items()}
    seconds = extrapolated | {name: min(figures[name] for figures in rounds) for name in runs}
    return LayerSpeed(
        processor_identity(), torch.get_num_threads(), torch.__version__, shapes_of(config), purpose, tokens, seconds,
        disturbed=monitor.disturbed,
    )  # fmt: skip


def _rounds(run: Callable[[], Any]) -> list[Any]:
    """Return the results of `run` in a few rounds, at least one."""
    results, end = [run()], time.perf_counter() + DEADLINE
    while len(results) < ROUNDS and time.perf_counter() < end:
        results.append(run())
    return results


class _LoadMonitor:
    """Checks whether this process got enough processor time for its threads; otherwise its timings are not reliable."""

    def __enter__(self) -> _LoadMonitor:
        self.began, self.used = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall, used = time.perf_counter() - self.began, time.process_time() - self.used
        self.disturbed = used < MIN_CPU_SHARE * wall * torch.get_num_threads()


class _ProbeLayer:
    """One layer of a model with random weights.

    Args:
        config: configuration of the whole model; a LightConfig for RANKING only.
        purpose: RANKING runs it forward with weights in the dtype, TRAINING forward and backward with fp32 weights.
    """

    def __init__(self, config: Any, purpose: str) -> None:
        self.purpose, self.model = purpose, random_layer(config)

    def runner(self, dtype: torch.dtype, tokens: int, compiled: bool = False) -> Callable[[], float]:
        """Return a function that runs the layer over `tokens` tokens and returns the duration in seconds."""
        training = self.purpose == TRAINING
        model = self.model if training else copy.deepcopy(self.model)
        if not training:
            cast_weights(model, dtype)
        batch = random_batch(tokens, flat_attention.is_flat(model))
        forward = _forward(model, dtype if training else None, compiled)

        def step() -> None:
            with torch.inference_mode(not training):
                out = forward(batch)
                if training:
                    out.float().sum().backward()
            model.zero_grad(set_to_none=True)

        def timed() -> float:
            begin = time.perf_counter()
            step()
            return time.perf_counter() - begin

        return timed


def _forward(model: PreTrainedModel, training_dtype: torch.dtype | None, compiled: bool) -> Callable[[Batch], torch.Tensor]:
    """Return the forward pass for ranking or, with `training_dtype`, for training: of the engine if it supports the model."""
    if is_supported(model):
        return Engine(model, compiled, training_dtype=training_dtype)
    inner, _ = body(model)

    def plain(batch: Batch) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=training_dtype == torch.bfloat16):
            return inner(**batch.inputs, use_cache=False).last_hidden_state

    return plain


def _file(config: Any, purpose: str) -> Path:
    key = [VERSION, processor_identity(), torch.get_num_threads(), torch.__version__, shapes_of(config), purpose]
    return cache_dir() / "speed" / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"


def _read(path: Path) -> LayerSpeed | None:
    """Return a stored measurement, or None if there is none or it cannot be read."""
    try:
        return LayerSpeed(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _store(path: Path, speed: LayerSpeed) -> LayerSpeed:
    """Store a measurement for this process and, unless other processes disturbed it, for later ones."""
    _known[path] = speed
    if speed.disturbed:
        return speed
    try:
        with atomic_file(path) as handle:
            json.dump(asdict(speed), handle, indent=2)
    except OSError as error:
        log.debug("%s: cannot be written (%s), so the next process measures the speed again", path, error.strerror)
    return speed
