"""What a stage is given: its examples, read and checked, and the prompt they are shown by.

Nothing here reads weights, so data or a prompt that a stage cannot use are refused within seconds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..checkpoints.resolve import Resolved, prompt_of
from ..data.examples import balanced_pairs, split_groups
from ..data.formats import read_groups
from ..data.reasoning_examples import ListReasoningExample, read_reasoning_examples, split_reasoning_examples
from ..errors import ConfigError
from ..prompts.list_encoder import MAX_DOCUMENTS
from ..prompts.prompt import AnyPromptEncoder, Prompt
from .settings.common_settings import Settings, check_list_size
from .settings.stage_settings import Reason, Score, Warmup


def prompt_for(resolved: Resolved, settings: Settings) -> Prompt:
    """The base's own prompt, with what the settings change in it; that of the settings where it asks for what the base's has not: a
    thought, several documents, or the document first."""
    own, wanted = prompt_of(resolved, settings.prompt), Prompt.of(settings.prompt)
    other_kind = (wanted.kind, wanted.lists) != (own.kind, own.lists) and wanted.kind != "binary"
    prompt = wanted if other_kind or (wanted.order, own.order) == ("document-first", "query-first") else own
    return replace(prompt, **_changes(prompt, settings))


def _changes(prompt: Prompt, settings: Settings) -> dict[str, Any]:
    """What the settings say about the base's prompt."""
    changes = {"max_length": settings.max_length, "max_think_tokens": getattr(settings, "max_think_tokens", None)}
    system = getattr(settings, "system_prompt", None)
    if system is not None and system != prompt.system:
        changes |= {"system": system, "template": "auto"}  # a checkpoint's template has its system text in it
    return {key: value for key, value in changes.items() if value is not None}


def bind(prompt: Prompt, tokenizer: Any, settings: Settings) -> AnyPromptEncoder:
    """The prompt of a stage: with a thought where thoughts are learned or scored behind; elsewhere a thinking prompt is asked at
    once."""
    writes, behind = settings.stage in ("sft", "reason"), getattr(settings, "thoughts", False)
    if (writes or behind) and prompt.kind != "thinking" and (settings.stage, prompt.kind) != ("sft", "listwise"):
        remedy = "; start from a checkpoint of stage sft or reason, or leave 'thoughts' out" if behind else ""
        why = f"needs a prompt of kind thinking, such as rerank-r0, and {prompt.name} is {prompt.kind}{remedy}"
        raise ConfigError(f"stage {settings.stage}{' with thoughts' if behind else ''} {why}")
    if prompt.lists:
        if not writes and prompt.kind != "setwise":
            raise ConfigError(f"stage {settings.stage} shows several documents with prompts of kind setwise, not {prompt.kind}")
        check_list_size(getattr(settings, "list_size", MAX_DOCUMENTS), MAX_DOCUMENTS)
        return prompt.bind_list(tokenizer)
    return prompt.bind(tokenizer) if writes or behind else prompt.bind(tokenizer).direct()


def read_examples(settings: Settings) -> tuple[list, list]:
    """Training and dev examples: groups, or thoughts for stage sft."""
    sources = [settings.data] if isinstance(settings.data, str) else settings.data
    if settings.stage == "sft":
        thoughts = [thought for source in sources for thought in read_reasoning_examples(source)]
        if settings.dev:
            return thoughts, read_reasoning_examples(settings.dev)
        return split_reasoning_examples(thoughts, settings.dev_queries, settings.seed)
    groups = [group for source in sources for group in read_groups(source, "train")]
    if settings.dev:
        return groups, read_groups(settings.dev, "dev")
    if settings.dev_queries:
        most = min(settings.dev_queries, len(groups) // 5)
        return split_groups(groups, most, settings.seed) if most else (groups, [])
    return groups, []


def check_examples(examples: list, settings: Settings) -> None:
    """Raise DataError if the stage cannot use these data."""
    if isinstance(settings, (Warmup, Reason)):
        balanced_pairs(examples, settings.seed)
    elif isinstance(settings, Score):  # Order, too
        from .stages.score import usable
        from .teacher_scores import check_teacher

        usable(examples, settings)
        check_teacher(examples, settings.teacher)


def check_form(examples: list, bound: AnyPromptEncoder, settings: Settings) -> None:
    """Raise ConfigError where thoughts are about one document and the prompt shows several, or the other way round."""
    lists = [isinstance(example, ListReasoningExample) for example in examples if settings.stage == "sft"]
    if lists and any(one != bound.prompt.lists for one in lists):
        shown = "several documents" if bound.prompt.lists else "one document"
        raise ConfigError(f"stage sft: prompt {bound.prompt.name} shows {shown}, and not all of the data do; see key 'prompt'")
