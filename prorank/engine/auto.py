"""Choices of `auto`: the dtype by measurement on this machine, and compiled steps for long jobs."""

from __future__ import annotations

import shutil
from typing import Any

import torch

from ..errors import ConfigError, ModelError, first_line, nearest
from .choice import Choice
from .layer_speed import DTYPES, RANKING, LayerSpeed, compiled_speed, layer_speed

NAMES = {"fp32": "fp32", "float32": "fp32", "bf16": "bf16", "bfloat16": "bf16"}
MIN_GAIN = 0.05  # bf16 must be faster by this share to be chosen, because fp32 is exact
MIN_LAYER_WEIGHTS = 1_000_000  # the dtype does not matter for smaller layers
# Shorter jobs (seconds) are never compiled. The second limit holds if the gain is not yet measured, as measuring it takes as long
# as compiling.
MIN_SECONDS, MIN_SECONDS_UNMEASURED = 30.0, 300.0
MIN_OPERATIONS = 3e12  # less than half a minute on any processor
COMPILED, PLAIN = "compiled", "plain"
COMPILERS = ("g++", "clang++", "c++")


def check_dtype(dtype: str, device: torch.device) -> None:
    """Raise ModelError for a dtype that is unknown or that the device does not support."""
    if dtype not in (*NAMES, "auto", "int8"):
        raise ModelError(f"unknown dtype '{dtype}'{nearest(dtype, [*NAMES, 'auto', 'int8'])}")
    if dtype == "int8" and device.type != "cpu":
        raise ModelError(f"dtype int8 runs on CPUs only, not on {device.type}; use bf16 or fp32")


def choose_dtype(dtype: str, device: torch.device, config: Any, purpose: str = RANKING) -> Choice:
    """Choose the dtype of a model's weights and products.

    Args:
        dtype: "fp32", "bf16", "auto", or "int8". "int8" applies to matrix products of the layers; other operations are as with
            "auto".
        device: where the model runs.
        config: configuration of the model (of transformers).
        purpose: RANKING or TRAINING; the faster dtype may differ.

    Raises:
        ModelError: the dtype is unknown, or the device does not support it.
    """
    check_dtype(dtype, device)
    if dtype in NAMES:
        return Choice(NAMES[dtype], "as asked for")
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return Choice("bf16", "the GPU computes in it") if native else Choice("fp32", "the GPU does not compute in bf16")
    if device.type != "cpu":
        return Choice("fp32", f"bf16 is not measured on {device.type}")
    weights = layer_weights(config)
    if weights < MIN_LAYER_WEIGHTS:
        return Choice("fp32", f"a layer of {weights:,} weights is too small for the dtype to matter")
    try:
        speed = layer_speed(config, purpose)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:  # an unknown architecture
        return Choice("fp32", f"one layer of {getattr(config, 'model_type', 'the model')} cannot be measured: {first_line(error)}")
    faster = speed.seconds["bf16"] < (1 - MIN_GAIN) * speed.seconds["fp32"]
    return Choice("bf16" if faster else "fp32", _speed_reason(speed))


def pick_dtype(dtype: str, device: torch.device, config: Any, purpose: str = RANKING) -> torch.dtype:
    """The result of `choose_dtype` as a dtype of torch."""
    return DTYPES[choose_dtype(dtype, device, config, purpose).value]


def check_compile(compile: bool | str) -> None:
    """Raise ConfigError for anything but True, False and "auto"."""
    if compile not in (True, False, "auto"):
        raise ConfigError(f"compile must be true, false or auto, not {compile!r}")


def choose_compile(config: Any, purpose: str, dtype: str, seconds: float) -> Choice:
    """Choose whether to compile: COMPILED if that saves more than twice the time of compiling, else PLAIN.

    Args:
        config, purpose: see `choose_dtype`.
        dtype: "fp32" or "bf16".
        seconds: duration of the job with plain steps.
    """
    if seconds < MIN_SECONDS:
        return Choice(PLAIN, f"about {seconds:.0f} s of work are too short for compiling")
    if not any(map(shutil.which, COMPILERS)):
        return Choice(PLAIN, "there is no C++ compiler")
    speed = layer_speed(config, purpose)
    if dtype not in speed.compiled:
        if seconds < MIN_SECONDS_UNMEASURED:
            return Choice(PLAIN, f"about {seconds:.0f} s of work are too short for measuring the gain of compiling")
        try:
            speed = compiled_speed(config, purpose, dtype)
        except ModelError as error:
            return Choice(PLAIN, str(error))
    share = 1 - speed.compiled[dtype] / speed.seconds[dtype]
    saved, cost = share * seconds, speed.compile_seconds[dtype]
    reason = f"it saves {share:.0%} of about {seconds:.0f} s and takes {cost:.0f} s"
    return Choice(COMPILED if saved > 2 * cost else PLAIN, reason)


def choose_compile_for(config: Any, purpose: str, dtype: str, tokens: float) -> Choice:
    """Apply `choose_compile` to a job of `tokens` tokens. The speed is not measured for a job that is clearly short."""
    operations = 2 * tokens * config.num_hidden_layers * layer_weights(config)
    if layer_weights(config) < MIN_LAYER_WEIGHTS or operations < MIN_OPERATIONS:
        return Choice(PLAIN, f"about {tokens:.0f} tokens are too few for compiling")
    return choose_compile(config, purpose, dtype, job_seconds(config, purpose, dtype, tokens))


def job_seconds(config: Any, purpose: str, dtype: str, tokens: float) -> float:
    """Estimate the seconds that a model's layers take for `tokens` tokens, from the measured speed of one layer."""
    speed = layer_speed(config, purpose)
    return config.num_hidden_layers * speed.seconds[dtype] / speed.tokens * tokens


def layer_weights(config: Any) -> int:
    """Estimate the number of weights in a layer's matrix products from the configuration."""
    hidden_size, intermediate_size = getattr(config, "hidden_size", 0), getattr(config, "intermediate_size", 0) or 0
    num_heads = getattr(config, "num_attention_heads", 1) or 1
    head_dim = getattr(config, "head_dim", None) or hidden_size // num_heads
    num_kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    return hidden_size * head_dim * 2 * (num_heads + num_kv_heads) + 3 * hidden_size * intermediate_size


def _speed_reason(speed: LayerSpeed) -> str:
    figures = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in speed.seconds.items())
    busy = "; other processes disturbed it, so it is measured again next time" if speed.disturbed else ""
    return f"measured, {speed.purpose}: {figures} for a layer of {speed.tokens} tokens on {speed.threads} threads{busy}"
