"""Resolve the name of a checkpoint to its folders, and check the files before weights are loaded.

An adapter is accepted only with the base it was trained on, which is identified by a hash of its weights.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError, nearest
from ..prompts.prompt import Prompt
from .adapters import CONFIG as ADAPTER_CONFIG
from .adapters import read_config
from .default_model import DEFAULT, default_model
from .known import check_plain, known_prompt
from .names import may_be_hub_id, similar
from .sources import BUILT_IN, built_in, convert_gguf, from_hub
from .weight_hashes import weight_hash
from .weights import check_files, read_json

log = logging.getLogger("prorank")
# Licences that forbid commercial use, by a part of the base's name.
RESEARCH_ONLY = {"mobilellm-r1": "FAIR Noncommercial Research License"}
LICENCES = {"smollm2": "apache-2.0", "deepseek-r1-distill-qwen": "mit", "mobilellm-r1": "fair-noncommercial-research-license"}
NAME_BASE = "name the folder of its base (base= or --base)"

# Output folders of commands that wrote no checkpoint: the file that identifies them, and the remedy.
WITHOUT = {
    "config.yaml": "this run has no finished checkpoint yet; finish it with prorank train … --resume",
    "adapted.json": "adapt found no better model and kept the old one; use the old one",
}


@dataclass(frozen=True)
class Resolved:
    """Location of the files of a checkpoint.

    Attributes:
        name: the name that the user gave.
        path: folder of the weights; for an adapter, of the base's weights.
        adapter: folder of the adapter, None if the checkpoint is not an adapter.
        base: name of the adapter's base, "" if the checkpoint is not an adapter.
        trust_remote_code: whether Python files of the checkpoint may be executed.
    """

    name: str
    path: Path
    adapter: Path | None = None
    base: str = ""
    trust_remote_code: bool = False

    @property
    def folder(self) -> Path:
        """Folder of the prompt: the adapter's, or that of the weights."""
        return self.adapter or self.path

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer: the base's if the adapter has none."""
        return self.folder if _has_tokenizer(self.folder) else self.path


def resolve(name: str | Path, base: str | Path | None = None, trust_remote_code: bool = False) -> Resolved:
    """Find a checkpoint and check its files. Local paths never cause network access.

    Args:
        name: `prorank-smollm2-135m` (part of the package), `smollm2-135m`, a folder, a GGUF file, a LoRA adapter's folder, or a hub
            id.
        base: location of an adapter's base, which replaces the name in the adapter's settings.
        trust_remote_code: also download the Python files of a hub repository, and allow them to be executed.

    Raises:
        ModelError: the checkpoint is missing, incomplete or damaged. The message gives the remedy.
    """
    text = str(name)
    for part, licence in RESEARCH_ONLY.items():
        if part in text.lower():
            log.warning("%s: %s, research use only", text, licence)
    resolved = _local(text, _folder_of(text, trust_remote_code), base, trust_remote_code)
    if base and not resolved.adapter:
        raise ModelError(f"{text}: is not an adapter, so it has no base; omit base ('{base}')")
    return resolved


def _folder_of(text: str, code: bool) -> Path:
    """Return the folder of a checkpoint's files, downloaded or converted if necessary."""
    path = Path(os.path.expanduser(text))
    if text in (DEFAULT, BUILT_IN):
        return default_model() if text == DEFAULT else built_in()
    if text and os.path.isfile(path):
        if path.suffix != ".gguf":
            raise ModelError(f"{path}: not a checkpoint; expected a folder, a .gguf file or a hub id")
        return convert_gguf(path)
    if text and os.path.isdir(path):
        return _checkpoint_in(path)
    if may_be_hub_id(text):
        return from_hub(text, code)
    hint = similar(path) if "/" in text or os.sep in text else nearest(text, [DEFAULT, BUILT_IN])
    raise ModelError(f"{text}: no such folder or file, and not a hub id (owner/name){hint}")


def is_adapter(name: str | Path) -> bool:
    """Whether a name is that of a local adapter folder. Its files are not read."""
    path = Path(os.path.expanduser(name))
    return str(name) == DEFAULT or (os.path.isdir(path) and (_checkpoint_in(path) / ADAPTER_CONFIG).is_file())


