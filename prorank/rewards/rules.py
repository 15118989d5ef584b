"""Rule rewards for completions that think and then answer: small functions of what was written and of the label.

A completion is read once, up to the end of its first answer outside the thought, where inference stops too; so a hedge
(`<answer>yes</answer><answer>no</answer>`) earns what its first answer earns, less the penalty for text after it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import fsum
from pathlib import Path
from typing import Any

import pydantic

from ..data.jsonl import get, objects
from ..data.reasoning_examples import ANSWERS, TAG
from ..errors import ConfigError, DataError
from ..utils.config_files import STRICT, Number, fill
from ..utils.texts import shown
from .reward_inputs import column, completion_text, read_label

FORM = ["<think>", "</think>", "<answer>", "</answer>"]


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Rules:
    """Weights and bounds of the Rerank-R0 reward; penalties are given as positive numbers and taken off.

    Attributes:
        format_weight: there is an answer, "yes" or "no" to the letter.
        acc_weight: it is the labelled one.
        think_bonus: the thought, blanks around it aside, has min_think_tokens to max_think_tokens tokens, both included.
        length_penalty: taken off once for every max_think_tokens tokens that the thought is too long, in proportion.
        extra_text_penalty: there is text after the answer.
        invalid_tag_penalty: up to the end of the answer, the four tags are not there once each, in their order.
        missing_answer_penalty: no `<answer>` stands outside the thought.
        missing_eos_penalty: the completion was cut before its end.
    """

    format_weight: Number = 0.4
    acc_weight: Number = 0.5
    think_bonus: Number = 0.3
    length_penalty: Number = 0.05
    extra_text_penalty: Number = 0.2
    invalid_tag_penalty: Number = 0.5
    missing_answer_penalty: Number = 0.3
    missing_eos_penalty: Number = 0.5
    min_think_tokens: int = 64
    max_think_tokens: int = 200

    def check(self) -> None:
        """Raise ConfigError for bounds that exclude each other and for negative numbers."""
        for key, value in asdict(self).items():
            if not value >= 0:
                raise ConfigError(f"key 'reward.{key}' must not be negative (penalties are taken off), it is {value}")
        if self.max_think_tokens < max(self.min_think_tokens, 1):
            raise ConfigError("key 'reward.max_think_tokens' must be at least 1 and not below min_think_tokens")


@dataclass(frozen=True)
class ParsedCompletion:
    """What was written. `thought`: the text of the first closed thought; `answer`: "yes", "no" or None; `in_form`: the tags are
    in order; `tried`: an `<answer>` stands outside the thought; `extra`: text after the answer."""

    thought: str | None
    answer: str | None
    in_form: bool
    tried: bool
    extra: str


def parse(text: str, opened: bool = False) -> ParsedCompletion:
    """Read a completion; `opened`: the prompt ended with `<think>`. Never fails."""
    text = "<think>" + text.lstrip().removeprefix("<think>") if opened else text
    tags = list(TAG.finditer(text))
    think = _pair("think", tags, tags)
    free = [tag for tag in tags if not (think and think[0].start() <= tag.start() < think[1].end())]  # outside the thought
    answer = _pair("answer", free, tags)
    end = answer[1].end() if answer else len(text)
    if think and end <= think[0].start():  # behind the answer all is extra
        think = None
    answer_text = text[answer[0].end() : answer[1].start()] if answer else None
    return ParsedCompletion(
        thought=text[think[0].end() : think[1].start()] if think else None,
        answer=answer_text if answer_text in ANSWERS else None,
        in_form=[tag[0] for tag in tags if tag.end() <= end] == FORM,
        tried=any(tag[0] == "<answer>" for tag in free),
        extra=text[end:].strip(),
    )


def _pair(name: str, begins: list[re.Match], tags: list[re.Match]) -> tuple[re.Match, re.Match] | None:
    """The first opening tag of this name among `begins`, and the first of `tags` that closes it; None where either is missing."""
    begin = next((tag for tag in begins if tag[0] == f"<{name}>"), None)
    close = begin and next((tag for tag in tags if tag[0] == f"</{name}>" and tag.start() >= begin.end()), None)
    return (begin, close) if begin and close else None


@dataclass(frozen=True)
class Judged:
    """A completion with what is known of it besides its text."""

    completion: ParsedCompletion
    label: int
    think_tokens: int
    finished: bool


PARTS: dict[str, Callable[[Judged, Rules], float]] = {
    "format_weight": lambda j, r: r.format_weight * (j.completion.answer is not None),
    "acc_weight": lambda j, r: r.acc_weight * (j.completion.answer == ANSWERS[j.label]),
    "think_bonus": lambda j, r: (
        r.think_bonus * (j.completion.thought is not None and r.min_think_tokens <= j.think_tokens <= r.max_think_tokens)
    ),
    "length_penalty": lambda j, r: -r.length_penalty * max(0, j.think_tokens - r.max_think_tokens) / r.max_think_tokens,
    "extra_text_penalty": lambda j, r: -r.extra_text_penalty * bool(j.completion.extra),
    "invalid_tag_penalty": lambda j, r: -r.invalid_tag_penalty * (not j.completion.in_form),
    "missing_answer_penalty": lambda j, r: -r.missing_answer_penalty * (not j.completion.tried),
    "missing_eos_penalty": lambda j, r: -r.missing_eos_penalty * (not j.finished),
}


@dataclass(frozen=True)
class Verdict:
    """A reward, its parts by the names of `Rules`, the answer found, and the thought's length in tokens."""

    reward: float
    parts: dict[str, float]
    answer: str | None
    think_tokens: int


