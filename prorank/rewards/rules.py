"""Rule-based rewards for completions that think and then answer (Rerank-R0).

A completion is parsed up to the end of its first answer outside the thought, which is also where inference stops. Thus
`<answer>yes</answer><answer>no</answer>` is scored by its first answer and penalised for the text after it.
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
    """Weights and limits of the Rerank-R0 reward. Penalties are positive numbers that are subtracted.

    Attributes:
        format_weight: earned by an answer that is exactly "yes" or "no".
        acc_weight: earned by the correct answer.
        think_bonus: earned by a thought of min_think_tokens to max_think_tokens tokens, without surrounding white space.
        length_penalty: subtracted per max_think_tokens tokens by which the thought exceeds max_think_tokens (proportionally).
        extra_text_penalty: subtracted if text follows the answer.
        invalid_tag_penalty: subtracted unless the four tags appear once each and in order, up to the end of the answer.
        missing_answer_penalty: subtracted if there is no `<answer>` outside the thought.
        missing_eos_penalty: subtracted if the completion was truncated before its end-of-sequence token.
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
        """Raise ConfigError if a weight or penalty is negative or the token limits contradict each other."""
        for key, value in asdict(self).items():
            if not value >= 0:
                raise ConfigError(f"key 'reward.{key}' must not be negative (penalties are subtracted), got {value}")
        if self.max_think_tokens < max(self.min_think_tokens, 1):
            raise ConfigError("key 'reward.max_think_tokens' must be at least 1 and not below min_think_tokens")


@dataclass(frozen=True)
class ParsedCompletion:
    """The parts of a completion.

    Attributes:
        thought: text of the first closed thought, None if there is none.
        answer: "yes" or "no", None for any other answer.
        in_form: whether the four tags appear once each and in order.
        tried: whether there is an `<answer>` outside the thought.
        extra: text after the answer.
    """

    thought: str | None
    answer: str | None
    in_form: bool
    tried: bool
    extra: str


def parse(text: str, opened: bool = False) -> ParsedCompletion:
    """Parse a completion. Any text is accepted. `opened`: whether the prompt ended with `<think>`."""
    text = "<think>" + text.lstrip().removeprefix("<think>") if opened else text
    tags = list(TAG.finditer(text))
    think = _pair("think", tags, tags)
    free = [tag for tag in tags if not (think and think[0].start() <= tag.start() < think[1].end())]  # outside the thought
    answer = _pair("answer", free, tags)
    end = answer[1].end() if answer else len(text)
    if think and end <= think[0].start():  # a thought after the answer is extra text
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
    """The first opening tag `name` among `begins` and the first tag in `tags` that closes it; None if either is missing."""
    begin = next((tag for tag in begins if tag[0] == f"<{name}>"), None)
    close = begin and next((tag for tag in tags if tag[0] == f"</{name}>" and tag.start() >= begin.end()), None)
    return (begin, close) if begin and close else None


@dataclass(frozen=True)
class Judged:
    """A parsed completion with its label, its thought's length in tokens, and whether it reached its end-of-sequence token."""

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
    """A reward, its parts by the field names of `Rules`, the answer ("yes", "no" or None), and the thought's length in tokens."""

    reward: float
    parts: dict[str, float]
    answer: str | None
    think_tokens: int


class RuleReward:
    """The Rerank-R0 reward (reference/rerank-r0), callable as a reward function of TRL's GRPOTrainer.

    Args:
        rules: weights and limits.
        count: returns the number of tokens of a text, see `counter`.
        only: names of `PARTS` to include; None for all. Use one RuleReward per part to have TRL log them separately.
        opened: whether the prompt ends with `<think>`.
        eos: id of the end-of-sequence token; a completion whose `completion_ids` contain it is finished.

    Raises:
        ConfigError: `rules` are invalid.
    """

    def __init__(
        self, rules: Rules, count: Callable[[str], int], only: Sequence[str] | None = None, opened: bool = False,
        eos: int | None = None,
    ) -> None:  # fmt: skip
        rules.check()
        self.rules, self.count, self.opened, self.eos = rules, count, opened, eos
        self.parts = tuple(only or PARTS)
        self.__name__ = "rerank_r0" if only is None else "_".join(only)  # TRL uses it as the name of the metric

    def judge(self, text: str, label: int, finished: bool = True, opened: bool | None = None) -> Verdict:
        """Score one completion.

        Args:
            text: the completion.
            label: 1 (relevant) or 0.
            finished: whether it reached its end-of-sequence token.
            opened: whether the prompt ended with `<think>`; None for the constructor's value.

        Raises:
            DataError: the label is neither 0 nor 1.
        """
        label = read_label(label)
        completion = parse(text, self.opened if opened is None else opened)
        tokens = self.count(completion.thought.strip()) if completion.thought else 0
        judged = Judged(completion, label, tokens, finished)
        # Round, so that floating-point errors do not make equal rewards differ.
        parts = {name: round(float(PARTS[name](judged, self.rules)), 10) for name in self.parts}
        return Verdict(round(fsum(parts.values()), 10), parts, completion.answer, tokens)

    def __call__(
        self, prompts: Any = None, completions: Sequence[Any] = (), completion_ids: Sequence[Sequence[int]] | None = None,
        label: Sequence[int] | None = None, finished: Sequence[bool] | None = None, **columns: Any,
    ) -> list[float]:  # fmt: skip
        """Score completions, as TRL calls it.

        Args:
            prompts: ignored.
            completions: texts, or lists of messages of which the last one is scored. A message without text counts as "".
            completion_ids: token ids, which show whether a completion is finished if the column `finished` is missing.
            label: label of each example, 1 (relevant) or 0.
            finished: whether each completion reached its end-of-sequence token.

        Returns:
            One reward per completion.

        Raises:
            DataError: a label is neither 0 nor 1, or a completion is neither a text nor messages; the message names the row.
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
    """Return a function that counts the tokens of a text under this tokenizer, without special tokens."""
    return functools.partial(_count, tokenizer)


def _count(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def rules_of(values: dict[str, Any]) -> Rules:
    """Build Rules from the settings of a stage: its `reward` block, and the key `missing_eos_penalty`. Raises ConfigError."""
    block = values.get("reward")
    block = {} if block is None else block
    if not isinstance(block, dict):
        raise ConfigError(f"key 'reward' must be a mapping, got {block!r}")
    beside = {key: value for key, value in values.items() if key == "missing_eos_penalty"}
    rules = fill(Rules, {**block, **beside}, "reward.")
    rules.check()
    return rules


def judge_file(path: str | Path, reward: RuleReward) -> Iterator[dict[str, Any]]:
    """Yield a verdict as a JSON object for each line of a JSONL file.

    A line is {"completion", "label"} with the optional keys "finished" and "prompt_opens_think". Raises DataError naming file and
    line.
    """
    for number, row in objects(path):
        where = f"{path}:{number}"
        label = read_label(row.get("label"), where)
        text = get(row, "completion", str, where)
        flags = [get(row, key, bool, where, default) for key, default in (("finished", True), ("prompt_opens_think", None))]
        yield asdict(reward.judge(text, label, *flags))
