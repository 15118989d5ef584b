"""Plain LoRA adapters, merged without peft: W + scale * B @ A (Hu et al. 2021, arXiv 2106.09685, section 4.1).

Importing peft and wrapping each layer takes seconds; the sums themselves take a tenth. Only what is certain to be plain is merged
here. Unknown settings, targets that are no linear layers, missing and unexpected weights go through peft, which reports faults.
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

PREFIX = "base_model.model."  # peft puts it before the names of the base's modules
# Settings that do not change what an adapter of plain LoRA computes, whatever their value. The three of LORA are read.
WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "revision", "target_modules", "task_type",
}  # fmt: skip
LORA = {"r", "lora_alpha", "use_rslora"}
PLAIN_INIT = (True, False, "gaussian")  # other initialisations change the base's weights, too
LINEAR = (torch.nn.Linear, EmptyLinear)
Shapes = dict[str, list[int]]


@dataclass(frozen=True)
class PlainLora:
    """What a plain adapter is made of.

    Attributes:
        scale: factor of B @ A: alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA (arXiv 2312.03732).
        rank: r, the inner dimension of B [out, r] @ A [r, in].
        targets: names of the modules, or last parts of their names.
    """

    scale: float
    rank: int
    targets: tuple[str, ...]


def read_plain_lora(config: dict[str, Any]) -> PlainLora | None:
    """The adapter that these settings (of `adapter_config.json`) describe; None if anything in them is more than plain LoRA."""
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
        folder: of the adapter.
        shapes: shapes by name of the weights in its file.
        dtype: to which the sums are rounded.

    Returns:
        Whether it was merged. False if the file does not hold exactly the factors that the model's linear layers need; then nothing
        was changed.
    """
    layers = _target_layers(model, lora)
    if not layers or shapes != _wanted_shapes(layers, lora.rank):
        return False
    from safetensors import safe_open

    with readable(folder / ADAPTER), safe_open(folder / ADAPTER, framework="pt") as handle, torch.no_grad():
        for name, layer in layers.items():
            down, up = (handle.get_tensor(f"{PREFIX}{name}.lora_{factor}.weight").float() for factor in "AB")
            update = (up @ down).mul_(lora.scale)  # in the order in which peft multiplies, so that the last bits are the same
            layer.weight.data = update.add_(layer.weight).to(dtype)  # the weights may lie in a mapped file: a copy is cheaper
    return True


def _target_layers(model: PreTrainedModel, lora: PlainLora) -> dict[str, torch.nn.Linear]:
    """The modules that the adapter changes, by name; none unless each is a linear layer in fp32 that is not the output matrix."""
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
    """Shapes by name of the factors of these layers."""
    wanted: Shapes = {}
    for name, layer in layers.items():
        wanted[f"{PREFIX}{name}.lora_A.weight"] = [rank, layer.in_features]
        wanted[f"{PREFIX}{name}.lora_B.weight"] = [layer.out_features, rank]
    return wanted
