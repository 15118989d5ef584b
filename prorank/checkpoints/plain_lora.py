"""Plain LoRA adapters, merged without peft: W + scale * B @ A (Hu et al. 2021, arXiv 2106.09685, section 4.1).

Importing peft and wrapping each layer takes seconds; the sums themselves take a tenth. Adapters with unknown settings, with targets
that are not linear layers, or with missing or unexpected weights are left to peft, which reports errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..engine.light_model import EmptyLinear
from .weights import ADAPTER, readable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFIX = "base_model.model."  # peft's prefix of the base's module names
# Settings whose values do not change what a plain LoRA adapter computes. Those in LORA are read.
WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "revision", "target_modules", "task_type",
}  # fmt: skip
LORA = {"r", "lora_alpha", "use_rslora"}
PLAIN_INIT = (True, False, "gaussian")  # other initialisations also change the base's weights
LINEAR = (torch.nn.Linear, EmptyLinear)
Shapes = dict[str, list[int]]


@dataclass(frozen=True)
class PlainLora:
    """Settings of a plain LoRA adapter.

    Attributes:
        scale: factor of B @ A: alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA (arXiv 2312.03732).
        rank: r, the inner dimension of B [out, r] @ A [r, in].
        targets: names of the modules, or last parts of their names.
    """

    scale: float
    rank: int
    targets: tuple[str, ...]


def read_plain_lora(config: dict[str, Any]) -> PlainLora | None:
    """Parse the settings in `adapter_config.json`. Returns None if they describe anything but plain LoRA."""
    rank, alpha, targets = config.get("r"), config.get("lora_alpha"), config.get("target_modules")
    if config.get("peft_type") != "LORA" or not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)):
        return None
    if not isinstance(targets, list) or not targets or not all(isinstance(target, str) for target in targets):
        return None
    if config.get("bias", "none") != "none" or config.get("init_lora_weights", True) not in PLAIN_INIT:
        return None
    others = set(config) - WITHOUT_EFFECT - LORA - {"bias", "init_lora_weights"}
    if any(config[key] for key in others):  # dora, patterns of ranks, modules_to_save, and settings of later versions
        return None
    return PlainLora(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank, rank, tuple(targets))


def merge_plain_lora(
    model: PreTrainedModel, lora: PlainLora, folder: Path, shapes: Shapes, dtype: torch.dtype = torch.float32
) -> bool:
    """Add an adapter to the fp32 weights of a model, in place.

    Args:
        model: the base.
        lora: the settings of the adapter.
        folder: folder of the adapter.
        shapes: shapes of the weights in its file, by name.
        dtype: dtype that the sums are rounded to.

    Returns:
        Whether the adapter was merged. False, without any change, if the file does not contain exactly the factors that the model's
        linear layers need.
    """
    layers = _target_layers(model, lora)
    if not layers or shapes != _wanted_shapes(layers, lora.rank):
        return False
    from safetensors import safe_open

    with readable(folder / ADAPTER), safe_open(folder / ADAPTER, framework="pt") as handle, torch.no_grad():
        for name, layer in layers.items():
            down, up = (handle.get_tensor(f"{PREFIX}{name}.lora_{factor}.weight").float() for factor in "AB")
            update = (up @ down).mul_(lora.scale)  # same order of operations as in peft, for equal bits
            layer.weight.data = update.add_(layer.weight).to(dtype)  # weights may be memory-mapped: a copy is cheaper
    return True


def _target_layers(model: PreTrainedModel, lora: PlainLora) -> dict[str, torch.nn.Linear]:
    """Return the adapter's target layers by name; empty unless all are fp32 linear layers other than the output matrix."""
    names = {name: module for name, module in model.named_modules() if _is_target(name, lora.targets)}
    head = model.get_output_embeddings()
    layers = {
        name: module for name, module in names.items()
        if type(module) in LINEAR and module is not head and module.weight.dtype == torch.float32
    }  # fmt: skip
    return layers if len(layers) == len(names) else {}


def _is_target(name: str, targets: tuple[str, ...]) -> bool:
    return name in targets or any(name.endswith(f".{target}") for target in targets)


def _wanted_shapes(layers: dict[str, torch.nn.Linear], rank: int) -> Shapes:
    """Return the shapes of the LoRA factors of these layers, by name."""
    wanted: Shapes = {}
    for name, layer in layers.items():
        wanted[f"{PREFIX}{name}.lora_A.weight"] = [rank, layer.in_features]
        wanted[f"{PREFIX}{name}.lora_B.weight"] = [layer.out_features, rank]
    return wanted
