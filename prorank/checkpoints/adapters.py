"""peft adapters: read their settings, load them with their base, and merge them into its weights.

Plain LoRA is merged without peft (see `plain_lora`). Other adapters are loaded and merged by peft, and the logits before and after
merging are compared, so a merged model scores like peft's unmerged model for every method.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from ..engine.heads import exceeds
from ..engine.modules import base_of, cast_weights, merge
from ..errors import ModelError, first_line
from .plain_lora import Shapes, merge_plain_lora, read_plain_lora
from .weights import ADAPTER, check_report, read_json, readable

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"
TASKS_WITH_HEAD = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM")
# These methods add vectors to the prompt or to attention, so they cannot be merged into weights.
PROMPT_METHODS = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "ADAPTION_PROMPT", "CARTRIDGE", "CPT")
SHARED_WEIGHTS = re.compile(r"vblora_vector_bank|unilora_theta_d|\.tinylora_v\.")  # shared by layers and stored once
SAVED = ".modules_to_save"
ADAPTER_NAME = ".default"  # name of peft's only adapter, which occurs in the reported weight names
WRAPPED = re.compile(r"(\.(token_adapter|base_layer|original_module|modules_to_save|lora_B))+$")  # inside modules that peft wraps
TOLERANCE = 1e-3  # maximum difference of logits between merged and unmerged model, relative to the largest logit
NUM_PROBE_TOKENS = 8


def read_config(folder: Path) -> dict[str, Any]:
    """Read the settings of an adapter (`adapter_config.json`).

    Raises:
        ModelError: the file is damaged, or this kind of adapter cannot be used for reranking.
    """
    config = read_json(folder / CONFIG)
    task, kind = config.get("task_type"), str(config.get("peft_type") or "")
    if task in TASKS_WITH_HEAD:
        why = f"it was trained for task {task}, and a causal model has no place for its score head"
        raise ModelError(f"{folder}: {why}; train an adapter of task CAUSAL_LM, or merge it into its classifier and serve that")
    if kind in PROMPT_METHODS:
        why = f"{kind} puts vectors before the prompt, which cannot be merged into weights"
        raise ModelError(f"{folder}: {why}; train an adapter of weights, such as LORA")
    return config


def with_adapter(model: PreTrainedModel, folder: Path, base: Path, train: bool) -> PreTrainedModel:
    """Load an adapter with its base.

    Args:
        model: the base in fp32, changed in place.
        folder: folder of the adapter.
        base: folder of the base, which a saved copy of the adapter names.
        train: keep the adapter separate and trainable, and return peft's model. Otherwise merge the adapter.

    Raises:
        ModelError: the adapter does not fit the model, or merging would change the scores.
    """
    shapes = _shapes(folder / ADAPTER)
    _fit_vocabulary(model, folder, shapes)
    if not train and merge_as_plain_lora(model, folder, shapes=shapes):
        return model
    applied = _applied(model, folder, train, set(shapes))
    for config in applied.peft_config.values():  # peft reads it when saving, and would query the hub for a bare name
        config.base_model_name_or_path = str(base)
    if not train:
        return _merged(applied, folder)
    check_head(applied)
    return cast("PreTrainedModel", applied)


def merge_as_plain_lora(
    model: PreTrainedModel, folder: Path, dtype: torch.dtype = torch.float32, shapes: Shapes | None = None
) -> bool:
    """Merge an adapter into a model in fp32, in place and without peft, if it is plain LoRA.

    Args:
        model: the base.
        folder: folder of the adapter.
        dtype: dtype that all weights are rounded to after merging.
        shapes: shapes of the adapter's weights by name; None to read them from its file.

    Returns:
        Whether the adapter was merged. If not, the model is unchanged.

    Raises:
        ModelError: a file is damaged, or the merged model's logits are not finite.
    """
    lora = read_plain_lora(read_config(folder))
    if lora is None or not merge_plain_lora(model, lora, folder, shapes or _shapes(folder / ADAPTER), dtype):
        return False
    cast_weights(model, dtype)
    _check_finite(_logits(model), folder)
    return True


def vocabulary_rows(model: torch.nn.Module) -> int:
    """Return the number of rows of the model's input embeddings, which peft may have wrapped."""
    return cast("torch.nn.Embedding", base_of(model).get_input_embeddings()).weight.shape[0]


