"""A layer of a model with random weights, and a batch for it, to measure speeds."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch

from . import flat_attention
from .light_model import LightConfig, LightModel
from .packing import Batch, Pack, collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def random_layer(config: Any) -> PreTrainedModel:
    """Make a model of one layer and a small vocabulary, in fp32: a LightModel of a LightConfig, else one of transformers."""
    if isinstance(config, LightConfig):
        return cast("PreTrainedModel", LightModel(replace(config, num_hidden_layers=1, vocab_size=256)).random_weights())
    from transformers import AutoModelForCausalLM

    small = copy.deepcopy(config)
    small.num_hidden_layers, small.vocab_size = 1, 256
    small.pad_token_id = small.bos_token_id = small.eos_token_id = None
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[:1]
    model = AutoModelForCausalLM.from_config(small, dtype=torch.float32)
    flat_attention.enable(model)
    return model


def random_batch(tokens: int, flat: bool) -> Batch:
    """Make a batch of about `tokens` tokens from prompts of 128 tokens, 16 of them shared. Every token is an answer."""
    shared, length = 16, min(112, tokens - 16)
    count = (tokens - shared) // length
    ends = [shared + number * length for number in range(1, count + 1)]
    ids = [(7 * i) % 256 for i in range(ends[-1])]
    return collate([Pack(ids, shared, ends, list(range(len(ids))), list(range(len(ids))))], 0, flat)
