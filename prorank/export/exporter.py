"""Write a checkpoint for other servers: a one-logit classifier, ONNX graphs, a GGUF file, or a causal model without adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..checkpoints.card import hub_base, merged_card, read_card
from ..checkpoints.loading import load_config, load_model, load_tokenizer, without_bars
from ..checkpoints.resolve import Resolved, licence_of, prompt_of, resolve
from ..checkpoints.saving import save_checkpoint
from ..engine.heads import exceeds
from ..engine.modules import cast_weights, room_for_prompts
from ..errors import ConfigError, ModelError, nearest
from ..prompts.pair_encoder import PairPromptEncoder
from ..prompts.prompt import Prompt
from ..utils.files import atomic_folder, check_folder
from .classifier import classifier_logits, make_classifier, save_tokenizer
from .export_result import ExportResult
from .gguf_export import check_gguf, export_gguf
from .gguf_file import FILE as GGUF_FILE
from .gguf_file import TYPES as GGUF_TYPES
from .gguf_notes import server_command
from .notes import Source, causal_command, classifier_notes, serve_command
from .onnx_export import DTYPES as ONNX_DTYPES
from .onnx_export import export_onnx
from .onnx_graph import check_onnx
from .pair_template import max_pair_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Types of the written weights by format; the first is the default.
FORMATS = {
    "seq-cls": tuple(DTYPES), "onnx": tuple(ONNX_DTYPES), "merged": tuple(DTYPES),
    "gguf": tuple(GGUF_TYPES),
}  # fmt: skip
ONE_DOCUMENT = {"seq-cls": "a classifier reads one", "onnx": "a classifier reads one", "gguf": "llama.cpp ranks by one"}
TOLERANCE = 1e-4  # of the classifier's logits in fp32; relative to the largest score if that exceeds 1


def export(
    model: str | Path, out: str | Path, format: str = "seq-cls", dtype: str | None = None, template: bool = True,
    prompt: Any = None, instruction: str | None = None, max_length: int | None = None, base: str | Path | None = None,
    trust_remote_code: bool = False,
) -> ExportResult:  # fmt: skip
    """Write a checkpoint into a new folder for other libraries and servers.

    Args:
        model: the checkpoint, see `Reranker`.
        out: folder to create; it must be empty or not exist.
        format: "seq-cls" (a ...ForSequenceClassification whose one logit is the score), "onnx" (the same as a graph), "merged" (a
            causal LM, no adapter) or "gguf" (a file that llama.cpp ranks with).
        dtype: dtype of the written weights, "fp32" (the default) or "bf16". For "onnx": "fp32" (a graph in fp32 and one in int8) or
            "int8" (the second alone). For "gguf": "fp16" (the default), "fp32", "bf16", "q8_0" or "q4_0".
        template: make the Prompt part of the classifier's tokenizer; otherwise callers have to render it. GGUF files contain it.
        prompt, max_length, base, trust_remote_code: see `Reranker`.
        instruction: replaces the Prompt's default instruction.

    Raises:
        ConfigError: the format or dtype is unknown, the folder is not empty, or the prompt of a classifier or GGUF file shows
            several documents.
        ModelError: the model cannot be a classifier, graph or GGUF file, or its scores differ.
        PromptError: a pair template or llama.cpp cannot express the Prompt.
        MissingExtra: "onnx" without the extra "onnx".
    """
    folder = Path(out)
    dtype = _check(folder, format, dtype, template)
    resolved, changes = resolve(model, base, trust_remote_code), {"instruction": instruction, "max_length": max_length}
    chosen = Prompt.of(prompt or prompt_of(resolved), **{key: value for key, value in changes.items() if value is not None})
    if chosen.lists and format in ONE_DOCUMENT:
        raise ConfigError(f"prompt {chosen.name} shows several documents, but {ONE_DOCUMENT[format]}; use --format merged")
    tokenizer = load_tokenizer(resolved)
    (chosen.bind_list if chosen.lists else chosen.bind)(tokenizer)  # raises errors before the weights are loaded
    if format == "gguf":
        check_gguf(load_config(resolved), chosen.bind(tokenizer))
    loaded = load_model(resolved, torch.float32, torch.device("cpu"))
    source = Source(resolved.name, hub_base(resolved.name, resolved.folder), licence_of(resolved.name, resolved.folder))
    if format == "merged":
        return _export_merged(folder, loaded, chosen, tokenizer, dtype, _merged_card(folder, source, resolved, dtype, chosen))
    encoder = chosen.bind(tokenizer, room_for_prompts(loaded)).direct()
    if format == "onnx":
        return export_onnx(folder, loaded, encoder, dtype, template, source)
    if format == "gguf":
        compared = export_gguf(folder, loaded, encoder, dtype, source)
        command = server_command(folder / GGUF_FILE, encoder)
        return ExportResult(folder, format, command, *compared, server="llama-server")
    return _export_classifier(folder, loaded, encoder, DTYPES[dtype], template, source)


def _check(folder: Path, format: str, dtype: str | None, template: bool) -> str:
    """Return the dtype, or the format's default.

    Raises ConfigError for a folder that is not empty or unknown values, MissingExtra if packages are missing.
    """
    if format not in FORMATS:
        raise ConfigError(f"unknown format '{format}'{nearest(format, FORMATS)}")
    dtype = dtype or FORMATS[format][0]
    if dtype not in FORMATS[format]:
        raise ConfigError(f"unknown dtype '{dtype}'{nearest(dtype, FORMATS[format])}")
    if format == "gguf" and not template:
        raise ConfigError("a GGUF file always contains the prompt; omit --no-template, or use --format merged")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: already exists; name a new folder, or remove it first")
    check_folder(folder)
    if format == "onnx":
        check_onnx()
    return dtype


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
        if dtype == torch.float32 and exceeds(difference, scores, TOLERANCE):
            raise ModelError(f"{folder}: the classifier's logits differ by {difference:.1e} from the scores; nothing was written")
    return ExportResult(folder, "seq-cls", serve_command(folder, template), difference, len(pairs))
