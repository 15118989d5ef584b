"""Weights of a GGUF file whose rank pooling gives the score.

llama.cpp's rank pooling reads the last token's hidden state. For `qwen3` it multiplies it with the class outputs `cls.output` and
applies a softmax. For `llama` and `qwen2` it has no class outputs and returns the hidden state's first component. There, the basis
of the residual stream is changed by a reflection (Householder 1958) whose first axis is the direction of the score: the norms'
weights are multiplied into the matrices that follow them, because a norm without weights does not depend on the basis (SliceGPT,
arXiv 2401.15024, theorem 1). All scores stay the same.

Sources: `llm_graph_context::build_pooling` in llama.cpp's src/llama-graph.cpp; permutation of the heads in its
conversion/llama.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..engine.heads import answer_rows
from ..engine.modules import body
from ..errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NORM_OF = {"self_attn": "input_layernorm", "mlp": "post_attention_layernorm"}  # the norm before each block's reading matrices
READ_BY = re.compile(r"layers\.\d+\.(self_attn|mlp)\.(q|k|v|gate|up)_proj\.weight$")
WRITTEN_BY = re.compile(r"layers\.\d+\.(self_attn\.o|mlp\.down)_proj\.weight$")
NORMS = re.compile(r"layers\.\d+\.(input|post_attention)_layernorm\.weight$")
HEADS = re.compile(r"layers\.\d+\.self_attn\.([qk])_proj\.weight$")
EMBEDDINGS, LAST_NORM, CLASSES = "embed_tokens.weight", "norm.weight", "cls.output.weight"
# Settings with the only value that is exported, by architecture. Other values change what llama.cpp would have to compute.
PLAIN: dict[str, dict[str, tuple]] = {
    "llama": {"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,)},
    "qwen2": {"hidden_act": ("silu",), "use_sliding_window": (False,)},
    "qwen3": {"hidden_act": ("silu",), "attention_bias": (False,), "use_sliding_window": (False,)},
}
CLASS_OUTPUTS = ("qwen3",)  # architectures for which llama.cpp reads class outputs


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of the file.

    Attributes:
        name: its name in the file.
        shape: its shape, as in torch.
        make: computes it, in fp32.
    """

    name: str
    shape: tuple[int, ...]
    make: Callable[[], torch.Tensor]


def check_architecture(config: Any) -> str:
    """Return llama.cpp's name of a model's architecture.

    Raises:
        ModelError: the architecture, or one of its settings, cannot be exported.
    """
    kind, refusal = config.model_type, "use --format merged"
    if kind not in PLAIN:
        raise ModelError(f"architecture {kind} cannot be exported to GGUF, only {', '.join(PLAIN)}; {refusal}")
    for key, plain in PLAIN[kind].items():
        if getattr(config, key, plain[0]) not in plain:
            raise ModelError(f"{kind} with {key}={getattr(config, key)} cannot be exported to GGUF; {refusal}")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default" or "rope_theta" not in rope:
        raise ModelError(f"{kind} with rotary positions of type {rope.get('rope_type')} cannot be exported to GGUF; {refusal}")
    head_dim = getattr(config, "head_dim", None)
    if kind == "qwen2" and head_dim and head_dim * config.num_attention_heads != config.hidden_size:
        raise ModelError(f"qwen2 with head_dim={head_dim} cannot be exported to GGUF, where heads share the width; {refusal}")
    return kind


