"""The engine: runs the layers of a Llama-like model over a flat batch in few large steps, on a CPU or a GPU.

A forward pass makes four matrix products and one attention per layer, without padding and with each shared prefix computed once.
After the last attention it continues with the rows of the answers only. CPUs and GPUs differ in attention, see `Engine.attention`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ModelError
from .flat_attention import is_flat
from .int8 import Int8Linear, int8_layers, random_rotation
from .kernels import Kernels, inverse_rms, rescaled, rms_norm
from .layers import PackedLinear, layer_of, trainable_linear
from .packing import Batch
from .prefix_attention import attend, plan_of
from .sequence_attention import attend_sequences
from .sequences import Spans
from .shapes import padded_size, repeat_last
from .transformer import transformer_body

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# attention_fn(layer, q, k, v): attention of q [T, num_heads, head_dim], already scaled, over k and v [T, num_kv_heads, head_dim]
# and over stored keys and values, as [T, num_heads * head_dim].
AttentionFn = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
LAYERS = f"plain layers of {', '.join(MODEL_TYPES)}"


def is_supported(model: PreTrainedModel) -> bool:
    """Whether the engine supports the model: on a CPU or GPU, with flat attention and known layers, with or without adapters."""
    config = model.config
    silu = getattr(config, "hidden_act", "silu") == "silu"
    no_bias = not getattr(config, "mlp_bias", False) and not (config.model_type == "llama" and config.attention_bias)
    return config.model_type in MODEL_TYPES and silu and no_bias and is_flat(model)


def supports_decoding(model: PreTrainedModel) -> bool:
    """Whether generation and stored keys and values use the engine, too: on a CPU."""
    return is_supported(model) and _on_cpu(model)


def training_engine(model: PreTrainedModel, compiled: bool, dtype: torch.dtype) -> "Engine | None":
    """Return the engine for a model in training, or None to train through the layers of transformers.

    These are used under DDP and for unknown layers. On a GPU also without compiled steps, since plain ones keep more in memory.

    Args:
        model: the policy.
        compiled: see `Engine`.
        dtype: dtype of the products.
    """
    if hasattr(model, "module") or not is_supported(model) or not (compiled or _on_cpu(model)):
        return None
    return Engine(model, compiled, training_dtype=dtype)


def check_compiled(model: PreTrainedModel) -> None:
    """Raise ModelError if the engine does not support the model, because only steps of the engine are compiled."""
    if not is_supported(model):
        raise ModelError(f"compile needs a CPU or CUDA GPU and {LAYERS}, not {_describe(model)}; omit it")


def scoring_engine(model: PreTrainedModel, compiled: bool, int8: bool) -> "Engine | None":
    """Return the engine for scoring, or None for models that it does not support, which run by the layers of transformers.

    Args:
        model: a causal LM.
        compiled, int8: see `Engine`.

    Raises:
        ModelError: `compiled` or `int8` is requested, but the engine does not support the model.
    """
    if compiled:
        check_compiled(model)
    has_onednn = hasattr(torch.ops.onednn, "qlinear_pointwise") and torch.backends.mkldnn.is_available()
    if int8 and not (supports_decoding(model) and has_onednn):
        raise ModelError(f"int8 needs a CPU with oneDNN and {LAYERS}, not {_describe(model)}; use dtype bf16 or fp32")
    return Engine(model, compiled, int8) if is_supported(model) else None


def _on_cpu(model: PreTrainedModel) -> bool:
    return next(model.parameters()).device.type == "cpu"


def _describe(model: PreTrainedModel) -> str:
    return f"{model.config.model_type} on {next(model.parameters()).device.type}"


class Engine:
    """Computes the last hidden states at the answers of flat batches.

    Args:
        model: a causal LM for which `is_supported` holds; its weights are shared (int8: copied).
        compiled: compile the element-wise steps into fused ones (needs a C++ compiler and some seconds at the first call).
        int8: compute matrix products in int8: twice as fast on a CPU with VNNI or AMX, but less exact, see docs/speed.md.
        training_dtype: dtype of the products in training, where weights change and get gradients. None for scoring, in the dtype of
            the weights.

    Attributes:
        device: device of the weights.
    """

    def __init__(
        self, model: PreTrainedModel, compiled: bool = False, int8: bool = False, training_dtype: torch.dtype | None = None
    ) -> None:
        body, config = transformer_body(model), model.config
        attention = body.layers[0].self_attn
        self.embed, self.rotary, self.norm = body.embed_tokens, body.rotary_emb, body.norm.weight
        self.eps, self.int8, self.dtype = config.rms_norm_eps, int8, training_dtype or model.dtype
        self.head_dim, self.scaling = attention.head_dim, attention.scaling
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.device: torch.device = self.embed.weight.device
        self.kernels = Kernels(compiled)
        self.residual_rotation = random_rotation(config.hidden_size) if int8 else None
        make_linear = trainable_linear if training_dtype else PackedLinear.of
        with torch.no_grad():
            if self.residual_rotation is None:
                self.layers = [layer_of(layer, make_linear) for layer in body.layers]
            else:
                self.layers = int8_layers(body, self.residual_rotation)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the last hidden states [N, H] at the answers of a flat batch, in the model's dtype."""
        attention_fn = self.attention(batch.inputs["spans"])
        return self.run(batch.inputs["input_ids"][0], batch.inputs["position_ids"][0], batch.columns, attention_fn)

    def attention(self, spans: Spans) -> AttentionFn:
        """Return the attention over a batch: over sequences if the batch is on a GPU, else in runs of similar length."""
        sequences = spans.sequences
        if sequences is not None:
            return lambda _, q, k, v: attend_sequences(q, k, v, sequences, 1.0, self.dtype).flatten(1)
        plan = plan_of(spans, self.num_heads, self.num_kv_heads)
        return lambda _, q, k, v: attend(q, k, v, plan, self.kernels.softmax, self.dtype)

    def run(self, ids: torch.Tensor, positions: torch.Tensor, answers: torch.Tensor, attention_fn: AttentionFn) -> torch.Tensor:
        """Return the last hidden states [N, H] of some of the tokens.

        Args:
            ids: token ids [T].
            positions: position ids [T].
            answers: indices [N] of the tokens whose states are returned. With N = 0 it stops after the last layer's attention.
            attention_fn: see `AttentionFn`.
        """
        tokens, size = len(ids), padded_size(len(ids))
        ids, positions = repeat_last(ids, size), repeat_last(positions, size)
        columns = repeat_last(answers, padded_size(len(answers))) if len(answers) else answers
        with torch.autocast(self.device.type, enabled=False):  # every step sets its dtype explicitly
            x = self._embeddings(ids)
            cos, sin = (t[0, :, None].float() for t in self.rotary(x[None], positions[None]))  # [T, 1, head_dim]
            y: torch.Tensor = torch.zeros_like(x, dtype=self.dtype)
            scale: torch.Tensor | None = x.new_ones(len(x), 1, dtype=torch.float32) if self.int8 else None
            sizes = self.num_heads, self.num_kv_heads, self.head_dim, self.eps, self.scaling, x.dtype
            for number, layer in enumerate(self.layers):
                x, qkv, scale = self._add_norm_linear(layer.qkv, x, y, scale, layer.input_norm, columns)
                q, k, v = self.kernels.rotate(qkv, scale, layer.qkv_bias, layer.head_norms, cos, sin, *sizes)
                context = attention_fn(number, q[:tokens], k[:tokens], v[:tokens])
                if number == len(self.layers) - 1 and not len(answers):
                    return x[:0]
                context = torch.nn.functional.pad(context, (0, 0, 0, size - tokens)) if size > tokens else context
                if number == len(self.layers) - 1:  # only the answers are needed from here
                    x, context, columns = x[columns], context[columns], torch.arange(len(columns), device=x.device)
                quantised = self.kernels.quantise(context) if self.int8 else None
                y, scale = self._linear(layer.out, context, quantised, columns)
                x, gate_up, scale = self._add_norm_linear(layer.gate_up, x, y, scale, layer.post_attention_norm, columns)
                rows, quantised = self.kernels.gated_silu(gate_up, scale, self.dtype, isinstance(layer.down, Int8Linear))
                y, scale = self._linear(layer.down, rows, quantised, columns)
            return self._final_norm(x, y, scale)[: len(answers)]

    def _embeddings(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the residual stream [T, H] before the first layer; with int8 each distinct token is rotated once."""
        if self.residual_rotation is None:
            return self.embed(ids)
        distinct, places = ids.unique(return_inverse=True)
        return (self.embed(distinct).float() @ self.residual_rotation).to(self.dtype)[places]

    def _final_norm(self, x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        """Return the norm of the residual stream x plus the last output y, rotated back if it was rotated."""
        total = x.float() + rescaled(y, scale)
        total = total if self.residual_rotation is None else total @ self.residual_rotation.T
        return rms_norm(total.to(x.dtype), self.norm, self.eps).to(x.dtype)

    def _add_norm_linear(
        self, linear: Any, x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor | None, norm: torch.Tensor | None,
        columns: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:  # fmt: skip
        """Add a layer's output y to the stream x and multiply its norm. Returns (new x, product, scales of its rows or None)."""
        x, rows, scale = self.kernels.add_norm(x, y, scale, norm, self.eps)
        if scale is None:
            return x, linear(rows), None
        answers = x[columns].float()
        return x, linear(rows, scale, columns, (answers * inverse_rms(answers, self.eps)).to(self.dtype)), scale

    def _linear(
        self, linear: Any, rows: torch.Tensor, quantised: tuple[torch.Tensor, torch.Tensor] | None, columns: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Multiply rows or, for int8, the quantised rows. Returns (the product, scales of its rows or None)."""
        if quantised is None:
            return linear(rows), None
        return linear(*quantised, columns, rows[columns]), quantised[1]
