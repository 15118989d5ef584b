"""The scoring engine for CPUs: the layers of a Llama-like model over a flat batch, written out as few large steps.

A forward makes four matrix products and one attention a query in each layer, over the tokens that exist (a shared
prefix once), and keeps nothing but the answers' rows after the last attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ModelError
from .flat_attention import is_flat
from .int8 import Int8, rotation, rounded_layers
from .kernels import Kernels, inverse_size, normed, scaled
from .layers import PackedLinear, layer_of
from .layers import trainable as trainable_product
from .packing import Batch
from .prefix_attention import attend, plan_of
from .shapes import padded_size, repeat_last
from .transformer import decoder_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AttentionFn = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # an attention, see Engine.run
KINDS = ("llama", "mistral", "qwen2", "qwen3")
NEEDS = f"a CPU with oneDNN and plain layers of {', '.join(KINDS)}"


def is_supported(model: PreTrainedModel) -> bool:
    """Whether the model runs on a CPU with flat attention and has layers that the engine knows, adapters or not."""
    config = model.config
    silu = getattr(config, "hidden_act", "silu") == "silu"
    bare = not getattr(config, "mlp_bias", False) and not (config.model_type == "llama" and config.attention_bias)
    return config.model_type in KINDS and silu and bare and is_flat(model)


def live_engine(model: PreTrainedModel, compiled: bool, dtype: torch.dtype) -> "Engine | None":
    """The engine for a model in training, or None where transformers' layers have to do: unknown ones, other devices."""
    return Engine(model, compiled, trainable=dtype) if not hasattr(model, "module") and is_supported(model) else None


def check_compiled(model: PreTrainedModel) -> None:
    """Raise ModelError if the engine, whose steps are what gets compiled, does not know the model."""
    if not is_supported(model):
        raise ModelError(f"compile needs {NEEDS}, not {_what(model)}; leave it out")


def engine_for(model: PreTrainedModel, compiled: bool, int8: bool) -> "Engine | None":
    """The engine for a model, or None where transformers' own layers have to do. Raises ModelError where compiled or int8 steps
    are asked for and there is none."""
    known = is_supported(model)
    if compiled:
        check_compiled(model)
    if int8 and not (known and hasattr(torch.ops.onednn, "qlinear_pointwise") and torch.backends.mkldnn.is_available()):
        raise ModelError(f"int8 needs {NEEDS}, not {_what(model)}; take dtype bf16 or fp32")
    return Engine(model, compiled, int8) if known else None


def _what(model: PreTrainedModel) -> str:
    return f"{model.config.model_type} on {next(model.parameters()).device.type}"


