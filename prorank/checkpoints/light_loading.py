"""Load plain Llama and Qwen2 checkpoints for ranking on a CPU without the model classes of transformers.

All other checkpoints (other architectures, options or adapters, weights that do not fit) are loaded by `loading.load_model`, which
also reports errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from ..engine.light_model import MODEL_TYPES, LightConfig, LightModel
from ..utils.loading_lock import one_at_a_time
from .adapters import merge_as_plain_lora
from .loading import load_config, load_model
from .resolve import Resolved
from .vocabulary import check_vocabulary
from .weights import NO_WEIGHT, read_json, readable, weight_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings",
)  # fmt: skip
ARCHITECTURES = {"llama": ["LlamaForCausalLM"], "qwen2": ["Qwen2ForCausalLM"]}
# Settings that do not change what a model computes when it ranks.
WITHOUT_EFFECT = {
    "_model_name_or_path", "_name_or_path", "attention_dropout", "bos_token_id", "dtype", "eos_token_id", "initializer_range",
    "is_llama_config", "max_window_layers", "pad_token_id", "pretraining_tp", "torch_dtype", "transformers_version", "unk_token_id",
    "use_cache",
}  # fmt: skip
# Settings with the only value that this loader supports.
PLAIN = {
    "attention_bias": (False,), "hidden_act": ("silu",), "mlp_bias": (False,), "rope_interleaved": (False,),
    "rope_scaling": (None,), "use_sliding_window": (False,),
}  # fmt: skip
READ = {"model_type", "architectures", "rms_norm_eps", "head_dim", "tie_word_embeddings", "layer_types", "sliding_window"}
ROPE = {"rope_theta", "rope_parameters"}


def load_ranking_config(resolved: Resolved, device: torch.device) -> LightConfig | PretrainedConfig:
    """Load the configuration of a checkpoint that will rank on this device: a LightConfig for a plain checkpoint on a CPU.

    Raises:
        ModelError: see `loading.load_config`.
    """
    plain = device.type == "cpu" and not resolved.trust_remote_code
    light = light_config(read_json(resolved.path / "config.json")) if plain else None
    return light or load_config(resolved)


@one_at_a_time
def load_ranking_model(
    resolved: Resolved, config: LightConfig | PretrainedConfig, dtype: torch.dtype, device: torch.device, tokenizer: Any
) -> PreTrainedModel:
    """Load the causal LM of a checkpoint for ranking.

    Args:
        resolved: the checkpoint.
        config: result of `load_ranking_config` for the same checkpoint and device.
        dtype: dtype of the weights.
        device: where the model runs.
        tokenizer: tokenizer of the checkpoint.

    Returns:
        A LightModel if config and weights are plain, else the model of transformers.

    Raises:
        ModelError: see `loading.load_model`.
    """
    light = _load_light(resolved, config, dtype) if isinstance(config, LightConfig) else None
    if light is None:
        return load_model(resolved, dtype, device)
    if max(tokenizer.get_vocab().values()) >= config.vocab_size:  # otherwise every token has an embedding
        check_vocabulary(config.vocab_size, resolved.tokenizer)
    light.source = str(resolved.path)
    return cast("PreTrainedModel", light)


def with_transformers_class(model: PreTrainedModel) -> PreTrainedModel:
    """Return the weights of a LightModel in transformers' class, for saving; any other model unchanged."""
    if not isinstance(model, LightModel):
        return model
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model.source, local_files_only=True)
    full = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    full.load_state_dict(model.state_dict())
    return full


def light_config(values: dict[str, Any]) -> LightConfig | None:
    """Read a `config.json`. Returns None if any setting in it is not known to be plain."""
    kind = values.get("model_type")
    known = WITHOUT_EFFECT | set(PLAIN) | READ | ROPE | set(SIZES)
    if kind not in MODEL_TYPES or any(key not in known for key, value in values.items() if value is not None):
        return None
    if any(values[key] not in plain for key, plain in PLAIN.items() if key in values) or not _sizes_fit(values):
        return None
    theta, head_dim, eps, tied = (
        _rope_theta(values),
        values.get("head_dim"),
        values.get("rms_norm_eps"),
        values.get("tie_word_embeddings", False),
    )
    if theta is None or not isinstance(eps, float) or not isinstance(tied, bool) or values["architectures"] != ARCHITECTURES[kind]:
        return None
    if kind == "llama":  # as transformers does; Qwen2 has no such setting of its own
        head_dim = head_dim or values["hidden_size"] // values["num_attention_heads"]
    sizes = {key: values[key] for key in SIZES}
    return LightConfig(kind, **sizes, rms_norm_eps=eps, rope_theta=theta, head_dim=head_dim, tie_word_embeddings=tied)


def _sizes_fit(values: dict[str, Any]) -> bool:
    """Whether all sizes are present and fit each other, and every layer has full attention."""
    head_dim = values.get("head_dim")
    sizes = [values.get(key) for key in SIZES] + ([] if head_dim is None else [head_dim])
    if not all(type(size) is int and size > 0 for size in sizes) or "architectures" not in values:
        return False
    if values["model_type"] == "qwen2" and "head_dim" in values and head_dim is None:
        return False
    heads, kv_heads = values["num_attention_heads"], values["num_key_value_heads"]
    layer_types = values.get("layer_types") or ["full_attention"]
    windows = values["model_type"] == "llama" and values.get("sliding_window")  # Qwen2 ignores it without use_sliding_window
    fits = values["hidden_size"] % heads == 0 and heads % kv_heads == 0 and (head_dim or values["hidden_size"] // heads) % 2 == 0
    pad = values.get("pad_token_id")
    return (
        fits
        and not windows
        and set(layer_types) == {"full_attention"}
        and (pad is None or (type(pad) is int and 0 <= pad < values["vocab_size"]))
    )


def _rope_theta(values: dict[str, Any]) -> float | None:
    """Return the base of the rotary frequencies, or None if they are not of the default type."""
    parameters = values.get("rope_parameters") or {}
    if not isinstance(parameters, dict) or set(parameters) - {"rope_theta", "rope_type"}:
        return None
    thetas = {theta for theta in (parameters.get("rope_theta"), values.get("rope_theta")) if theta is not None}
    plain = parameters.get("rope_type", "default") == "default" and all(isinstance(theta, (int, float)) for theta in thetas)
    return thetas.pop() if plain and len(thetas) == 1 else None


def _load_light(resolved: Resolved, config: LightConfig, dtype: torch.dtype) -> LightModel | None:
    """Load a plain model. Returns None if its weights or its adapter are not plain."""
    model = LightModel(config)
    with readable(resolved.path):
        weights = _read_weights(weight_files(resolved.path), model.shapes(), torch.float32 if resolved.adapter else dtype)
    if weights is None:
        return None
    model.assign_weights(weights)
    if resolved.adapter and not merge_as_plain_lora(cast("PreTrainedModel", model), resolved.adapter, dtype):
        return None
    return model


def _read_weights(files: Iterable[Path], shapes: dict[str, list[int]], dtype: torch.dtype) -> dict[str, torch.Tensor] | None:
    """Read weights of these shapes in `dtype`. Returns None unless the files contain exactly these weights."""
    from safetensors import safe_open

    weights: dict[str, torch.Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as handle:
            for name in handle.keys():
                if name not in shapes and NO_WEIGHT.search(name):
                    continue
                if name in weights or handle.get_slice(name).get_shape() != shapes.get(name):
                    return None
                weights[name] = handle.get_tensor(name).to(dtype)
    return weights if len(weights) == len(shapes) else None
