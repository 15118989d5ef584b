"""Load the model, tokenizer and config of a resolved checkpoint.

Only weights are cast to bf16. `model.to(bf16)` would also round the rotary frequencies, which gives wrong positions in long texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch

from ..engine import flat_attention
from ..engine.modules import base_of, cast_weights
from ..errors import ModelError
from ..utils.loading_lock import one_at_a_time
from .adapters import vocabulary_rows, with_adapter
from .plain_tokenizer import load_plain_tokenizer
from .resolve import Resolved
from .vocabulary import check_vocabulary
from .weights import check_report, readable

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def pick_device(device: str | None) -> torch.device:
    """Return the named device, or the best available one: cuda, mps, cpu. Raises ModelError if the device is not available."""
    if device:
        kind = device.split(":")[0]
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not there.get(kind):
            raise ModelError(f"device '{device}' is not available here; present: {', '.join(k for k, v in there.items() if v)}")
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")


@one_at_a_time
def load_tokenizer(resolved: Resolved) -> Any:
    """Load the checkpoint's tokenizer; it pads on the left and has a pad token. Raises ModelError if it cannot be read."""
    with readable(resolved.tokenizer, "; copy its base's tokenizer files into it", "its tokenizer"):
        tokenizer = load_plain_tokenizer(resolved.tokenizer, padding_side="left") or _load_auto_tokenizer(resolved)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = pad_token(tokenizer)
    return tokenizer


def _load_auto_tokenizer(resolved: Resolved) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        resolved.tokenizer, padding_side="left", local_files_only=True, trust_remote_code=resolved.trust_remote_code
    )


def pad_token(tokenizer: Any) -> str:
    """Return a token for padding, for tokenizers without a pad token."""
    return tokenizer.eos_token or tokenizer.bos_token or tokenizer.convert_ids_to_tokens(0)


@one_at_a_time
def load_model(resolved: Resolved, dtype: torch.dtype, device: torch.device, train: bool = False) -> PreTrainedModel:
    """Load the causal LM of a checkpoint.

    Args:
        resolved: the checkpoint.
        dtype: type of the weights.
        device: device of the model.
        train: keep an adapter separate and trainable; otherwise it is merged into its base.

    Raises:
        ModelError: the model is not a causal LM, a file is damaged, or a weight is missing, unexpected or has a wrong shape.
    """
    model = _load_causal(resolved, torch.float32 if resolved.adapter else dtype)  # merge in fp32, round once
    if resolved.adapter:
        model = with_adapter(model, resolved.adapter, resolved.path, train)
        if not train:
            cast_weights(model, dtype)
    check_vocabulary(vocabulary_rows(model), resolved.tokenizer)
    model = model.to(device)  # type: ignore[arg-type]  # transformers' decorator hides that it is a method
    flat_attention.enable(base_of(model))
    return model


@one_at_a_time
def load_config(resolved: Resolved) -> PretrainedConfig:
    """Load the transformers config of a checkpoint. Raises ModelError if it is damaged or not that of a causal LM."""
    from transformers import AutoConfig

    with readable(resolved.path / "config.json"):
        config = AutoConfig.from_pretrained(resolved.path, trust_remote_code=resolved.trust_remote_code, local_files_only=True)
    kinds = config.architectures or []
    if kinds and not any("CausalLM" in kind or "ConditionalGeneration" in kind for kind in kinds):
        raise ModelError(f"{resolved.path}: {kinds[0]} is not a causal language model, so it has no answer tokens to score")
    return config


def _load_causal(resolved: Resolved, dtype: torch.dtype) -> PreTrainedModel:
    """Load the model in `resolved.path`. Raises ModelError unless the files contain exactly its weights."""
    from transformers import AutoModelForCausalLM

    load_config(resolved)  # raises for models that are not causal language models
    with readable(resolved.path), without_bars():
        loaded = AutoModelForCausalLM.from_pretrained(
            resolved.path, dtype=dtype, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True,
            trust_remote_code=resolved.trust_remote_code, local_files_only=True,
        )  # fmt: skip
    model, report = cast("tuple[PreTrainedModel, dict[str, Any]]", loaded)  # because output_loading_info is set
    check_report(resolved.path, report)  # also names wrong shapes
    return model


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide the progress bars of transformers."""
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