class RuleReward:
    """The Rerank-R0 reward (reference/rerank-r0), as a function that TRL's GRPOTrainer takes as it stands.

    Args:
        rules: weights and bounds.
        count: how many tokens a text has, see `counter`.
        only: names of `PARTS`; one RuleReward for each lets TRL log the parts by themselves. None: all.
        opened: the prompt ends with `<think>`.
        eos: id of the end token, by which `completion_ids` are known to be finished.
    """

    def __init__(
        self, rules: Rules, count: Callable[[str], int], only: Sequence[str] | None = None, opened: bool = False,
        eos: int | None = None,
    ) -> None:  # fmt: skip
        rules.check()
        self.rules, self.count, self.opened, self.eos = rules, count, opened, eos
        self.parts = tuple(only or PARTS)
        self.__name__ = "rerank_r0" if only is None else "_".join(only)  # TRL logs under this name

    def judge(self, text: str, label: int, finished: bool = True, opened: bool | None = None) -> Verdict:
        """The reward of one completion for label 1 (relevant) or 0. Raises DataError for another label."""
        label = read_label(label)
        completion = parse(text, self.opened if opened is None else opened)
        tokens = self.count(completion.thought.strip()) if completion.thought else 0
        judged = Judged(completion, label, tokens, finished)
        # Rounded, since float dust would set equal rewards apart.
        parts = {name: round(float(PARTS[name](judged, self.rules)), 10) for name in self.parts}
        return Verdict(round(fsum(parts.values()), 10), parts, completion.answer, tokens)

    def __call__(
        self, prompts: Any = None, completions: Sequence[Any] = (), completion_ids: Sequence[Sequence[int]] | None = None,
        label: Sequence[int] | None = None, finished: Sequence[bool] | None = None, **columns: Any,
    ) -> list[float]:  # fmt: skip
        """Rewards of completions with the column `label` of their examples.

        Args:
            prompts: taken for TRL's sake.
            completions: texts, or lists of messages whose last one counts; one without text earns what no answer earns.
            completion_ids: their tokens, by which they are known to be finished where the column `finished` is not given.
            label: 1 (relevant) or 0 of each.
            finished: true or false of each.

        Raises:
            DataError: naming the row, for a label that is neither 0 nor 1 and for a completion that is neither text nor messages.
        """
        texts = [completion_text(one, f"row {i}") for i, one in enumerate(completions)]
        if finished is None and self.eos is not None and completion_ids is not None:
            finished = [self.eos in ids for ids in completion_ids]
        labels = [read_label(value, f"row {i}") for i, value in enumerate(column(label, "label", len(texts)))]
        ended = [True] * len(texts) if finished is None else column(finished, "finished", len(texts))
        for i, value in enumerate(ended):
            if not isinstance(value, bool):
                raise DataError(f"row {i}: 'finished' must be true or false, got {shown(value)}")
        return [self.judge(*row).reward for row in zip(texts, labels, ended)]


def counter(tokenizer: Any) -> Callable[[str], int]:
    """Tokens of a text under this tokenizer, special ones not added."""
    return functools.partial(_count, tokenizer)


def _count(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def rules_of(values: dict[str, Any]) -> Rules:
    """Rules from a stage's settings: its `reward` block, and `missing_eos_penalty` beside it."""
    block = values.get("reward")
    block = {} if block is None else block
    if not isinstance(block, dict):
        raise ConfigError(f"key 'reward' must be a mapping, got {block!r}")
    beside = {key: value for key, value in values.items() if key == "missing_eos_penalty"}
    rules = fill(Rules, {**block, **beside}, "reward.")
    rules.check()
    return rules


def judge_file(path: str | Path, reward: RuleReward) -> Iterator[dict[str, Any]]:
    """Verdicts as JSON objects for lines of {"completion", "label", "finished", "prompt_opens_think"} (the last two optional)."""
    for number, row in objects(path):
        where = f"{path}:{number}"
        label = read_label(row.get("label"), where)
        text = get(row, "completion", str, where)
        flags = [get(row, key, bool, where, default) for key, default in (("finished", True), ("prompt_opens_think", None))]
        yield asdict(reward.judge(text, label, *flags))