def licence_of(name: str, folder: Path) -> str:
    """Return the licence of a checkpoint: from its model card, else of a base known by name, else "other"."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    licence_line = re.search(r"^license: *(.+)$", text.split("---\n")[1], re.M) if text.startswith("---\n") else None
    known = (licence for part, licence in LICENCES.items() if part in name.lower())
    return licence_line[1].strip() if licence_line else next(known, "other")


def _checkpoint_in(folder: Path) -> Path:
    """Return the folder, or its `model` subfolder if `train` or `adapt` wrote it. Raises ModelError if they wrote no checkpoint."""
    if any((folder / own).is_file() for own in ("config.json", "adapter_config.json")):
        return folder
    if (folder / "model").is_dir():
        return folder / "model"
    for file, why in WITHOUT.items():
        if (folder / file).is_file():
            raise ModelError(f"{folder}: {why}")
    return folder


def _local(name: str, path: Path, base: str | Path | None, code: bool) -> Resolved:
    """Check the files of a local folder."""
    if (path / ADAPTER_CONFIG).is_file():
        return _adapter(name, path, base, code)
    if not (path / "config.json").is_file():
        raise ModelError(f"{path}: neither config.json nor adapter_config.json, so this is not a checkpoint folder")
    if not _has_tokenizer(path):
        raise ModelError(f"{path}: the checkpoint has no tokenizer (tokenizer.json); copy its base's tokenizer files into it")
    read_json(path / "config.json")
    check_files(path)
    return Resolved(name, path, trust_remote_code=code)


def _has_tokenizer(path: Path) -> bool:
    return any((path / f).is_file() for f in ("tokenizer.json", "tokenizer.model", "vocab.json"))


def _adapter(name: str, path: Path, base: str | Path | None, code: bool) -> Resolved:
    """Resolve an adapter and its base."""
    config, known = read_config(path), path / "base.json"
    stored = read_json(known) if known.is_file() else {}
    wanted = str(base or stored.get("name") or config.get("base_model_name_or_path") or "")
    if not wanted:
        raise ModelError(f"{path / ADAPTER_CONFIG}: does not name its base (base_model_name_or_path); {NAME_BASE}")
    check_files(path)
    below = _base_of(path, [wanted] if base else _places(wanted, path), stored.get("sha256"), code)
    return Resolved(name, below.path, path, below.name, code)


def _places(base: str, adapter: Path) -> list[str]:
    """Return candidate locations of an adapter's base.

    These are the existing paths of its name relative to the current folder and to each parent of the adapter, else the name itself.
    """
    if base in (DEFAULT, BUILT_IN):
        return [base]
    around = [parent / base for parent in adapter.resolve().parents]
    there = [place for place in (Path(os.path.expanduser(base)), *around) if os.path.exists(place)]
    others = [str(place) for place in there if place.resolve() != adapter.resolve()]
    return list(dict.fromkeys(others)) or [base]


def _base_of(adapter: Path, places: list[str], sha256: str | None, code: bool) -> Resolved:
    """Return the first base in `places` whose weights have this hash, or the first one if `sha256` is None."""
    faults = []
    for place in places:
        try:
            below = _below(place, code)
        except ModelError as error:
            faults.append(f"the base of this adapter cannot be loaded: {error}; {NAME_BASE}")
            continue
        if not sha256 or sha256 == weight_hash(below.path):
            return below
        why = f"trained on another base: {place} has other weights (hash differs from base.json)"
        faults.append(f"this adapter was {why}; name the base that it was trained on (base= or --base)")
    raise ModelError(f"{adapter}: {faults[0]}")


def _below(base: str, code: bool) -> Resolved:
    if is_adapter(base):
        raise ModelError(f"{base} is an adapter, too; merge it into its base first")
    return resolve(base, trust_remote_code=code)


def prompt_of(resolved: Resolved, fallback: Any = None) -> Prompt:
    """Return the prompt of a checkpoint: the one it was trained with, else `fallback`.

    Args:
        resolved: the checkpoint.
        fallback: a Prompt, name or mapping; None for the default preset.

    Raises:
        ModelError: `fallback` is None, and the checkpoint is a reranker whose prompt is unknown.
    """
    own = trained_prompt(resolved)
    if not own and fallback is None:
        check_plain(resolved.name, _folders(resolved), resolved.base)
    return own or Prompt.of(fallback)


def trained_prompt(resolved: Resolved) -> Prompt | None:
    """Return the prompt that a checkpoint was trained with: saved with it, or of a known reranker; None for other models."""
    return Prompt.load(resolved.folder) or known_prompt(resolved.name, _folders(resolved), resolved.base)


def _folders(resolved: Resolved) -> list[Path]:
    return list(dict.fromkeys((resolved.folder, resolved.path)))
