"""What stage `reason` asks and how answers are judged: is this one relevant, which of these is best, in which order are they?

Whatever is asked, a completion gets one Verdict, so writing, advantages and steps know nothing of the question.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum
from typing import Any

from ...data.examples import Group, balanced_pairs, list_groups, sample_lists
from ...evaluate.gains import check_labels
from ...prompts.list_encoder import ListPromptEncoder
from ...prompts.prompt import AnyPromptEncoder, Encoded, PairPromptEncoder
from ...rewards.list_rules import answer_of, rearank_parts
from ...rewards.rules import RuleReward, Verdict, counter, parse
from ..settings.stage_settings import Reason

DEV_PROMPTS = 200


@dataclass(frozen=True)
class RolloutPrompt:
    """A prompt; `key` is its place in the run, `label` what a judge has to know, `shown` what the log of completions says."""

    key: int
    prompt: Encoded
    label: Any
    shown: dict[str, Any]

    @property
    def length(self) -> int:
        return len(self.prompt.ids)


class PairTask:
    """Is this document relevant? Balanced pairs, judged by the rules of Rerank-R0; labels are 1 and 0.

    Args:
        groups: training data, or held-out ones.
        bound: a thinking prompt of one document.
        settings: see Reason.
    """

    def __init__(self, groups: list[Group], bound: PairPromptEncoder, settings: Reason) -> None:
        self.pairs = balanced_pairs(groups, settings.seed)
        self.bound = bound
        self.reward = RuleReward(settings.rules, counter(bound.tokenizer), opened=bound.opened)

    def __len__(self) -> int:
        return len(self.pairs)

    def unit(self, key: int) -> RolloutPrompt:
        query, document, label = self.pairs[key % len(self.pairs)]
        relevant = int(label > 0)
        return RolloutPrompt(
            key, self.bound.encode(query, document), relevant, {"query": query, "document": document, "label": relevant}
        )

    def judge(self, text: str, label: int, finished: bool) -> tuple[Verdict, bool, bool]:
        """(verdict, whether the form is right, whether the answer is)."""
        verdict = self.reward.judge(text, label, finished)
        said = parse(text, self.bound.opened)
        return verdict, said.in_form and said.answer is not None, verdict.answer == ("no", "yes")[label]


class ListTask:
    """Which of these is the best (`list_reward` "rank-r1"), or in which order are they ("rearank")? Lists drawn anew in each pass;
    labels are their grades.

    Args:
        groups: training data, or held-out ones.
        bound: a thinking prompt of several documents.
        settings: see Reason.
    """

    def __init__(self, groups: list[Group], bound: ListPromptEncoder, settings: Reason) -> None:
        self.groups, self.bound, self.settings = list_groups(groups), bound, settings
        if settings.list_reward == "rearank":
            check_labels((label for group in groups for label in group.labels), settings.gain, "training data")
        self.count = counter(bound.tokenizer)
        self._pass: tuple[int, list[Group]] = (-1, [])

    def __len__(self) -> int:
        return len(self.groups)

    def unit(self, key: int) -> RolloutPrompt:
        epoch, row = divmod(key, len(self.groups))
        if self._pass[0] != epoch:
            self._pass = (epoch, sample_lists(self.groups, self.settings.list_size, self.settings.seed, epoch))
        group = self._pass[1][row]
        prompt = self.bound.encode(group.query, list(group.documents)).whole
        shown = {"query": group.query, "documents": list(group.documents), "label": list(group.labels)}
        return RolloutPrompt(key, prompt, group.labels, shown)

    def judge(self, text: str, label: tuple[float, ...], finished: bool) -> tuple[Verdict, bool, bool]:
        """(verdict, whether the form is right, whether the best document is named, or named first)."""
        text = "<think>" + text if self.bound.opened else text
        answer = answer_of(text)
        best = [self.bound.answer([place]) for place, grade in enumerate(label) if grade == max(label)]
        right = answer is not None and answer.startswith(tuple(best))
        if self.settings.list_reward == "rank-r1":
            right = answer in best
            parts = {"label": float(right)}
        else:
            parts = rearank_parts(text, label, gain=self.settings.gain)
        parts["missing_eos_penalty"] = -self.settings.missing_eos_penalty * (not finished)
        thought = text.partition("<think>")[2].partition("</think>")[0]
        verdict = Verdict(round(fsum(parts.values()), 10), parts, answer, self.count(thought.strip()))
        return verdict, answer is not None, right


Task = PairTask | ListTask


def task_of(groups: list[Group], bound: AnyPromptEncoder, settings: Reason) -> Task:
    """The task that goes with a prompt."""
    return ListTask(groups, bound, settings) if isinstance(bound, ListPromptEncoder) else PairTask(groups, bound, settings)
