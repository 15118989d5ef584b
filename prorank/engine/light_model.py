"""Llama and Qwen2 in plain torch, for ranking on a CPU. Weights, names and results are bitwise those of transformers' classes.

Importing those classes takes longer than loading and running a small model, as they import torch's compiler and distributed
modules. The formulas and the order of operations are those of `modeling_llama.py` and `modeling_qwen2.py` (Llama: arXiv 2302.13971;
rotary
positions: arXiv 2104.09864; root mean square norm: arXiv 1910.07467).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu

from . import flat_attention
from .flat_attention import flat_attention_forward
from .sequences import Spans

MODEL_TYPES = ("llama", "qwen2")


@dataclass
class LightConfig:
    """The sizes of a model, with the names of transformers' configurations.

    Attributes:
        head_dim: size of a head; None for hidden_size / num_attention_heads.
        rope_theta: base of the rotary frequencies.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    head_dim: int | None = None
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    attention_bias: bool = False  # Llama only, on all four products; Qwen2 always has a bias on three of them
    mlp_bias: bool = False
    _attn_implementation: str = flat_attention.NAME


class EmptyLinear(nn.Linear):
    """A Linear without initialisation of its weights, because on device "meta" torch's initialisation imports its compiler."""

    def reset_parameters(self) -> None:
        """Do nothing."""


class RmsNorm(nn.Module):
    """A root mean square norm over the last dimension of length `size`, computed in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.empty(size, device="meta")), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x [..., H]. Returns [..., H] in the dtype of x."""
        y = x.to(torch.float32)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * y.to(x.dtype)


class RotaryEmbedding(nn.Module):
    """Computes cosines and sines of positions. The frequencies stay in fp32 in models of any dtype.

    Args:
        theta: base of the frequencies.
        head_dim: size of a head.
    """

    inv_freq: torch.Tensor

    def __init__(self, theta: float, head_dim: int) -> None:
        super().__init__()
        inv_freq = 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim))
        self.register_buffer("inv_freq", inv_freq, persistent=False)

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (cos, sin) [B, T, head_dim] of positions [B, T], in the dtype of x."""
        angles = position_ids[..., None].float() * self.inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class CausalAttention(nn.Module):
    """Causal attention with grouped heads, over whole sequences or over the spans of a flat batch."""

    def __init__(self, config: LightConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
        self.scaling, bias = self.head_dim**-0.5, config.model_type == "qwen2"
        queries, keys = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = EmptyLinear(config.hidden_size, queries, bias, device="meta")
        self.k_proj = EmptyLinear(config.hidden_size, keys, bias, device="meta")
        self.v_proj = EmptyLinear(config.hidden_size, keys, bias, device="meta")
        self.o_proj = nn.Linear(queries, config.hidden_size, False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, spans: Spans | None) -> torch.Tensor:
        """Return the attention [B, T, H] of x [B, T, H]; cos and sin are [B, 1, T, head_dim]."""
        parts = (part(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = parts
        q, k = (t * cos + _rotate_half(t) * sin for t in (q, k))
        if spans is None:
            causal = x.shape[1] > 1
            out = scaled_dot_product_attention(q, k, v, is_causal=causal, scale=self.scaling, enable_gqa=True).transpose(1, 2)
        else:
            out, _ = flat_attention_forward(self, q, k, v, None, spans, self.scaling)
        return self.o_proj(out.flatten(2).contiguous())


def _rotate_half(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), dim=-1)


class GatedMlp(nn.Module):
    """The feed-forward part: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LightConfig) -> None:
        super().__init__()
        self.gate_proj = EmptyLinear(config.hidden_size, config.intermediate_size, False, device="meta")
        self.up_proj = EmptyLinear(config.hidden_size, config.intermediate_size, False, device="meta")
        self.down_proj = EmptyLinear(config.intermediate_size, config.hidden_size, False, device="meta")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, H] to [B, T, H]."""
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class LightLayer(nn.Module):
    """One layer: attention and feed-forward part, each after a norm."""

    def __init__(self, config: LightConfig) -> None:
        super().__init__()
        self.self_attn, self.mlp = CausalAttention(config), GatedMlp(config)
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, spans: Spans | None) -> torch.Tensor:
        """[B, T, H] to [B, T, H]."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, spans)
        return x + self.mlp(self.post_attention_layernorm(x))


class LightBody(nn.Module):
    """The model without its output head."""

    def __init__(self, config: LightConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(
            config.vocab_size, config.hidden_size, _weight=torch.empty(config.vocab_size, config.hidden_size, device="meta")
        )  # fmt: skip
        self.layers = nn.ModuleList(LightLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(config.rope_theta, config.head_dim or config.hidden_size // config.num_attention_heads)

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None,
        spans: Spans | None = None, use_cache: bool = False,
    ) -> Any:  # fmt: skip
        """See `LightModel.forward`. Returns an object with `last_hidden_state` [B, T, H]. Raises ValueError for padding."""
        if spans is None and attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError("this model does not support padding; load the checkpoint with transformers.AutoModelForCausalLM")
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1])[None]
        x = self.embed_tokens(input_ids)
        cos, sin = (t[:, None] for t in self.rotary_emb(x, position_ids))
        for layer in self.layers:
            x = layer(x, cos, sin, spans)
        return SimpleNamespace(last_hidden_state=self.norm(x))


class LightModel(nn.Module):
    """A causal language model for inference, without cache. `engine.generation` generates with it.

    Its weights are on device "meta", without storage, until `assign_weights` or `random_weights` is called.

    Args:
        config: the sizes.

    Attributes:
        source: folder that it was loaded from. Its config.json is the configuration for transformers.
    """

    source: str | None = None

    def __init__(self, config: LightConfig) -> None:
        super().__init__()
        self.config, self.model = config, LightBody(config)
        self.lm_head = EmptyLinear(config.hidden_size, config.vocab_size, False, device="meta")
        self.eval()

    def shapes(self) -> dict[str, list[int]]:
        """Return the shapes of the weights by name; an output head tied to the embeddings is not included."""
        tied = {"lm_head.weight"} if self.config.tie_word_embeddings else set()
        return {name: list(weight.shape) for name, weight in self.named_parameters() if name not in tied}

    def assign_weights(self, weights: dict[str, torch.Tensor]) -> LightModel:
        """Assign weights, by the names of `shapes`, without copying them. Returns the model itself.

        They require gradients as in transformers, because torch's choice of product, and thus the last bits, depends on it.
        """
        self.load_state_dict(weights, strict=False, assign=True)
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        return self

    def random_weights(self) -> LightModel:
        """Assign random weights in fp32. Returns the model itself."""
        return self.assign_weights({name: 0.02 * torch.randn(shape) for name, shape in self.shapes().items()})

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.lm_head.weight.dtype

    def get_input_embeddings(self) -> nn.Embedding:
        """The embeddings of the tokens."""
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        """The output head."""
        return self.lm_head

    def forward(self, input_ids: torch.Tensor, logits_to_keep: int | torch.Tensor = 0, **inputs: Any) -> Any:
        """Compute logits.

        Args:
            input_ids: tokens [B, T], without padding.
            logits_to_keep: number of last positions, or indices of positions, to compute logits for; 0 for all.
            inputs: `position_ids` [B, T], and `spans` of a flat batch (see `flat_attention`).

        Returns:
            An object with `logits` [B, positions, V].
        """
        hidden = self.model(input_ids, **inputs).last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return SimpleNamespace(logits=self.lm_head(hidden[:, kept]))
