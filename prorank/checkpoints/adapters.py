"""Adapters: read what one says of itself, put it over its base, and merge it where that changes nothing.

Merging is checked by a forward before and after it, so whatever peft learns to train, a merged model scores as peft's own does.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from ..engine.modules import base_of, merge
from ..errors import ModelError, first_line
from .weights import ADAPTER, check_report, read_json, readable

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"
# Tasks with a head of their own, which a causal model has no place for.
HEADS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM")
# Methods that put vectors before the prompt or into attention in place of changing weights.
PROMPT_METHODS = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "ADAPTION_PROMPT", "CARTRIDGE", "CPT")
SHARED = re.compile(r"vblora_vector_bank|unilora_theta_d|\.tinylora_v\.")  # weights that layers share: stored once, elsewhere
SAVED = ".modules_to_save"
WRAPPED = re.compile(r"(\.(token_adapter|base_layer|original_module|modules_to_save|lora_B))+$")  # inside a module that peft wraps
TOLERANCE = 1e-3  # of the largest logit, between the merged model and peft's own
PROBE = 8  # tokens


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter's settings. Raises ModelError for a damaged file, and for adapters that cannot be used as a reranker."""
    config = read_json(folder / CONFIG)
    task, kind = config.get("task_type"), str(config.get("peft_type") or "")
    if task in HEADS:
        why = f"it was trained for task {task}, whose score head a causal model has no place for"
        raise ModelError(f"{folder}: {why}; train an adapter of task CAUSAL_LM, or merge it into its classifier and serve that")
    if kind in PROMPT_METHODS:
        why = f"{kind} puts vectors before the prompt, which cannot be merged into weights"
        raise ModelError(f"{folder}: {why}; train an adapter of weights, such as LORA")
    return config


def with_adapter(model: PreTrainedModel, folder: Path, base: Path, train: bool) -> PreTrainedModel:
    """The fp32 model with the adapter of `folder`: merged, or kept apart and trainable with `train`, in peft's model, which passes
    on what it does not have itself.

    Raises:
        ModelError: the adapter's weights are not those that the model needs for it, or merging it would change the scores.
    """
    _fit_vocabulary(model, folder)
    applied = _applied(model, folder, train)
    for config in applied.peft_config.values():  # where peft looks when it saves; a bare name it would ask a hub for
        config.base_model_name_or_path = str(base)
    if not train:
        return _merged(applied, folder)
    check_head(applied)
    return cast("PreTrainedModel", applied)


def vocabulary_rows(model: torch.nn.Module) -> int:
    """Rows of the model's input embeddings, which peft may have wrapped."""
    return cast("torch.nn.Embedding", base_of(model).get_input_embeddings()).weight.shape[0]


def check_head(model: torch.nn.Module) -> None:
    """Raise ModelError for an adapter on the output matrix of a model in training, which stages read without it."""
    head = base_of(model).get_output_embeddings()
    if any(hasattr(head, name) for name in ("base_layer", "original_module")):
        why = "the adapter changes the output matrix, which is read directly in training"
        raise ModelError(f"{why}; leave it out of the targets, or merge the adapter first (prorank export --format merged)")


def _applied(base: PreTrainedModel, folder: Path, train: bool) -> PeftModel:
    """peft's model, every weight of the file in it, and none of its own left as it was made."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, of what is checked below or nothing that a user could mend
        try:
            model = PeftModel.from_pretrained(base, folder, is_trainable=train)
            report = model.load_adapter(folder, "default", is_trainable=train)
        except KeyError as error:  # a module that was trained whole
            raise ModelError(f"{folder / ADAPTER}: lacks the weight '{error.args[0]}'; copy the adapter again") from error
        except Exception as error:
            raise ModelError(f"{folder}: the adapter does not fit its base ({_reason(error)})") from error
    missing = [name.replace(".default", "") for name in report.missing_keys if not SHARED.search(name)]
    unexpected = set(report.unexpected_keys)
    if any(SAVED in name for name in unexpected):  # peft writes some twice: as such, and under the module's own name
        held = set(_shapes(folder / ADAPTER))
        unexpected = {name for name in unexpected if SAVED not in name or name.replace(SAVED, "") not in held}
    check_report(folder / ADAPTER, {"missing_keys": missing, "unexpected_keys": unexpected})
    return model


def _shapes(file: Path) -> dict[str, list[int]]:
    """Shapes by name of the weights in a file."""
    from safetensors import safe_open

    with readable(file), safe_open(file, framework="pt") as handle:
        return {key: handle.get_slice(key).get_shape() for key in handle.keys()}


def _reason(error: Exception) -> str:
    """In one line: of several lines those that name the first weight."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]).replace("\t", " ")[:400] if lines else first_line(error)


def _fit_vocabulary(model: PreTrainedModel, folder: Path) -> None:
    """Give the base as many rows of embeddings as an adapter has that was trained after tokens were added."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if module is embeddings or (head is not None and module is head)]
    rows = {_rows(key, shape, names) for key, shape in _shapes(folder / ADAPTER).items()} - {0, vocabulary_rows(model)}
    if len(rows) > 1:
        raise ModelError(f"{folder / ADAPTER}: its embeddings have {' and '.join(map(str, sorted(rows)))} rows; copy it again")
    if rows:
        model.resize_token_embeddings(rows.pop(), mean_resizing=False)


def _rows(key: str, shape: list[int], names: list[str]) -> int:
    """Rows of the vocabulary that a weight of an adapter was made for; 0 for all that do not tell."""
    module, _, weight = key.removeprefix("base_model.model.").rpartition(".")
    if weight == "lora_embedding_A" and module in names:
        return shape[1]
    return shape[0] if weight == "weight" and WRAPPED.sub("", module) in names else 0


def _merged(model: PeftModel, folder: Path) -> PreTrainedModel:
    """The base with the adapter in its weights. Raises ModelError where its logits are not those of peft's model."""
    want = _logits(model)
    if not torch.isfinite(want).all():
        raise ModelError(f"{folder}: its logits are not finite; the weights are damaged or its training diverged")
    try:
        merged = merge(model)
    except Exception as error:  # methods that cannot be merged raise errors of many kinds
        why = f"this adapter cannot be merged ({first_line(error)})"
        raise ModelError(f"{folder}: {why}; train one that can, such as LORA") from error
    difference = float((_logits(merged) - want).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(want.abs().max())):
        raise ModelError(f"{folder}: merged, its logits differ by {difference:.2g}; merge it with the library that trained it")
    return merged.requires_grad_(True)  # peft froze what lies below an adapter


@torch.inference_mode()
def _logits(model: torch.nn.Module) -> torch.Tensor:
    """Logits [PROBE, vocabulary] of a few tokens from all over the vocabulary."""
    ids = torch.linspace(0, vocabulary_rows(model) - 1, PROBE).long()[None]
    return model(input_ids=ids, use_cache=False).logits[0].float()
