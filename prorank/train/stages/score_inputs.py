"""Checks and inputs that stages `score` and `order` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...data.examples import Group
from ...errors import ConfigError
from ...prompts.prompt import AnyPromptEncoder, Prompt
from ..dev_set import DevSet, check_dev, dev_of
from ..settings.stage_settings import Score
from ..teacher_scores import check_teacher, with_teacher
from ..training_data import bind_direct, needs_thinking
from .list_examples import trainable_groups
from .stage_spec import StageInputs
from .thought_cache import ThoughtCache


def check_list_data(examples: list[Group], dev_examples: list[Group], settings: Score) -> None:
    """Raise DataError or ModelError for lists or a teacher that the stage cannot use."""
    trainable_groups(examples, settings)
    check_teacher(examples, settings.teacher)
    check_dev(dev_examples, settings.gain)


def bind_scored(prompt: Prompt, tokenizer: Any, settings: Score) -> AnyPromptEncoder:
    """Return the encoder of a prompt whose answer is scored at once, or after a thought. Raises ConfigError for other prompts."""
    if not settings.thoughts:
        return bind_direct(prompt, tokenizer, settings)
    if prompt.kind != "thinking":
        remedy = "start from a checkpoint of stage sft or reason, or omit 'thoughts'"
        raise ConfigError(f"stage {settings.stage} with thoughts {needs_thinking(prompt)}; {remedy}")
    return bind_direct(prompt, tokenizer, settings) if prompt.lists else prompt.bind(tokenizer)  # or raises PromptError


def taught_lists(inputs: StageInputs) -> list[Group]:
    """Return the training lists, with teacher scores if the settings name a teacher."""
    s = inputs.settings
    if not s.teacher:
        return inputs.examples
    return with_teacher(inputs.examples, s.teacher, Path(s.out), inputs.model, inputs.encoder.tokenizer, None)


def thoughts_of(inputs: StageInputs) -> ThoughtCache | None:
    """Return the cache of the model's thoughts, or None if scores do not follow thoughts."""
    if not inputs.settings.thoughts:
        return None
    return ThoughtCache(inputs.model, inputs.train_encoder, inputs.settings, inputs.bf16)


def dev_lists(inputs: StageInputs) -> DevSet | None:
    """Return the dev set, or None."""
    return dev_of(inputs.dev_examples, inputs.encoder, inputs.bf16, inputs.settings.gain)
