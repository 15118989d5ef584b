"""Check weights: files are complete, and they contain exactly the weights of the model.

transformers and peft initialise missing weights randomly and drop unexpected ones, with only a warning.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ModelError, ProRankError, first_line

SINGLE, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
LFS_POINTER = b"version https://git-lfs"
# Harmless unexpected names: buffers that the model computes, and the value head of a training run.
NO_WEIGHT = re.compile(
    r"(rope_freqs\.weight|\.rotary_emb\.inv_freq|\.attn(ention)?\.(masked_)?bias|position_ids|(^|\.)v(alue)?_head\.[\w.]+)$"
)


@contextmanager
def readable(what: str | Path, remedy: str = "", part: str = "") -> Iterator[None]:
    """Convert any exception in the block to a one-line ModelError.

    Args:
        what: name of the checkpoint or file, for the message.
        remedy: appended to the message.
        part: name of the part of it that is read, for the message.

    Raises:
        ModelError: for any exception other than a ProRankError.
    """
    try:
        yield
    except ProRankError:
        raise
    except Exception as error:  # the libraries may raise any error for damaged files
        if "trust_remote_code" in str(error):
            remedy = "; trust_remote_code=True or --trust-remote-code runs the Python code in the checkpoint"
        raise ModelError(f"{what}: {part + ' ' if part else ''}cannot be read ({first_line(error)}){remedy}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains an object. Raises ModelError naming the file if it is damaged or contains another value."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ModelError(f"{path}: cannot be read ({first_line(error)}); copy the file again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected an object in braces, found {type(value).__name__}; copy the file again")
    return value


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder in transformers' order of preference, or those of an adapter.

    Raises:
        ModelError: there are none, or the index is damaged or names a missing file.
    """
    name = ADAPTER if (folder / "adapter_config.json").is_file() else SINGLE
    if (folder / name).is_file():
        return [folder / name]
    if name == SINGLE and (folder / INDEX).is_file():
        return _shards(folder / INDEX)
    raise ModelError(f"{folder}: no .safetensors weights ({name}); other formats can run code when read and are refused")


def _shards(index: Path) -> list[Path]:
    """Return the files in an index of shards, without duplicates."""
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(file, str) for file in named.values()):
        raise ModelError(f"{index}: has no weight_map from weights to files; copy the file again")
    files = [index.parent / file for file in sorted(set(named.values()))]
    missing = next((file for file in files if not file.is_file()), None)
    if missing:
        weight = next(weight for weight, file in named.items() if index.parent / file == missing)
        raise ModelError(f"{missing}: is missing, and {index.name} names it for '{weight}'; copy it into the folder")
    return files


def check_files(folder: Path) -> None:
    """Raise ModelError if weight files are missing or truncated. Only headers are read."""
    for file in weight_files(folder):
        _check_file(file)


def _check_file(file: Path) -> None:
    from safetensors import safe_open

    with readable(file), open(file, "rb") as handle:
        head = handle.read(len(LFS_POINTER))
    if head == LFS_POINTER:
        raise ModelError(f"{file}: is a pointer of git-lfs, not the weights; run git lfs pull in its folder")
    if not head:
        raise ModelError(f"{file}: is empty; copy or download it again")
    with readable(file, "; it is truncated or damaged, copy or download it again"), safe_open(file, framework="pt"):
        pass


def check_resumable(folder: Path) -> None:
    """Raise ModelError if a file of a training checkpoint is truncated: weights, optimizer, random state, value head."""
    remedy = f"; remove {folder.name} and resume from the checkpoint before it"
    read_json(folder / "run.json")
    for file in sorted(folder.glob("*.safetensors")):
        _check_file(file)
    for file in sorted([*folder.glob("*.pt"), *folder.glob("*.pth")]):
        if not zipfile.is_zipfile(file):  # torch writes zip files, which end with their directory
            raise ModelError(f"{file}: is truncated or damaged{remedy}")


def check_report(where: Path, report: dict[str, Any]) -> None:
    """Raise ModelError if weights are missing, unexpected or have wrong shapes.

    Args:
        where: file or folder of the weights, for the message.
        report: loading report of transformers: "missing_keys" and "unexpected_keys" (names), and "mismatched_keys" (name, shape in
            the file, shape in the model).
    """
    missing = sorted(report["missing_keys"])
    unexpected = sorted(name for name in report["unexpected_keys"] if not NO_WEIGHT.search(name))
    shapes = sorted(report.get("mismatched_keys", ()))
    faults = [_named(missing, "is missing"), _named(unexpected, "has no place in the model")]
    if shapes:
        name, stored, wanted = shapes[0]
        faults.append(f"'{name}' has shape {list(stored)} in place of {list(wanted)}")
    if any(faults):
        message = ", ".join(filter(None, faults))
        raise ModelError(f"{where}: its weights do not fit its config: {message}; copy the checkpoint again")


def _named(names: Iterable[str], what: str) -> str:
    first, *more = [*names] or [""]
    return first and f"'{first}'{f' (and {len(more)} more)' if more else ''} {what}"
