"""A classifier as one ONNX graph: (input_ids, attention_mask) -> logits [batch, 1], which are the scores; and its int8 form.

The names and shapes of inputs and output are those of `...ForSequenceClassification` in optimum and transformers.js.
"""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import ModelError, extra, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INPUTS, OUTPUT = ("input_ids", "attention_mask"), "logits"
OPSET = 18  # of torch's exporter; onnxruntime from 1.14 reads it, in browsers too
FILE_LIMIT = 2_000_000_000  # bytes of weights in one file, because protobuf has a limit of 2 GiB
SCOPES = "pkg.torch.onnx.name_scopes"  # torch's note of a node's modules
# onnxruntime's mark of graphs that are ready for quantisation, as torch's exporter makes them; without it a warning is logged.
PRE_PROCESSED = {"onnx.quant.pre_process": "onnxruntime.quant"}
CHANGING_ROTATIONS = ("dynamic", "longrope")  # their frequencies depend on the length of the batch, which a graph cannot express


class ScoreGraph(torch.nn.Module):
    """What becomes the graph: the body of a causal LM and the score at the last token that is not padding.

    Attributes:
        body: the body.
        row: weights [H] of the score.
    """

    def __init__(self, classifier: PreTrainedModel) -> None:
        super().__init__()
        self.body: Any = getattr(classifier, classifier.base_model_prefix)
        head: Any = classifier.score
        self.row = head.weight[0]

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return logits [B, 1].

        Args:
            input_ids: int64 [B, L], padded on the right or on the left.
            attention_mask: int64 [B, L], 0 for padding.
        """
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        out = self.body(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False)
        last = (attention_mask * torch.arange(input_ids.shape[1])).amax(-1)
        hidden = out.last_hidden_state[torch.arange(input_ids.shape[0]), last]
        return (hidden * self.row).sum(-1, keepdim=True)  # elementwise: a matrix product would be quantised


def check_onnx() -> None:
    """Raise MissingExtra or BrokenExtra unless the packages of the extra "onnx" can be imported."""
    with extra("onnx"):
        import onnx_ir  # noqa: F401
        import onnxruntime.quantization  # noqa: F401  # needs onnx
        import onnxscript  # noqa: F401  # torch's exporter needs it


def make_graph(classifier: PreTrainedModel) -> Any:
    """Return a classifier's graph (onnx_ir.Model), which shares its weights in fp32.

    Args:
        classifier: from `build_classifier`; its body is left with eager attention.

    Raises:
        ModelError: a graph cannot express the model.
    """
    kind = type(classifier).__name__
    rotation = (getattr(classifier.config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rotation in CHANGING_ROTATIONS:
        raise ModelError(f"{kind}: rope_type={rotation} depends on the length of a batch, which ONNX cannot express")
    graph = ScoreGraph(classifier).eval()
    graph.body.set_attn_implementation("eager")  # gives finite values where the mask hides every token, as in left padding
    ids = torch.arange(16).reshape(2, 8)  # neither dimension is 1, which would become a constant
    mask = torch.tensor([[1] * 8, [0] * 2 + [1] * 6])
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                graph, (ids, mask), input_names=list(INPUTS), output_names=[OUTPUT], opset_version=OPSET, dynamo=True,
                dynamic_shapes=(free, free), verbose=False,
            )  # fmt: skip
    except Exception as error:  # torch's exporter raises many kinds
        raise ModelError(f"{kind}: torch cannot export it to ONNX ({first_line(error)}); use --format seq-cls") from error
    assert program is not None  # None is the answer of the old exporter
    return _without_notes(program.model)


def _without_notes(model: Any) -> Any:
    """Name matrix products by their module, and remove torch's notes, which name source files of this machine, in place."""
    values = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
    for node in model.graph.all_nodes():
        values += node.outputs
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))  # of the model, its modules down to the node's, the node
        if node.op_type == "MatMul" and len(scopes) > 2:
            node.name = f"{scopes[-2]}/{scopes[-1]}"
        node.metadata_props.clear()
        node.doc_string = None
    for value in values:
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    model.metadata_props.update(PRE_PROCESSED)
    return model


def save_graph(model: Any, path: Path) -> bool:
    """Save a graph; more than FILE_LIMIT bytes of weights go into `<name>_data` beside it, where transformers.js looks for them.

    Args:
        model: the graph (onnx_ir.Model).
        path: file to write.

    Returns:
        Whether the weights are in a file beside `path`.

    Raises:
        ModelError: even the int8 form would be too large for one file.
    """
    with extra("onnx"):
        import onnx_ir

    size = sum(weight.const_value.nbytes for weight in model.graph.initializers.values())
    if size > 4 * FILE_LIMIT:
        raise ModelError(f"{size / 1e9:.1f} GB of weights in fp32 are too many for an int8 ONNX file of 2 GB; use --format seq-cls")
    apart = size > FILE_LIMIT
    onnx_ir.save(model, path, external_data=f"{path.name}_data" if apart else None)
    return apart


def quantize_graph(path: Path, out: Path, kept: Sequence[str] = ()) -> None:
    """Write the int8 form of a saved graph: weights of linear layers by output channel, activations by tensor at run time.

    The score's own row stays in fp32, as in our engine.

    Args:
        path: graph in fp32.
        out: file to write.
        kept: names of linear layers in the body that stay in fp32.
    """
    with extra("onnx"):
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = [node.name for node in onnx.load(path, load_external_data=False).graph.node if node.op_type == "MatMul"]
    excluded = [node for node in nodes if node.rpartition("/")[0] in {f"body.{name}" for name in kept}]
    assert len(excluded) == len(kept), "torch names nodes otherwise"
    quantize_dynamic(
        path, out, op_types_to_quantize=["MatMul", "Gather"], per_channel=True, weight_type=QuantType.QInt8,
        nodes_to_exclude=excluded,
    )  # fmt: skip


def open_graph(path: Path) -> Any:
    """Return an onnxruntime session of a saved graph, on the CPU with as many threads as torch has."""
    with extra("onnx"):
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_graph(path: Path, batches: Sequence[Any]) -> np.ndarray:
    """Return the logits [N, B] of N batches in onnxruntime on the CPU.

    Args:
        path: saved graph.
        batches: N times `input_ids` and `attention_mask`, integer tensors or arrays [B, L].
    """
    session = open_graph(path)
    feeds = [{name: np.asarray(batch[name], dtype=np.int64) for name in INPUTS} for batch in batches]
    return np.stack([session.run([OUTPUT], feed)[0][:, 0] for feed in feeds])


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings of torch's exporter."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
