"""Write a checkpoint as ONNX graphs, in fp32 and int8, with its tokenizer: for onnxruntime, onnxruntime-web and transformers.js.

The files lie where transformers.js looks for them: onnx/model.onnx, onnx/model_quantized.onnx, config.json, tokenizer.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..engine.heads import exceeds
from ..errors import ModelError
from ..prompts.pair_encoder import PairPromptEncoder
from ..utils.files import atomic_folder
from .classifier import Classifier, make_classifier, probe_batch, save_tokenizer
from .export_result import ExportResult
from .notes import Source
from .onnx_graph import make_graph, quantize_graph, run_graph, save_graph
from .onnx_notes import onnx_notes
from .outliers import outlier_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FP32_FILE, INT8_FILE = "onnx/model.onnx", "onnx/model_quantized.onnx"  # transformers.js: dtype "fp32" and "q8"
DTYPES = ("fp32", "int8")
TOLERANCE = 1e-3  # of logits in fp32; relative to the largest score if that exceeds 1


def export_onnx(
    folder: Path, model: PreTrainedModel, encoder: PairPromptEncoder, dtype: str, template: bool, source: Source
) -> ExportResult:
    """Save the graphs with tokenizer, prompt and notes, if the one in fp32 gives the same scores as the model.

    Args:
        folder: folder to create.
        model: the causal LM, in fp32.
        encoder: encoder of its prompt.
        dtype: "fp32" writes both graphs, "int8" that in int8 only.
        template: make the prompt part of the tokenizer.
        source: the exported checkpoint.

    Raises:
        ModelError: a graph cannot express the model, or its logits differ from the scores.
        PromptError: a pair template cannot express the prompt.
    """
    classifier = make_classifier(model, encoder, template)
    graph = make_graph(classifier.model)
    body = getattr(classifier.model, classifier.model.base_model_prefix)
    kept = outlier_layers(body, [encoder.encode(*pair).ids for pair in classifier.pairs])
    with atomic_folder(folder) as beside:
        (beside / "onnx").mkdir()
        apart = save_graph(graph, beside / FP32_FILE)
        if apart and dtype == "fp32":
            sizes = {"use_external_data_format": {Path(FP32_FILE).name: 1}}  # number of files of weights
            setattr(classifier.model.config, "transformers.js_config", sizes)
        classifier.model.config.save_pretrained(beside)
        save_tokenizer(beside, classifier.tokenizer, encoder, template)
        difference = _difference(beside, FP32_FILE, classifier, encoder, template)
        if exceeds(difference, classifier.scores, TOLERANCE):
            raise ModelError(f"{folder}: the graph's logits differ by {difference:.1e} from the scores; nothing was written")
        quantize_graph(beside / FP32_FILE, beside / INT8_FILE, kept)
        int8_difference = _difference(beside, INT8_FILE, classifier, encoder, template)
        if not np.isfinite(int8_difference):
            raise ModelError(f"{folder}: the int8 graph's logits are not finite; nothing was written")
        if dtype == "int8":
            for file in (beside / "onnx").glob(f"{Path(FP32_FILE).name}*"):
                file.unlink()
        result = ExportResult(folder, "onnx", "", difference, len(classifier.pairs), int8_difference)
        files = [name for name in (FP32_FILE, INT8_FILE) if (beside / name).exists()]
        notes = onnx_notes(result, encoder, files, kept, template, source)
        (beside / "README.md").write_text(notes, encoding="utf-8")
    return result


def _difference(folder: Path, file: str, classifier: Classifier, encoder: PairPromptEncoder, template: bool) -> float:
    """Return the largest difference between a graph's logits and the scores, for padding on either side."""
    batches = [probe_batch(folder, encoder, classifier.pairs, template, side) for side in ("right", "left")]
    return float(np.abs(run_graph(folder / file, batches) - classifier.scores.numpy()).max())
