"""The scoring engine for CPUs: the layers of a Llama-like model over a flat batch, written out as few large steps.

Hard fact: a forward makes four matrix products and one attention a query in each layer, over the tokens that exist (a shared
prefix once), and keeps nothing but the answers' rows after the last attention.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import linear

from ..errors import ModelError
from ..model import body
from .attention import attend, plan_of
from .batching import Batch
from .flat import is_flat
from .kernels import Kernels, Rows, normed, scaled, whole

KINDS = ("llama", "mistral", "qwen2", "qwen3")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEEDS = f"a CPU with oneDNN and plain layers of {', '.join(KINDS)}"


class Dense:
    """A matrix product in the model's dtype. The weights [N, H] of `parts` are joined into one, of which they become views; in bf16
    a copy in oneDNN's own layout saves reordering them for every product."""

    def __init__(self, *parts: torch.nn.Linear) -> None:
        self.weight = torch.cat([part.weight for part in parts])
        for part, view in zip(parts, self.weight.split([len(part.weight) for part in parts])):
            part.weight = torch.nn.Parameter(view, requires_grad=False)
        self.packed = None
        if self.weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, 2048)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        if self.packed is None:
            return linear(rows, self.weight)
        return torch.ops.mkldnn._linear_pointwise(rows, self.packed, None, "none", [], "")


class Live:
    """A matrix product and its bias in training: weights are cast and joined anew each time, with gradient; adapters go through
    their modules."""

    def __init__(self, *parts: torch.nn.Module) -> None:
        self.parts, self.plain = parts, all(type(part) is torch.nn.Linear for part in parts)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        if not self.plain:
            with torch.autocast("cpu", enabled=rows.dtype == torch.bfloat16):
                return torch.cat([part(rows) for part in self.parts], -1)
        biased = self.parts[0].bias is not None
        bias = torch.cat([part.bias.to(rows.dtype) for part in self.parts]) if biased else None
        return linear(rows, torch.cat([part.weight.to(rows.dtype) for part in self.parts]), bias)


class Int8:
    """A matrix product of uint8 rows around 128 and int8 weights [N, H] (one scale an output), summed in int32, given in dtype.

    The result lacks the rows' own scales, which the next step brings in."""

    def __init__(self, weight: torch.Tensor, dtype: torch.dtype) -> None:
        steps, scales = whole(weight)
        self.dtype, self.scales = dtype, scales[:, 0].contiguous()
        self.packed = torch.ops.onednn.qlinear_prepack(steps.to(torch.int8), None)
        self.zeros = torch.zeros(len(steps), dtype=torch.int64)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        weight = self.packed, self.scales, self.zeros
        return torch.ops.onednn.qlinear_pointwise(rows, 1.0, 128, *weight, None, 1.0, 0, self.dtype, "none", [], "")


@dataclass(frozen=True)
class Layer:
    """One layer's weights. `norms`: of queries and keys by head, or None."""

    before: torch.Tensor
    qkv: Any
    bias: torch.Tensor | None
    norms: tuple[torch.Tensor, torch.Tensor] | None
    out: Any
    after: torch.Tensor
    up: Any
    down: Any


