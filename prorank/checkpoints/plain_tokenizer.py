"""Load a plain fast tokenizer without `AutoTokenizer`, which imports the configurations of all models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .weights import read_json

CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")  # the generic class of transformers, by its old and new name
MODEL_TYPES = ("llama",)  # `AutoTokenizer` has no class for these, so it uses the class named in the file


def load_plain_tokenizer(folder: Path, **options: Any) -> Any | None:
    """Load the tokenizer of a folder if `AutoTokenizer` would load it as the generic class.

    Args:
        folder: folder of the tokenizer.
        options: arguments of `from_pretrained`.

    Returns:
        The tokenizer, or None if it has, or may have, a specific class.
    """
    if not _is_plain(folder):
        return None
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True, **options)


def _is_plain(folder: Path) -> bool:
    files = [folder / name for name in ("tokenizer.json", "tokenizer_config.json", "config.json")]
    if not all(file.is_file() for file in files):
        return False
    settings, config = map(read_json, files[1:])
    own_code = "auto_map" in settings or "auto_map" in config
    return not own_code and settings.get("tokenizer_class") in CLASSES and config.get("model_type") in MODEL_TYPES
