"""Checkpoints: turn a name into a folder of weights and tokenizer, and load it.

Hard fact: an adapter is refused over any base but the one it was trained on, weight for weight.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .errors import ModelError, nearest
from .prompt import Prompt
from .rank import flat
from .shipped import DEFAULT, shipped
from .sources import BUILT_IN, built_in, convert_gguf, first_line, from_hub

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


def pick_device(device: str | None) -> torch.device:
    """The given device, or the best there is: cuda, mps, cpu."""
    if device:
        kind = device.split(":")[0]
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not there.get(kind):
            raise ModelError(f"device '{device}' is not available here; present: {', '.join(k for k, v in there.items() if v)}")
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """"auto" is bf16 where the hardware computes in it (AMX or AVX512-BF16, Ampere and later), fp32 elsewhere; so is "int8", which
    only concerns the matrix products of the CPU engine."""
    if dtype == "int8":
        if device.type != "cpu":
            raise ModelError(f"dtype int8 runs on CPUs only, not on {device.type}; take bf16 or fp32")
        dtype = "auto"
    named = {"fp32": torch.float32, "float32": torch.float32, "bf16": torch.bfloat16, "bfloat16": torch.bfloat16}
    if dtype != "auto":
        if dtype not in named:
            raise ModelError(f"unknown dtype '{dtype}'{nearest(dtype, [*named, 'auto', 'int8'])}")
        return named[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    fast = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if fast else torch.float32


def load_tokenizer(resolved: Resolved) -> Any:
    """The checkpoint's tokenizer, padding on the left, with a pad token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(resolved.tokenizer, padding_side="left", local_files_only=True)
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(f"{resolved.tokenizer}: its tokenizer cannot be read ({first_line(error)})") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = pad_token(tokenizer)
    return tokenizer


def pad_token(tokenizer: Any) -> str:
    """A token to pad with where the tokenizer names none; attention never looks at it."""
    return tokenizer.eos_token or tokenizer.bos_token or tokenizer.convert_ids_to_tokens(0)


def load_model(
    resolved: Resolved, dtype: torch.dtype, device: torch.device, train: bool = False, trust_remote_code: bool = False
) -> torch.nn.Module:
    """Load the causal LM; an adapter is merged into it for use and kept apart (trainable) with `train`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(resolved.path, trust_remote_code=trust_remote_code, local_files_only=True)
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(f"{resolved.path}/config.json: cannot be read ({first_line(error)})") from error
    kinds = config.architectures or []
    if kinds and not any("CausalLM" in kind or "ConditionalGeneration" in kind for kind in kinds):
        raise ModelError(f"{resolved.path}: {kinds[0]} is no causal language model, so it has no answer tokens to score")
    first = torch.float32 if resolved.adapter else dtype  # merge in fp32, round once
    with without_bars():
        model = AutoModelForCausalLM.from_pretrained(
            resolved.path, dtype=first, use_safetensors=True, trust_remote_code=trust_remote_code, local_files_only=True
        )
    if resolved.adapter:
        from peft import PeftModel

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of peft about transformers: nothing that a user could mend
            model = PeftModel.from_pretrained(model, resolved.adapter, is_trainable=train)
        for config in model.peft_config.values():  # where peft looks when it saves; a bare name it would ask a hub for
            config.base_model_name_or_path = str(resolved.path)
        if not train:
            model = model.merge_and_unload().requires_grad_(True)  # peft froze what lies below an adapter
            cast_weights(model, dtype)
    model = model.to(device)
    flat.enable(model.get_base_model() if hasattr(model, "peft_config") else model)
    return model


def cast_weights(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """Round the weights, in place, and nothing else: `model.to(dtype)` would also round the rotary frequencies, which in bf16
    are wrong by up to 1 in 500, so that positions beyond a few dozen turn by a wrong angle."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return model


def merged_copy(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of the model with its adapter, if it has one, merged into its weights."""
    model = copy.deepcopy(model)
    return model.merge_and_unload() if hasattr(model, "peft_config") else model


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep the progress bars of transformers, for local reads and writes of a second, out of ours."""
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def prompt_of(resolved: Resolved, fallback: Any = None) -> Prompt:
    """The prompt saved with the checkpoint; `fallback` (a Prompt, name or mapping) where it has none."""
    return Prompt.load(resolved.folder) or Prompt.of(fallback)


def room_for_prompts(model: torch.nn.Module, written: int = 0) -> int | None:
    """Positions that a model has for prompts with so many tokens to be written behind them; None where it names no bound."""
    positions = getattr(model.config, "max_position_embeddings", None)
    return positions and positions - written


def body(model: torch.nn.Module) -> tuple[torch.nn.Module, torch.nn.Module]:
    """(transformer without head, output head) of a causal LM, adapters looked through.

    `base_model_prefix` cannot be trusted: for Llama4ForCausalLM it names the whole language model.
    """
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    head = inner.get_output_embeddings()
    for name in ("model", "transformer", "gpt_neox", "backbone", "language_model"):
        part = getattr(inner, name, None)
        if isinstance(part, torch.nn.Module) and getattr(part, "lm_head", None) is None:
            return part, head
    raise ModelError(f"{type(inner).__name__}: cannot tell its body from its head; this architecture is not supported yet")


def freeze_head_fp32(model: torch.nn.Module) -> Callable[[], None]:
    """Make the output head compute in fp32 whatever autocast says; returns the undo.

    bf16 logits near 16 are 0.125 apart, which ties scores and starves the loss of gradient.
    """
    _, head = body(model)
    plain = head.forward

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.nn.functional.linear(hidden.float(), head.weight.float(), getattr(head, "bias", None))

    head.forward = forward
    return lambda: setattr(head, "forward", plain)
