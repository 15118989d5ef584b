"""`prorank info`: device, dtype, versions, cache and extras of this installation."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from ..checkpoints.default_model import DEFAULT
from ..utils.terminal import print_lines, say
from .options import MAIN, Device, Model

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")


def info(
    model: Model = DEFAULT,
    device: Device = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Measure the speed of the dtypes again; the machine should be idle.", rich_help_panel=MAIN),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=MAIN)] = False,
) -> None:
    """Show device, dtype with the reason, versions, cache and default model."""
    facts = gather(model, device, measure)
    if as_json:
        print_lines([json.dumps(facts, indent=2)])
        return
    for name, value in facts.items():
        lines = [f"{key}: {entry}" for key, entry in value.items()] if isinstance(value, dict) else [value]
        for number, line in enumerate(lines):
            say(f"{name if number == 0 else '':<14}{line}")


def gather(model: str = DEFAULT, device: str | None = None, measure: bool = False) -> dict[str, Any]:
    """Collect the output of `info`: texts, or mappings of texts, by name.

    Args:
        model: checkpoint whose layers are timed for each dtype. The base of the default model is not downloaded for this.
        device: see `Reranker`.
        measure: measure again even if a measurement is stored.

    Raises:
        ModelError: the checkpoint cannot be loaded, or the device is not available.
    """
    from ..checkpoints.loading import pick_device
    from ..utils.hardware import processor_name

    where = pick_device(device)
    return {
        "prorank": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "processor": f"{processor_name()}, {os.cpu_count()} cores",
        "device": _device(where),
        "dtype": _dtypes(model, where, measure),
        "compile": _compiler(),
        "cache": _cache(),
        "default model": _default_model(),
        "extras": _extras(),
    }


def _device(where: Any) -> str:
    import torch

    if where.type == "cuda":
        return f"{where}: {torch.cuda.get_device_name(where)}"
    return f"cpu, {torch.get_num_threads()} threads" if where.type == "cpu" else str(where)


def _dtypes(model: str, where: Any, measure: bool) -> dict[str, str]:
    """Return the dtypes that `auto` chooses for ranking and for training, with the reasons."""
    from ..checkpoints.loading import load_config
    from ..engine.auto import choose_dtype
    from ..engine.layer_speed import RANKING, TRAINING, layer_speed

    if model == DEFAULT and not _base_is_here():
        return {"auto": "measured when the base of the default model is available: prorank pull"}
    from ..checkpoints.resolve import resolve

    config = load_config(resolve(model))
    if measure and where.type == "cpu":
        for purpose in (RANKING, TRAINING):
            layer_speed(config, purpose, remeasure=True)
    return {purpose: str(choose_dtype("auto", where, config, purpose)) for purpose in (RANKING, TRAINING)}


def _compiler() -> str:
    from ..engine.auto import COMPILERS

    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    return f"by {compiler}, for long jobs" if compiler else "no C++ compiler found, so never"


def _cache() -> str:
    from ..utils.files import cache_dir

    folder = cache_dir()
    if not folder.is_dir():
        return f"{folder}, empty"
    used = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return f"{folder}, {used / 1e6:.0f} MB{'' if os.access(folder, os.W_OK) else ', cannot be written'}"


def _default_model() -> str:
    from ..checkpoints.default_model import default_model
    from ..errors import ModelError

    try:
        default_model()
    except ModelError as error:
        return str(error)
    base = "its base is in the cache" if _base_is_here() else "its base is downloaded at the first use, or by prorank pull"
    return f"{DEFAULT}, {base}"


def _base_is_here() -> bool:
    from ..checkpoints.sources import BUILT_IN
    from ..utils.files import cache_dir

    return (Path(cache_dir()) / BUILT_IN / "config.json").is_file()


def _extras() -> dict[str, str]:
    """Return "installed" or the missing packages of each extra."""
    missing: dict[str, list[str]] = {}
    for extra, package in _requirements():
        missing.setdefault(extra, [])
        if _version(package) == "missing":
            missing[extra].append(package)
    return {extra: f"missing {', '.join(names)}" if names else "installed" for extra, names in sorted(missing.items())}


def _requirements() -> Iterator[tuple[str, str]]:
    """Yield (extra, package) of the extras for users."""
    try:
        lines = requires("prorank") or []
    except PackageNotFoundError:  # run from a folder that is not installed
        return
    for line in lines:
        requirement = re.match(r'([\w.-]+).*extra == ["\'](\w+)["\']', line)
        if requirement and requirement[2] in ("train", "eval", "serve", "client", "teacher"):
            yield requirement[2], requirement[1]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
