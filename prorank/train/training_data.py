"""Read and check training data and prompts of a stage.

Weights are not read here, so errors in data or prompt are raised within seconds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..checkpoints.resolve import Resolved, prompt_of
from ..data.examples import Group, split_groups
from ..data.formats import read_groups
from ..data.reasoning_examples import AnyReasoningExample, read_reasoning_examples, split_reasoning_examples
from ..errors import ConfigError
from ..prompts.list_encoder import MAX_DOCUMENTS
from ..prompts.prompt import AnyPromptEncoder, Prompt
from .settings.common_settings import Settings, check_list_size


def training_prompt(source: Resolved, settings: Settings) -> Prompt:
    """Return the prompt of a run: the base's own, with changes from the settings.

    If the settings' prompt requires a thought, several documents, or the document first, and the base's prompt does not, the
    settings' prompt is used.
    """
    own, wanted = prompt_of(source, settings.prompt), Prompt.of(settings.prompt)
    other_kind = (wanted.kind, wanted.lists) != (own.kind, own.lists) and wanted.kind != "binary"
    prompt = wanted if other_kind or (wanted.order, own.order) == ("document-first", "query-first") else own
    return replace(prompt, **_changes(prompt, settings))


def _changes(prompt: Prompt, settings: Settings) -> dict[str, Any]:
    """Return fields of the base's prompt that the settings change."""
    changes = {"max_length": settings.max_length, "max_think_tokens": getattr(settings, "max_think_tokens", None)}
    system = getattr(settings, "system_prompt", None)
    if system is not None and system != prompt.system:
        changes |= {"system": system, "template": "auto"}  # a checkpoint's template contains its system text
    return {key: value for key, value in changes.items() if value is not None}


def sources_of(settings: Settings) -> list[str]:
    """Return the sources of the training data."""
    return [settings.data] if isinstance(settings.data, str) else settings.data


def read_ranking_data(settings: Settings) -> tuple[list[Group], list[Group]]:
    """Read (training groups, dev groups). Without `dev`, at most a fifth of the queries become the dev set."""
    groups = [group for source in sources_of(settings) for group in read_groups(source, "train")]
    if settings.dev:
        return groups, read_groups(settings.dev, "dev")
    count = min(settings.dev_queries, len(groups) // 5)
    return split_groups(groups, count, settings.seed) if count else (groups, [])


def read_reasoning_data(settings: Settings) -> tuple[list[AnyReasoningExample], list[AnyReasoningExample]]:
    """Read (training examples, dev examples) that have a thought and an answer."""
    thoughts = [thought for source in sources_of(settings) for thought in read_reasoning_examples(source)]
    if settings.dev:
        return thoughts, read_reasoning_examples(settings.dev)
    return split_reasoning_examples(thoughts, settings.dev_queries, settings.seed)


def bind_direct(prompt: Prompt, tokenizer: Any, settings: Settings) -> AnyPromptEncoder:
    """Return the encoder of a prompt that is answered at once. A thinking prompt of one document gets an empty thought.

    Raises:
        ConfigError: the prompt shows several documents and is not of kind setwise.
    """
    if not prompt.lists:
        return prompt.bind(tokenizer).direct()
    if prompt.kind != "setwise":
        raise ConfigError(f"stage {settings.stage} shows several documents with prompts of kind setwise, not {prompt.kind}")
    return _bind_list(prompt, tokenizer, settings)


def bind_thinking(prompt: Prompt, tokenizer: Any, settings: Settings) -> AnyPromptEncoder:
    """Return the encoder of a thinking prompt. Raises ConfigError for prompts of other kinds."""
    if prompt.kind != "thinking":
        raise ConfigError(f"stage {settings.stage} {needs_thinking(prompt)}")
    return bind_writing(prompt, tokenizer, settings)


def bind_writing(prompt: Prompt, tokenizer: Any, settings: Settings) -> AnyPromptEncoder:
    """Return the encoder of a prompt whose answer is generated as text."""
    return _bind_list(prompt, tokenizer, settings) if prompt.lists else prompt.bind(tokenizer)


def needs_thinking(prompt: Prompt) -> str:
    """Return the end of the error message for a prompt without a thought."""
    return f"needs a prompt of kind thinking, such as rerank-r0, but {prompt.name} is {prompt.kind}"


def _bind_list(prompt: Prompt, tokenizer: Any, settings: Settings) -> AnyPromptEncoder:
    check_list_size(getattr(settings, "list_size", MAX_DOCUMENTS), MAX_DOCUMENTS)
    return prompt.bind_list(tokenizer)