def keep_freed_memory() -> None:
    """Tell glibc to keep freed buffers of this process for the next layer: fetched from the kernel anew, page by page, they take up
    to a tenth of the time of a forward. Does nothing under other C libraries."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 512 << 20)


def usable(model: torch.nn.Module) -> bool:
    """Whether the model runs on a CPU with flat attention and has layers that the engine knows, adapters or not."""
    config = model.config
    silu = getattr(config, "hidden_act", "silu") == "silu"
    bare = not getattr(config, "mlp_bias", False) and not (config.model_type == "llama" and config.attention_bias)
    return config.model_type in KINDS and silu and bare and is_flat(model)


def live_engine(model: torch.nn.Module, compiled: bool, dtype: torch.dtype) -> "Engine | None":
    """The engine for a model in training, or None where transformers' layers have to do: unknown ones, several processes, other
    devices."""
    return Engine(model, compiled, live=dtype) if not hasattr(model, "module") and usable(model) else None


def engine_for(model: torch.nn.Module, compiled: bool, int8: bool) -> "Engine | None":
    """The engine for a model, or None where transformers' own layers have to do. Raises ModelError where compiled or int8 steps
    are asked for and there is none."""
    known = usable(model)
    if int8 and not (known and hasattr(torch.ops.onednn, "qlinear_pointwise") and torch.backends.mkldnn.is_available()):
        raise ModelError(f"int8 needs {NEEDS}, not {_what(model)}; take dtype bf16 or fp32")
    if compiled and not known:
        raise ModelError(f"compile needs {NEEDS}, not {_what(model)}; leave it out")
    return Engine(model, compiled, int8) if known else None


def _what(model: torch.nn.Module) -> str:
    return f"{model.config.model_type} on {next(model.parameters()).device.type}"


class Engine:
    """Last hidden states at the answers of flat batches.

    Args:
        model: a causal LM for which `usable` holds; its weights are shared (int8: copied).
        compiled: fuse the element-wise steps (needs a C++ compiler; some seconds once).
        int8: matrix products in int8, twice as fast where the CPU has VNNI or AMX, at a loss: see docs/performance.md.
        live: for training: weights may change and get a gradient, products are made in this dtype. None: in that of the weights.
    """

    def __init__(self, model: torch.nn.Module, compiled: bool = False, int8: bool = False, live: torch.dtype | None = None) -> None:
        inner, _ = body(model)
        self.turn = rotation(model.config.hidden_size) if int8 else None
        attention = inner.layers[0].self_attn
        self.embed, self.angles, self.norm = inner.embed_tokens, inner.rotary_emb, inner.norm.weight
        self.eps, self.int8, self.dtype = model.config.rms_norm_eps, int8, live or model.dtype
        self.width, self.scaling = attention.head_dim, attention.scaling
        self.heads, self.pairs = model.config.num_attention_heads, model.config.num_key_value_heads
        self.steps = Kernels(compiled)
        keep_freed_memory()
        if live:
            self.layers = [replace(_layer(layer, Live), bias=None) for layer in inner.layers]
            return
        with torch.no_grad():
            if int8:
                self.layers = [_rounded(layer, self.turn, size) for layer, size in zip(inner.layers, gate_sizes(inner))]
            else:
                self.layers = [_layer(layer, Dense) for layer in inner.layers]

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Last hidden states [N, H] at the answer positions, in the model's dtype."""
        ids, positions = batch.inputs["input_ids"][0], batch.inputs["position_ids"]
        plan = plan_of(batch.inputs["spans"], self.heads, self.pairs)
        columns = batch.columns if len(batch.columns) > 1 else batch.columns.repeat(2)  # one row would compile anew
        with torch.autocast("cpu", enabled=False):  # every step says its dtype
            x = self.embed(ids)
            x = x if self.turn is None else (x.float() @ self.turn).to(x.dtype)
            cos, sin = (t[0, :, None].float() for t in self.angles(x[None], positions))  # [T, 1, width]
            y: torch.Tensor = torch.zeros_like(x, dtype=self.dtype)
            scale: torch.Tensor | None = x.new_ones(len(x), 1, dtype=torch.float32) if self.int8 else None
            for number, layer in enumerate(self.layers):
                x, rows, scale = self.steps.add_norm(x, y, scale, layer.before, self.eps, self.int8)
                sizes = self.heads, self.pairs, self.width, self.eps, self.scaling, x.dtype
                q, k, v = self.steps.rotate(layer.qkv(rows), scale, layer.bias, layer.norms, cos, sin, *sizes)
                seen = attend(q, k, v, plan, self.steps.softmax, self.dtype)
                if number == len(self.layers) - 1:
                    x, seen = x[columns], seen[columns]
                rows, scale = self._rows(seen)
                x, rows, scale = self.steps.add_norm(x, layer.out(rows), scale, layer.after, self.eps, self.int8)
                rows, scale = self._rows(self.steps.gated(layer.up(rows), scale, self.dtype))
                y = layer.down(rows)
            total = x.float() + scaled(y, scale)
            total = total if self.turn is None else total @ self.turn.T
            return normed(total.to(x.dtype), self.norm, self.eps).to(x.dtype)[: len(batch.columns)]

    def _rows(self, x: torch.Tensor) -> Rows:
        return self.steps.quantise(x) if self.int8 else (x, None)


