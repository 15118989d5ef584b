"""How fast one layer of a model runs here, in fp32 and in bf16, as it is and compiled: measured once, then kept.

A flag of the processor does not say which dtype is faster: with AVX512-BF16 and without AMX, Intel processors multiply bf16 at half
the speed of fp32, AMD processors at twice. So a layer of the model's own shapes is run, with random weights, by the code that ranks
or trains.
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
from .packing import Batch, Pack, collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("prorank")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
RANKING, TRAINING = "ranking", "training"
PROBE = 64  # tokens that show how long a measurement will take, and whether a dtype is worth one
LONGEST = 1024  # tokens of a measured batch at most
RUN_SECONDS = 0.15  # of one run over that batch; slow layers are measured over fewer tokens
HOPELESS = 3.0  # a dtype that takes so many times as long as fp32 in the probe is not measured
ROUNDS = 4  # dtypes take turns; of each the fastest counts
BUSY = 0.7  # of the processors' time, below which other work disturbed a measurement, which is then not kept
DEADLINE = 2.0  # seconds after which no further round begins, on a machine that is busy
VERSION = 1  # of the measurement: another number makes kept figures void
_known: dict[Path, LayerSpeed] = {}  # what this process has measured or read, by the file where it is kept


@dataclass(frozen=True)
class LayerSpeed:
    """Seconds of one layer over a batch of `tokens` tokens, by dtype; for training forward and backward together.

    Attributes:
        processor, threads, torch, shapes, purpose: what the figures hold for.
        compiled: seconds once its steps are compiled, by dtype; empty where that was not measured.
        compile_seconds: what compiling took, by dtype.
        disturbed: other work took the processors meanwhile.
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
def layer_speed(config: Any, purpose: str = RANKING, anew: bool = False) -> LayerSpeed:
    """The speed of a layer of the model that `config` (of transformers) describes, on this CPU with the threads of now.

    Taken from the user's cache where it was measured before; else it takes some tenths of a second. `anew` measures again.
    """
    path = _file(config, purpose)
    stored = _known.get(path) or _read(path)
    if stored and not anew:
        return stored
    with torch.random.fork_rng(devices=[]):  # a run's draws must not depend on whether it measured
        return _keep(path, _measured(config, purpose))


@one_at_a_time
def compiled_speed(config: Any, purpose: str, dtype: str) -> LayerSpeed:
    """`layer_speed` with the figures of compiled steps in this dtype, which take as long to measure as compiling takes."""
    known = layer_speed(config, purpose)
    if dtype in known.compiled:
        return known
    with torch.random.fork_rng(devices=[]):
        plain, compiled = (_Layer(config, purpose).runner(DTYPES[dtype], known.tokens, which) for which in (False, True))
        took = compiled()
        plain()
        with _Undisturbed() as watch:
            rounds = _rounds(lambda: (plain(), compiled()))
    seconds, best = (min(times) for times in zip(*rounds))
    return _keep(_file(config, purpose), replace(
        known, seconds={**known.seconds, dtype: seconds}, compiled={**known.compiled, dtype: best},
        compile_seconds={**known.compile_seconds, dtype: took}, disturbed=watch.disturbed,
    ))  # fmt: skip


