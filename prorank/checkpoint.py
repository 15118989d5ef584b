"""Checkpoints: turn a name into a folder of weights and tokenizer, checked before anything heavy is loaded.

Hard fact: an adapter is refused over any base but the one it was trained on, weight for weight.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .errors import ModelError, nearest
from .prompt import Prompt
from .shipped import DEFAULT, shipped
from .sources import BUILT_IN, built_in, convert_gguf, from_hub

log = logging.getLogger("prorank")
# Bases whose licence forbids commercial use, by a part of their name.
RESEARCH_ONLY = {"mobilellm-r1": "FAIR Noncommercial Research License"}
LICENCES = {"smollm2": "apache-2.0", "deepseek-r1-distill-qwen": "mit", "mobilellm-r1": "fair-noncommercial-research-license"}

# Folders of a command that left no checkpoint in them: the file by which they are known, and what to do.
WITHOUT = {
    "config.yaml": "this run holds no finished checkpoint yet; finish it with prorank train … --resume",
    "adapted.json": "adapt found nothing better here, so the old model stays; use that one",
}


@dataclass(frozen=True)
class Resolved:
    """Where a checkpoint lies: `path` holds base weights and `adapter`, if not None, a LoRA folder over them, which calls its base
    `base`."""

    name: str
    path: Path
    adapter: Path | None = None
    base: str = ""

    @property
    def folder(self) -> Path:
        """The folder that was asked for: it holds the prompt."""
        return self.adapter or self.path

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer: the base's, where an adapter comes without one."""
        return self.folder if _has_tokenizer(self.folder) else self.path


def resolve(name: str | Path) -> Resolved:
    """Find a checkpoint: `prorank-smollm2-135m`, which comes with the package, `smollm2-135m`, a folder, a GGUF file, a LoRA
    adapter's folder, or a hub id.

    Local paths never touch the network. Raises ModelError naming what is missing and the remedy.
    """
    text = str(name)
    for part, licence in RESEARCH_ONLY.items():
        if part in text.lower():
            log.warning("%s: %s, research use only", text, licence)
    path = Path(text).expanduser()
    if text == DEFAULT:
        return _adapter(text, shipped())
    if text == BUILT_IN:
        return Resolved(text, built_in())
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"{path}: not a checkpoint; expected a folder, a .gguf file or a hub id")
        return Resolved(text, convert_gguf(path))
    if path.is_dir():
        return _local(text, _checkpoint_in(path))
    if text.count("/") == 1 and not text.startswith((".", "/", "~")):
        return _local(text, from_hub(text))
    raise ModelError(f"{text}: no such folder or file, and no hub id (owner/name){nearest(text, [DEFAULT, BUILT_IN])}")


def licence_of(name: str, folder: Path) -> str:
    """The licence of a checkpoint: what its model card says, else that of a base known by name, else "other"."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    said = re.search(r"^license: *(.+)$", text.split("---\n")[1], re.M) if text.startswith("---\n") else None
    known = (licence for part, licence in LICENCES.items() if part in name.lower())
    return said[1].strip() if said else next(known, "other")


def _checkpoint_in(folder: Path) -> Path:
    """The folder, or the `model` in it where it is one of `train` or `adapt`. Raises ModelError for one that left no checkpoint."""
    if any((folder / own).is_file() for own in ("config.json", "adapter_config.json")):
        return folder
    if (folder / "model").is_dir():
        return folder / "model"
    for file, why in WITHOUT.items():
        if (folder / file).is_file():
            raise ModelError(f"{folder}: {why}")
    return folder


def _local(name: str, path: Path) -> Resolved:
    """Check a folder before anything heavy is loaded."""
    if (path / "adapter_config.json").is_file():
        return _adapter(name, path)
    if not _has_tokenizer(path):
        raise ModelError(f"{path}: the checkpoint has no tokenizer (tokenizer.json); copy its base's tokenizer files into it")
    if not (path / "config.json").is_file():
        raise ModelError(f"{path}: neither config.json nor adapter_config.json, so this is no checkpoint folder")
    if not any(path.glob("*.safetensors")):
        raise ModelError(f"{path}: no .safetensors weights (other formats can run code when read and are refused)")
    return Resolved(name, path)


def _has_tokenizer(path: Path) -> bool:
    return any((path / f).is_file() for f in ("tokenizer.json", "tokenizer.model", "vocab.json"))


def _adapter(name: str, path: Path) -> Resolved:
    """An adapter together with its base, which must be the one it was trained on, weight for weight."""
    config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    known = path / "base.json"
    stored = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else {}
    base = stored.get("name") or config.get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{path}/adapter_config.json: names no base (base_model_name_or_path)")
    try:
        below = resolve(base)
    except ModelError as error:
        raise ModelError(f"{path}: the base of this adapter cannot be had: {error}") from error
    if below.adapter:
        raise ModelError(f"{path}: its base {base} is an adapter too; merge that one first")
    if stored.get("sha256") and stored["sha256"] != weight_hash(below.path):
        raise ModelError(
            f"{path}: this adapter was trained on another base: {base} has other weights (hash differs from base.json); "
            f"give it the base it was trained on"
        )
    return Resolved(name, below.path, path, base)


def weight_hash(folder: Path) -> str:
    """SHA-256 over the names, shapes and bytes of all weights of a folder, independent of how they are split into files."""
    files = [(file, file.stat()) for file in sorted(Path(folder).glob("*.safetensors"))]
    return _hash(tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in files))


@functools.lru_cache(maxsize=8)
def _hash(files: tuple[tuple[Path, int, int], ...]) -> str:
    """`weight_hash` of files with their sizes and times, kept: an adapter's base is hashed to resolve it, and for a calibration."""
    from safetensors import safe_open

    digest, where = hashlib.sha256(), {}
    for file, *_ in files:
        with safe_open(file, framework="pt") as handle:
            where.update({key: file for key in handle.keys()})
    for key in sorted(where):
        with safe_open(where[key], framework="pt") as handle:
            tensor = handle.get_tensor(key).contiguous()
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def prompt_of(resolved: Resolved, fallback: Any = None) -> Prompt:
    """The prompt saved with the checkpoint; `fallback` (a Prompt, name or mapping) where it has none."""
    return Prompt.load(resolved.folder) or Prompt.of(fallback)