def rotation(size: int) -> torch.Tensor:
    """A random orthogonal matrix [size, size], fp32, always the same.

    Rows of the residual stream have a few channels far larger than the rest, which take the steps of int8 for themselves; turned at
    random they have none, and a norm without weights commutes with the turn (QuaRot, arXiv 2404.00456, section 3)."""
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(drawn)[0].float()


def gate_sizes(inner: torch.nn.Module) -> list[torch.Tensor]:
    """How large each channel [I] that `down_proj` reads is within its row, layer by layer: root mean square over random tokens,
    whose channels stand out as those of text do."""
    found: list[torch.Tensor] = []

    def look(_: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        rows = given[0].flatten(0, 1).float()
        found.append((rows / rows.abs().amax(-1, keepdim=True)).pow(2).mean(0).sqrt())

    hooks = [layer.mlp.down_proj.register_forward_pre_hook(look) for layer in inner.layers]
    inner(input_ids=torch.randint(inner.embed_tokens.num_embeddings, (8, 64), generator=torch.Generator().manual_seed(0)))
    for hook in hooks:
        hook.remove()
    return found


def _layer(layer: torch.nn.Module, kind: type) -> Layer:
    a, m = layer.self_attn, layer.mlp
    products = kind(a.q_proj, a.k_proj, a.v_proj), kind(a.o_proj), kind(m.gate_proj, m.up_proj), kind(m.down_proj)
    return _with(layer, layer.input_layernorm.weight, layer.post_attention_layernorm.weight, *products)


def _rounded(layer: torch.nn.Module, turn: torch.Tensor, size: torch.Tensor) -> Layer:
    """The layer in int8 on a residual stream turned by `turn`; norms lose their weights to the products behind them. Channels
    before `down_proj` are evened out by their usual `size` [I] (SmoothQuant, arXiv 2211.10438, section 4)."""
    a, m, dtype = layer.self_attn, layer.mlp, layer.mlp.down_proj.weight.dtype
    out, up, down = (part.weight.float() for part in (a.o_proj, m.up_proj, m.down_proj))
    out, down = turn.T @ out, turn.T @ down
    # Powers .3 and .5 lost least on SmolLM2; the usual .5 and .5 lose more, for a few channels of some layers stand out too far.
    even = size.clamp_min(1e-6) ** 0.3 / down.pow(2).mean(0).sqrt().clamp_min(1e-6) ** 0.5

    def reads(norm: torch.nn.Module, *weights: torch.Tensor) -> Int8:
        return Int8(torch.cat(weights).float() * norm.weight.float() @ turn, dtype)

    qkv = reads(layer.input_layernorm, a.q_proj.weight, a.k_proj.weight, a.v_proj.weight)
    gate = reads(layer.post_attention_layernorm, m.gate_proj.weight, up / even[:, None])
    ones = torch.ones_like(layer.input_layernorm.weight)
    return _with(layer, ones, ones, qkv, Int8(out, dtype), gate, Int8(down * even, dtype))


def _with(layer: torch.nn.Module, before: torch.Tensor, after: torch.Tensor, qkv: Any, out: Any, up: Any, down: Any) -> Layer:
    a = layer.self_attn
    bias = None if a.q_proj.bias is None else torch.cat([p.bias for p in (a.q_proj, a.k_proj, a.v_proj)]).detach()
    norms = (a.q_norm.weight, a.k_norm.weight) if hasattr(a, "q_norm") else None
    return Layer(before, qkv, bias, norms, out, after, up, down)