@torch.inference_mode()
def gguf_tensors(model: PreTrainedModel, answer_ids: tuple[int, int], rows: list[int]) -> Iterator[GgufTensor]:
    """Yield the tensors of the file.

    Args:
        model: the causal LM, in fp32, of an architecture that `check_architecture` knows.
        answer_ids: ids of the answers (not relevant, relevant).
        rows: row of the model's embeddings for each token of the file.

    Raises:
        ModelError: the head has a bias, both answers have the same row, or a weight is unknown.
    """
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

    kind = check_architecture(model.config)
    head, bias = answer_rows(model, answer_ids)
    if float((bias[1] - bias[0]).detach()):
        raise ModelError(f"{type(model).__name__}: its head has a bias, which GGUF's rank pooling cannot have; use --format merged")
    weights = {name: weight.detach().float() for name, weight in body(model)[0].named_parameters()}
    architecture = next(one for one in MODEL_ARCH if MODEL_ARCH_NAMES[one] == kind)
    names = get_tensor_name_map(architecture, model.config.num_hidden_layers)
    reflection = None if kind in CLASS_OUTPUTS else Reflection.onto((head[1] - head[0]) * weights[LAST_NORM])
    for name, weight in weights.items():
        shown = names.get_name(f"model.{name}", try_suffixes=(".weight", ".bias"))
        if shown is None:
            raise ModelError(f"{type(model).__name__}: its weight '{name}' has no place in a GGUF file; use --format merged")
        shape = (len(rows), *weight.shape[1:]) if name == EMBEDDINGS else tuple(weight.shape)
        yield GgufTensor(shown, shape, lambda name=name: _make(name, weights, model.config, rows, reflection))  # type: ignore[misc]
    if reflection is None:
        yield GgufTensor(CLASSES, tuple(head.shape), lambda: head.flip(0))  # relevant first, whose probability is the score


def _make(
    name: str, weights: dict[str, torch.Tensor], config: Any, rows: list[int], reflection: Reflection | None
) -> torch.Tensor:
    """Return a tensor of the file in fp32: reflected if there is a reflection, and in llama.cpp's order."""
    weight = weights[name]
    if reflection is not None:
        weight = reflection.apply(name, weights)
    if name == EMBEDDINGS:
        return weight[torch.tensor(rows)]
    match = HEADS.search(name)
    if config.model_type != "llama" or match is None:
        return weight
    # llama.cpp rotates neighbouring components of a head, transformers those half a head apart.
    heads = config.num_attention_heads if match[1] == "q" else config.num_key_value_heads
    return weight.view(heads, 2, len(weight) // heads // 2, -1).transpose(1, 2).reshape(weight.shape)


@dataclass(frozen=True)
class Reflection:
    """A reflection of the residual stream onto a basis in which the score is the first component times a factor.

    Attributes:
        normal: unit normal of the mirror [H], fp64.
        factor: score divided by the first component of the reflected, normalised stream.
    """

    normal: torch.Tensor
    factor: float

    @classmethod
    def onto(cls, direction: torch.Tensor) -> Reflection:
        """Make the reflection that maps a direction [H] onto the first axis. Raises ModelError if the direction is zero."""
        direction = direction.double()
        length = float(direction.norm())
        if not length > 0:
            raise ModelError("the model's output rows of both answers are equal, so that all scores are zero; choose other answers")
        sign = -1.0 if direction[0] > 0 else 1.0  # the axis farther away, for accuracy
        normal = direction / length
        normal[0] -= sign
        return cls(normal / normal.norm(), sign * length)

    def rows(self, matrix: torch.Tensor) -> torch.Tensor:
        """Reflect the rows of a matrix [N, H]."""
        return matrix - 2 * torch.outer(matrix @ self.normal, self.normal)

    def apply(self, name: str, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the weight of this name for the reflected stream, in fp32."""
        weight = weights[name].double()
        if name == EMBEDDINGS:
            weight = self.rows(weight)
        elif match := READ_BY.search(name):
            layer = name.partition(f".{match[1]}.")[0]
            weight = self.rows(weight * weights[f"{layer}.{NORM_OF[match[1]]}.weight"].double())
        elif WRITTEN_BY.search(name):
            weight = self.rows(weight.T).T
        elif NORMS.search(name):
            weight = torch.ones_like(weight)
        elif name == LAST_NORM:
            weight = torch.ones_like(weight)
            weight[0] = self.factor
        return weight.float()
