"""Write a checkpoint for other servers: a one-logit classifier, ONNX graphs, or a plain causal model with its adapter merged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..checkpoints.card import hub_base, merged_card, read_card
from ..checkpoints.loading import load_model, load_tokenizer, without_bars
from ..checkpoints.resolve import Resolved, licence_of, prompt_of, resolve
from ..checkpoints.saving import save_checkpoint
from ..engine.modules import cast_weights, room_for_prompts
from ..errors import ConfigError, ModelError, nearest
from ..prompts.pair_encoder import PairPromptEncoder
from ..prompts.prompt import Prompt
from ..utils.files import atomic_folder, check_folder
from .classifier import classifier_logits, make_classifier, save_tokenizer
from .export_result import ExportResult
from .notes import Source, causal_command, classifier_notes, serve_command
from .onnx_export import DTYPES as ONNX_DTYPES
from .onnx_export import export_onnx
from .onnx_graph import check_onnx
from .pair_template import max_pair_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMATS = ("seq-cls", "onnx", "merged")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = 1e-4  # of the classifier's logits in fp32; relative to the largest score if that exceeds 1


def export(
    model: str | Path, out: str | Path, format: str = "seq-cls", dtype: str = "fp32", template: bool = True, prompt: Any = None,
    instruction: str | None = None, max_length: int | None = None, base: str | Path | None = None, trust_remote_code: bool = False,
) -> ExportResult:  # fmt: skip
    """Write a checkpoint into a new folder for other libraries and servers.

    Args:
        model: the checkpoint, see `Reranker`.
        out: folder to create; it must be empty or not exist.
        format: "seq-cls" (a ...ForSequenceClassification whose one logit is the score), "onnx" (the same as a graph) or "merged"
            (a causal LM, no adapter).
        dtype: dtype of the written weights, "fp32" or "bf16". For "onnx": "fp32" (a graph in fp32 and one in int8) or "int8" (the
            second alone).
        template: make the Prompt part of the classifier's tokenizer; otherwise callers have to render it.
        prompt, max_length, base, trust_remote_code: see `Reranker`.
        instruction: replaces the Prompt's default instruction.

    Raises:
        ConfigError: the format or dtype is unknown, the folder is not empty, or the prompt of a classifier shows several documents.
        ModelError: the model cannot be a classifier or a graph, or its logits differ from the scores.
        PromptError: a pair template cannot express the Prompt.
        MissingExtra: "onnx" without the extra "onnx".
    """
    folder = Path(out)
    _check(folder, format, dtype)
    resolved, changes = resolve(model, base, trust_remote_code), {"instruction": instruction, "max_length": max_length}
    chosen = Prompt.of(prompt or prompt_of(resolved), **{key: value for key, value in changes.items() if value is not None})
    if format != "merged" and chosen.lists:
        raise ConfigError(f"prompt {chosen.name} shows several documents, but a classifier reads one; use --format merged")
    tokenizer = load_tokenizer(resolved)
    (chosen.bind_list if chosen.lists else chosen.bind)(tokenizer)  # raises errors before the weights are loaded
    loaded = load_model(resolved, torch.float32, torch.device("cpu"))
    source = Source(resolved.name, hub_base(resolved.name, resolved.folder), licence_of(resolved.name, resolved.folder))
    if format == "merged":
        return _export_merged(folder, loaded, chosen, tokenizer, dtype, _merged_card(folder, source, resolved, dtype, chosen))
    encoder = chosen.bind(tokenizer, room_for_prompts(loaded)).direct()
    if format == "onnx":
        return export_onnx(folder, loaded, encoder, dtype, template, source)
    return _export_classifier(folder, loaded, encoder, DTYPES[dtype], template, source)


def _check(folder: Path, format: str, dtype: str) -> None:
    """Raise ConfigError for a folder that is not empty, an unknown format or dtype; MissingExtra if packages are missing."""
    dtypes = ONNX_DTYPES if format == "onnx" else DTYPES
    for name, value, known in (("format", format, FORMATS), ("dtype", dtype, dtypes)):
        if value not in known:
            raise ConfigError(f"unknown {name} '{value}'{nearest(value, known)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: already exists; name a new folder, or remove it first")
    check_folder(folder)
    if format == "onnx":
        check_onnx()


def _merged_card(folder: Path, source: Source, resolved: Resolved, dtype: str, prompt: Prompt) -> str:
    base = str(resolved.base or "") if resolved.adapter else ""
    card = read_card(resolved.folder)
    return merged_card(str(folder), source.name, source.hub_id, source.licence, base, dtype, card, prompt.lists)


def _export_merged(folder: Path, model: PreTrainedModel, prompt: Prompt, tokenizer: Any, dtype: str, card: str) -> ExportResult:
    """Save the causal model, whose adapter was merged when it was loaded."""
    encoder = (prompt.bind_list if prompt.lists else prompt.bind)(tokenizer, room_for_prompts(model))
    save_checkpoint(folder, cast_weights(model, DTYPES[dtype]), encoder, card=card)
    return ExportResult(folder, "merged", causal_command(folder, model.config, encoder))


def _export_classifier(
    folder: Path, model: PreTrainedModel, encoder: PairPromptEncoder, dtype: torch.dtype, template: bool, source: Source
) -> ExportResult:
    """Save the classifier with tokenizer, prompt and notes, if the saved one gives the same scores as the model."""
    classifier = make_classifier(model, encoder, template)
    scores, pairs = classifier.scores, classifier.pairs
    cast_weights(classifier.model, dtype)
    with atomic_folder(folder) as beside:
        with without_bars():
            classifier.model.save_pretrained(beside)
        save_tokenizer(beside, classifier.tokenizer, encoder, template)
        notes = classifier_notes(folder, encoder, type(classifier.model).__name__, max_pair_tokens(encoder), template, source)
        (beside / "README.md").write_text(notes, encoding="utf-8")
        difference = float((classifier_logits(beside, encoder, pairs, template) - scores).abs().max())
        if dtype == torch.float32 and not difference <= TOLERANCE * max(1.0, float(scores.abs().max())):
            raise ModelError(f"{folder}: the classifier's logits differ by {difference:.1e} from the scores; nothing was written")
    return ExportResult(folder, "seq-cls", serve_command(folder, template), difference, len(pairs))