def shapes_of(config: Any) -> str:
    """The sizes that decide how long a layer takes, as text."""
    names = ("model_type", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    return " ".join(f"{name}={getattr(config, name, None)}" for name in names)


def _measured(config: Any, purpose: str) -> LayerSpeed:
    layer = _Layer(config, purpose)
    probes = {name: layer.runner(dtype, PROBE) for name, dtype in DTYPES.items()}
    short = {name: min(run() for _ in range(2)) for name, run in probes.items()}
    tokens = LONGEST
    while tokens > PROBE and short["fp32"] * tokens / PROBE > RUN_SECONDS:
        tokens //= 2
    runs = {name: layer.runner(DTYPES[name], tokens) for name in DTYPES if short[name] < HOPELESS * short["fp32"]}
    for run in runs.values():
        run()  # the first run compiles programs
    with _Undisturbed() as watch:
        rounds = _rounds(lambda: {name: run() for name, run in runs.items()})
    # A dtype that was not measured is told at the pace of its probe.
    seconds = {name: min(r[name] for r in rounds) if name in runs else short[name] * tokens / PROBE for name in DTYPES}
    return LayerSpeed(
        processor_identity(), torch.get_num_threads(), torch.__version__, shapes_of(config), purpose, tokens, seconds,
        disturbed=watch.disturbed,
    )  # fmt: skip


def _rounds(one: Callable[[], Any]) -> list[Any]:
    """What `one` returns in a few rounds, one at least."""
    found, end = [one()], time.perf_counter() + DEADLINE
    while len(found) < ROUNDS and time.perf_counter() < end:
        found.append(one())
    return found


class _Undisturbed:
    """Watches whether this process had its threads' share of the processors: with other work beside it, figures say little."""

    def __enter__(self) -> _Undisturbed:
        self.began, self.used = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall, used = time.perf_counter() - self.began, time.process_time() - self.used
        self.disturbed = used < BUSY * wall * torch.get_num_threads()


class _Layer:
    """One layer of a model with random weights, and a batch for it.

    Args:
        config: of the whole model.
        purpose: RANKING runs it forward with the weights in the dtype, TRAINING forward and backward with fp32 weights.
    """

    def __init__(self, config: Any, purpose: str) -> None:
        from transformers import AutoModelForCausalLM

        small = copy.deepcopy(config)
        small.num_hidden_layers, small.vocab_size = 1, 256
        small.pad_token_id = small.bos_token_id = small.eos_token_id = None
        if getattr(small, "layer_types", None):
            small.layer_types = small.layer_types[:1]
        self.model = AutoModelForCausalLM.from_config(small, dtype=torch.float32)
        flat_attention.enable(self.model)
        self.purpose = purpose

    def runner(self, dtype: torch.dtype, tokens: int, compiled: bool = False) -> Callable[[], float]:
        """A function that runs the layer over `tokens` tokens and returns the seconds that took."""
        training = self.purpose == TRAINING
        model = self.model if training else copy.deepcopy(self.model)
        if not training:
            cast_weights(model, dtype)
        batch = _batch(tokens, flat_attention.is_flat(model))
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


def _forward(model: PreTrainedModel, trainable: torch.dtype | None, compiled: bool) -> Callable[[Batch], torch.Tensor]:
    """What ranks or (with the dtype of the products `trainable`) trains: the engine, or transformers' layers where it has to
    be them."""
    if is_supported(model):
        return Engine(model, compiled, trainable=trainable)
    inner, _ = body(model)

    def plain(batch: Batch) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=trainable == torch.bfloat16):
            return inner(**batch.inputs, use_cache=False).last_hidden_state

    return plain


def _batch(tokens: int, is_flat: bool) -> Batch:
    """Prompts of 128 tokens, of which 16 are shared, as a batch of so many tokens; the answers are all tokens' own places."""
    shared, length = 16, min(112, tokens - 16)
    count = (tokens - shared) // length
    positions = [*range(shared), *(shared + i for _ in range(count) for i in range(length))]
    segments = [0] * shared + [1 + k for k in range(count) for _ in range(length)]
    ids = [(7 * i) % 256 for i in range(len(positions))]
    return collate([Pack(ids, positions, segments, list(range(len(ids))), list(range(len(ids))))], 0, is_flat)


def _file(config: Any, purpose: str) -> Path:
    said = [VERSION, processor_identity(), torch.get_num_threads(), torch.__version__, shapes_of(config), purpose]
    return cache_dir() / "speed" / f"{hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]}.json"


def _read(path: Path) -> LayerSpeed | None:
    """A kept measurement; None where there is none or it cannot be read, and then it is made anew."""
    try:
        return LayerSpeed(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _keep(path: Path, speed: LayerSpeed) -> LayerSpeed:
    """Keep a measurement for this process and, unless other work disturbed it, for later ones."""
    _known[path] = speed
    if speed.disturbed:
        return speed
    try:
        with atomic_file(path) as handle:
            json.dump(asdict(speed), handle, indent=2)
    except OSError as error:
        log.debug("%s: cannot be written (%s), so the speed is measured anew in the next process", path, error.strerror)
    return speed
