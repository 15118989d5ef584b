"""The specification of a stage for `train`: how its data are read and checked, how prompts are encoded, how it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...prompts.prompt import AnyPromptEncoder, Prompt
from ..micro_batches import Stage
from ..settings.common_settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class StageInputs:
    """Inputs for building a stage.

    Attributes:
        settings: settings of the run, with `auto` resolved.
        examples: training data, as `StageSpec.read` returns them.
        dev_examples: dev data of the same kind; may be empty.
        train_encoder: encodes prompts in training, up to `train_length`.
        encoder: encodes prompts up to `max_length`.
        model: the module to optimise, see `StageSpec.trainable`.
        bf16: compute products in bf16.
    """

    settings: Any
    examples: list
    dev_examples: list
    train_encoder: Any
    encoder: AnyPromptEncoder
    model: Any
    bf16: bool


def _accept(examples: list, encoder: AnyPromptEncoder) -> None:
    """Accept every combination of examples and prompt."""


def _model_alone(model: PreTrainedModel, settings: Any) -> torch.nn.Module:
    return model


@dataclass(frozen=True)
class StageSpec:
    """A stage's functions for `train`. All but `build` and `trainable` run before the weights are loaded.

    Attributes:
        settings: the settings class; its default `stage` is the stage's name.
        read: returns (training examples, dev examples) for the settings.
        check: raises DataError, ConfigError or ModelError for examples that the stage cannot use.
        bind: returns the encoder of a prompt for a tokenizer; raises ConfigError for a prompt that the stage cannot use.
        check_encoder: raises ConfigError if examples and encoder are incompatible.
        trainable: returns the module to optimise: the model, or a module that contains it.
        build: returns the stage.
    """

    settings: type[Settings]
    read: Callable[[Any], tuple[list, list]]
    check: Callable[[list, list, Any], None]
    bind: Callable[[Prompt, Any, Any], AnyPromptEncoder]
    build: Callable[[StageInputs], Stage]
    check_encoder: Callable[[list, AnyPromptEncoder], None] = _accept
    trainable: Callable[[PreTrainedModel, Any], torch.nn.Module] = _model_alone
