"""Tasks of stage `reason`: judge one document, select the best of several, or order them.

Every task gives each completion one Judgement, so generation, advantages and optimiser steps are independent of the task.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import fsum
from random import Random
from typing import Any, NamedTuple

from ...data.balanced_pairs import balanced_pairs
from ...data.examples import Group, list_groups, sample_lists
from ...evaluate.gains import check_labels
from ...prompts.list_encoder import ListPromptEncoder
from ...prompts.prompt import AnyPromptEncoder, Encoded, PairPromptEncoder
from ...rewards.list_rules import answer_of, rearank_parts
from ...rewards.rules import RuleReward, Verdict, counter, parse
from ..settings.stage_settings import Reason

MAX_DEV_PROMPTS = 200


@dataclass(frozen=True)
class RolloutPrompt:
    """A prompt to generate completions for.

    Attributes:
        key: index of the prompt in the run.
        prompt: the encoded prompt.
        label: argument of the task's `judge`.
        shown: fields of the prompt in completions.jsonl.
    """

    key: int
    prompt: Encoded
    label: Any
    shown: dict[str, Any]

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.prompt.ids)


class Judgement(NamedTuple):
    """The judgement of a completion.

    Attributes:
        verdict: its reward.
        in_form: whether its format is right.
        right: whether its answer is right.
    """

    verdict: Verdict
    in_form: bool
    right: bool


class PairTask:
    """Judge one document: balanced pairs with labels 1 and 0, rewarded by the rules of Rerank-R0.

    Args:
        groups: training or held-out data.
        encoder: a thinking prompt of one document.
        settings: see Reason.
    """

    def __init__(self, groups: list[Group], encoder: PairPromptEncoder, settings: Reason) -> None:
        self.pairs = balanced_pairs(groups, settings.seed)
        self.encoder = encoder
        self.reward = RuleReward(settings.rules, counter(encoder.tokenizer), opened=encoder.opened)

    def __len__(self) -> int:
        return len(self.pairs)

    def example(self, key: int) -> RolloutPrompt:
        """See `ReasonTask.example`."""
        query, document, label = self.pairs[key % len(self.pairs)]
        relevant = int(label > 0)
        shown = {"query": query, "document": document, "label": relevant}
        return RolloutPrompt(key, self.encoder.encode(query, document), relevant, shown)

    def substitute(self, example: RolloutPrompt, attempt: int) -> RolloutPrompt:
        """See `ReasonTask.substitute`; the other prompt has the same label."""
        rng = Random(f"substitute/{example.key}/{attempt}")
        same = [key for key, (*_, label) in enumerate(self.pairs) if int(label > 0) == example.label]
        return replace(self.example(rng.choice(same)), key=example.key)

    def judge(self, text: str, label: int, finished: bool) -> Judgement:
        """Judge a completion. `finished`: whether it reached its end-of-sequence token."""
        verdict = self.reward.judge(text, label, finished)
        completion = parse(text, self.encoder.opened)
        in_form = completion.in_form and completion.answer is not None
        return Judgement(verdict, in_form, verdict.answer == ("no", "yes")[label])


class ListTask:
    """Select the best document (`list_reward` "rank-r1"), or order the documents ("rearank").

    Lists are sampled again in each pass over the data; labels are their grades.

    Args:
        groups: training or held-out data.
        encoder: a thinking prompt of several documents.
        settings: see Reason.
    """

    def __init__(self, groups: list[Group], encoder: ListPromptEncoder, settings: Reason) -> None:
        self.groups, self.encoder, self.settings = list_groups(groups), encoder, settings
        if settings.list_reward == "rearank":
            check_labels((label for group in groups for label in group.labels), settings.gain, "training data")
        self.count = counter(encoder.tokenizer)
        self._pass: tuple[int, list[Group]] = (-1, [])

    def __len__(self) -> int:
        return len(self.groups)

    def example(self, key: int) -> RolloutPrompt:
        """See `ReasonTask.example`."""
        epoch, row = divmod(key, len(self.groups))
        if self._pass[0] != epoch:
            self._pass = (epoch, sample_lists(self.groups, self.settings.list_size, self.settings.seed, epoch))
        group = self._pass[1][row]
        prompt = self.encoder.encode(group.query, list(group.documents)).whole
        shown = {"query": group.query, "documents": list(group.documents), "label": list(group.labels)}
        return RolloutPrompt(key, prompt, group.labels, shown)

    def substitute(self, example: RolloutPrompt, attempt: int) -> RolloutPrompt:
        """See `ReasonTask.substitute`; the other prompt is one of the same pass over the data."""
        first = example.key // len(self.groups) * len(self.groups)
        rng = Random(f"substitute/{example.key}/{attempt}")
        return replace(self.example(first + rng.randrange(len(self.groups))), key=example.key)

    def judge(self, text: str, label: tuple[float, ...], finished: bool) -> Judgement:
        """Judge a completion; it is right if it names the best document, or names it first."""
        text = "<think>" + text if self.encoder.opened else text
        answer = answer_of(text)
        best = [self.encoder.answer([place]) for place, grade in enumerate(label) if grade == max(label)]
        right = answer is not None and answer.startswith(tuple(best))
        if self.settings.list_reward == "rank-r1":
            right = answer in best
            parts = {"label": float(right)}
        else:
            parts = rearank_parts(text, label, gain=self.settings.gain)
        parts["missing_eos_penalty"] = -self.settings.missing_eos_penalty * (not finished)
        thought = text.partition("<think>")[2].partition("</think>")[0]
        verdict = Verdict(round(fsum(parts.values()), 10), parts, answer, self.count(thought.strip()))
        return Judgement(verdict, answer is not None, right)


ReasonTask = PairTask | ListTask


def task_of(groups: list[Group], encoder: AnyPromptEncoder, settings: Reason) -> ReasonTask:
    """Return the task for the kind of a prompt."""
    return ListTask(groups, encoder, settings) if isinstance(encoder, ListPromptEncoder) else PairTask(groups, encoder, settings)