class Engine:
    """Last hidden states at the answers of flat batches.

    Args:
        model: a causal LM for which `is_supported` holds; its weights are shared (int8: copied).
        compiled: fuse the element-wise steps (needs a C++ compiler; some seconds once).
        int8: matrix products in int8, twice as fast where the CPU has VNNI or AMX, at a loss: see docs/performance.md.
        live: for training: weights may change and get a gradient, products are made in this dtype. None: in that of the weights.
    """

    def __init__(
        self, model: PreTrainedModel, compiled: bool = False, int8: bool = False, trainable: torch.dtype | None = None
    ) -> None:
        inner = decoder_of(model)
        self.residual_rotation = rotation(model.config.hidden_size) if int8 else None
        attention = inner.layers[0].self_attn
        self.embed, self.angles, self.norm = inner.embed_tokens, inner.rotary_emb, inner.norm.weight
        self.eps, self.int8, self.dtype = model.config.rms_norm_eps, int8, trainable or model.dtype
        self.width, self.scaling = attention.head_dim, attention.scaling
        self.heads, self.pairs = model.config.num_attention_heads, model.config.num_key_value_heads
        self.steps = Kernels(compiled)
        kind = trainable_product if trainable else PackedLinear.of
        with torch.no_grad():
            if self.residual_rotation is None:
                self.layers = [layer_of(layer, kind) for layer in inner.layers]
            else:
                self.layers = rounded_layers(inner, self.residual_rotation)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Last hidden states [N, H] at the answer positions, in the model's dtype."""
        plan = plan_of(batch.inputs["spans"], self.heads, self.pairs)

        def attention_fn(_: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return attend(q, k, v, plan, self.steps.softmax, self.dtype)

        return self.run(batch.inputs["input_ids"][0], batch.inputs["position_ids"][0], batch.columns, attention_fn)

    def run(self, ids: torch.Tensor, positions: torch.Tensor, wanted: torch.Tensor, attention_fn: AttentionFn) -> torch.Tensor:
        """Last hidden states [N, H] of the tokens `wanted` [N] among ids [T] at positions [T].

        `attention_fn(layer, q, k, v)` is the attention: of q [T, heads, d], already scaled, over k and v [T, pairs, d] (and
        whatever it knows besides), as [T, heads * d]."""
        tokens, size = len(ids), padded_size(len(ids))
        ids, positions = repeat_last(ids, size), repeat_last(positions, size)
        columns = repeat_last(wanted, padded_size(len(wanted)))
        with torch.autocast("cpu", enabled=False):  # every step says its dtype
            x = self.embed(ids) if self.residual_rotation is None else self._turned(ids)
            cos, sin = (t[0, :, None].float() for t in self.angles(x[None], positions[None]))  # [T, 1, width]
            y: torch.Tensor = torch.zeros_like(x, dtype=self.dtype)
            scale: torch.Tensor | None = x.new_ones(len(x), 1, dtype=torch.float32) if self.int8 else None
            for number, layer in enumerate(self.layers):
                x, qkv, scale = self._into(layer.qkv, x, y, scale, layer.before, columns)
                sizes = self.heads, self.pairs, self.width, self.eps, self.scaling, x.dtype
                q, k, v = self.steps.rotate(qkv, scale, layer.bias, layer.norms, cos, sin, *sizes)
                seen = attention_fn(number, q[:tokens], k[:tokens], v[:tokens])
                seen = torch.nn.functional.pad(seen, (0, 0, 0, size - tokens)) if size > tokens else seen
                if number == len(self.layers) - 1:
                    x, seen, columns = x[columns], seen[columns], torch.arange(len(columns))
                rounded = self.steps.quantise(seen) if self.int8 else None
                y, scale = self._out(layer.out, seen, rounded, columns)
                x, pair, scale = self._into(layer.up, x, y, scale, layer.after, columns)
                rows, rounded = self.steps.gated(pair, scale, self.dtype, isinstance(layer.down, Int8))
                y, scale = self._out(layer.down, rows, rounded, columns)
            total = x.float() + scaled(y, scale)
            total = total if self.residual_rotation is None else total @ self.residual_rotation.T
            return normed(total.to(x.dtype), self.norm, self.eps).to(x.dtype)[: len(wanted)]

    def _turned(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings [T, H] of the turned stream; each token of a batch is turned once."""
        some, places = ids.unique(return_inverse=True)
        return (self.embed(some).float() @ self.residual_rotation).to(self.dtype)[places]

    def _into(self, product, x, y, scale, weight, columns):
        """The stream x plus a layer's output y, and a product of its norm: (new x, the product, its rows' scales)."""
        x, rows, scale = self.steps.add_norm(x, y, scale, weight, self.eps)
        if scale is None:
            return x, product(rows), None
        few = x[columns].float()
        return x, product(rows, scale, columns, (few * inverse_size(few, self.eps)).to(self.dtype)), scale

    def _out(self, product: Any, rows: torch.Tensor, rounded: tuple | None, columns: torch.Tensor) -> tuple:
        """A product of rows in the model's dtype or, where it is in int8, of the rows rounded; and their scales or None."""
        if rounded is None:
            return product(rows), None
        return product(*rounded, columns, rows[columns]), rounded[1]
