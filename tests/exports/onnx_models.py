"""Tiny checkpoints that the tests of ONNX exports share."""

from pathlib import Path

from prorank.checkpoints.saving import save_checkpoint
from prorank.prompts.prompt import Prompt
from tests.tiny import byte_tokenizer, tiny_llama, tiny_qwen2, tiny_qwen3

KINDS = {"llama": ("smollm", tiny_llama), "qwen2": ("qwen2", tiny_qwen2), "qwen3": ("qwen3", tiny_qwen3)}


def saved(folder: Path, kind: str, preset: str = "prorank", **changes) -> Path:
    """Save a tiny checkpoint of a kind (a key of KINDS) with a preset, changed in these fields; returns the folder."""
    style, build = KINDS[kind]
    tokenizer = byte_tokenizer(style)
    return save_checkpoint(folder, build(tokenizer), Prompt.preset(preset, **changes).bind(tokenizer))