def check_head(model: torch.nn.Module) -> None:
    """Raise ModelError if an adapter changes the output matrix, because training reads that matrix without the adapter."""
    head = base_of(model).get_output_embeddings()
    if any(hasattr(head, name) for name in ("base_layer", "original_module")):
        why = "the adapter changes the output matrix, which is read directly in training"
        raise ModelError(f"{why}; leave it out of the targets, or merge the adapter first (prorank export --format merged)")


def _applied(base: PreTrainedModel, folder: Path, train: bool, stored: set[str]) -> PeftModel:
    """Load the adapter with peft. Raises ModelError unless its file, with the `stored` names, contains exactly its weights."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of problems that are checked below or that users cannot fix
        try:
            model = PeftModel.from_pretrained(base, folder, is_trainable=train)
            report = model.load_adapter(folder, "default", is_trainable=train)
        except KeyError as error:  # a fully trained module
            raise ModelError(f"{folder / ADAPTER}: lacks the weight '{error.args[0]}'; copy the adapter again") from error
        except Exception as error:
            raise ModelError(f"{folder}: the adapter does not fit its base ({_reason(error)})") from error
    missing = [name.replace(ADAPTER_NAME, "") for name in report.missing_keys if not SHARED_WEIGHTS.search(name)]
    unexpected = {name.replace(ADAPTER_NAME, "") for name in report.unexpected_keys}
    if any(SAVED in name for name in unexpected):  # peft writes modules_to_save twice, also under the module's own name
        unexpected = {name for name in unexpected if SAVED not in name or name.replace(SAVED, "") not in stored}
    check_report(folder / ADAPTER, {"missing_keys": missing, "unexpected_keys": unexpected})
    return model


def _shapes(file: Path) -> Shapes:
    """Return the shapes of the weights in a file, by name."""
    from safetensors import safe_open

    with readable(file), safe_open(file, framework="pt") as handle:
        return {key: handle.get_slice(key).get_shape() for key in handle.keys()}


def _reason(error: Exception) -> str:
    """Return peft's message on one line. Of a long message, only the first two lines, which name the first weight."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]).replace("\t", " ")[:400] if lines else first_line(error)


def _fit_vocabulary(model: PreTrainedModel, folder: Path, shapes: Shapes) -> None:
    """Resize the base's embeddings for an adapter that was trained with added tokens."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if module is embeddings or (head is not None and module is head)]
    rows = {_rows(key, shape, names) for key, shape in shapes.items()} - {0, vocabulary_rows(model)}
    if len(rows) > 1:
        raise ModelError(f"{folder / ADAPTER}: its embeddings have {' and '.join(map(str, sorted(rows)))} rows; copy it again")
    if rows:
        model.resize_token_embeddings(rows.pop(), mean_resizing=False)


def _rows(key: str, shape: list[int], names: list[str]) -> int:
    """Return the vocabulary size that an adapter weight was made for; 0 if its shape does not depend on the vocabulary."""
    module, _, weight = key.removeprefix("base_model.model.").rpartition(".")
    if weight == "lora_embedding_A" and module in names:
        return shape[1]
    return shape[0] if weight == "weight" and WRAPPED.sub("", module) in names else 0


def _merged(model: PeftModel, folder: Path) -> PreTrainedModel:
    """Merge the adapter into the base. Raises ModelError if the logits differ from those of the unmerged model."""
    want = _logits(model)
    _check_finite(want, folder)
    try:
        merged = merge(model)
    except Exception as error:  # peft raises many kinds of errors for methods that cannot be merged
        why = f"this adapter cannot be merged ({first_line(error)})"
        raise ModelError(f"{folder}: {why}; train one that can, such as LORA") from error
    difference = float((_logits(merged) - want).abs().max())
    if exceeds(difference, want, TOLERANCE):
        raise ModelError(f"{folder}: merged, its logits differ by {difference:.2g}; merge it with the library that trained it")
    return merged.requires_grad_(True)  # peft froze the base


def _check_finite(logits: torch.Tensor, folder: Path) -> None:
    if not torch.isfinite(logits).all():
        raise ModelError(f"{folder}: its logits are not finite; the weights are damaged or its training diverged")


@torch.inference_mode()
def _logits(model: torch.nn.Module) -> torch.Tensor:
    """Return logits [NUM_PROBE_TOKENS, vocabulary] for tokens spread over the whole vocabulary."""
    ids = torch.linspace(0, vocabulary_rows(model) - 1, NUM_PROBE_TOKENS).long()[None]
    return model(input_ids=ids, use_cache=False).logits[0].float()
