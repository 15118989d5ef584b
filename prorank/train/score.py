"""Stage `score`: fine-grained score learning on logit("1") - logit("0") over one query's documents (ProRank stage 2).

Hard fact: the documents of a query lie behind one shared prefix in one row, with gradient, so the query is computed once for all of
them, and the scores are those that single prompts would give.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import torch

from ..data.examples import Group, list_groups, sample_lists
from ..errors import DataError
from ..prompt import AnyPrompt, BoundListPrompt
from ..rank.batching import Batch, Pack, collate, pack
from ..rank.flat import is_flat
from .basics import largest
from .config import Score
from .dev import Dev
from .forward import Logits
from .losses import LOSSES, TAUGHT, answer_mass
from .thoughts import Own, OwnThoughts

AHEAD = 64  # documents whose thoughts are written together: a batch of rows as ranking writes it


def usable(groups: list[Group], settings: Score) -> list[Group]:
    """Groups that give the losses something to learn. Raises DataError if there are none."""
    needs_positive = not (settings.loss and TAUGHT >= set(settings.loss))
    return list_groups(groups, needs_positive)


@dataclass(frozen=True)
class Unit:
    """One query's documents as a pack (a pack each in the plain step); `grades`, `teacher` and `thoughts` [n] in the same order;
    `key` is its place in the run."""

    key: int
    packs: list[Pack]
    grades: tuple[float, ...]
    teacher: tuple[float, ...] | None
    thoughts: tuple[Own, ...] = ()

    @property
    def length(self) -> int:
        return sum(map(len, self.packs))


class ScoreStage:
    """Units are lists of one query's documents, drawn anew in each pass; the loss is a weighted sum, see `losses`.

    Args:
        groups: training data, with teacher scores where loss `kl` is used.
        bound: the prompt, of one document or of several.
        settings: see Score.
        dev: dev set, or None.
        bf16: products in bf16.
        thoughts: of a thinking model, behind which scores are read; None: scores right behind the prompts.
    """

    cpu_units = 4

    def __init__(
        self, groups: list[Group], bound: AnyPrompt, settings: Score, dev: Dev | None, bf16: bool = False,
        thoughts: OwnThoughts | None = None,
    ) -> None:  # fmt: skip
        self.groups = usable(groups, settings)
        taught = sorted(TAUGHT & set(settings.loss))
        if taught and any(g.teacher is None for g in self.groups):
            remedy = "set 'teacher' to compute them"
            raise DataError(f"loss {taught[0]}: some queries have no teacher scores (pos_scores, neg_scores); {remedy}")
        self.bound, self.settings, self.dev, self.thoughts = bound, settings, dev, thoughts
        self.listed = isinstance(bound, BoundListPrompt)
        self.logits = Logits(settings, bf16)
        self.highest = max(max(g.labels) for g in self.groups) or 1.0
        self._pass: tuple[int, list[Group]] = (-1, [])

    def __len__(self) -> int:
        return len(self.groups)

    def unit(self, index: int) -> Unit:
        group, thoughts = self._group(index), self._thoughts(index)
        return Unit(index, self._packs(group, thoughts), tuple(group.labels), group.teacher, tuple(thoughts))

    def _group(self, index: int) -> Group:
        """The list that the index-th unit is made of."""
        epoch, row = divmod(index, len(self.groups))
        if self._pass[0] != epoch:
            self._pass = (epoch, sample_lists(self.groups, self.settings.list_size, self.settings.seed, epoch))
        return self._pass[1][row]

    def _thoughts(self, index: int) -> list[Own]:
        """Thoughts of a unit's documents. Those that come next are written beside missing ones, to the end of the pass or of the
        run's steps at most."""
        if not self.thoughts:
            return []
        s, epoch = self.settings, index // len(self.groups)
        last = min((epoch + 1) * len(self.groups), index + max(1, AHEAD // largest(s.list_size)))
        last = max(index + 1, min(last, s.steps * s.batch_size)) if s.steps else last
        number = epoch // s.refresh_thoughts if s.refresh_thoughts else 0
        return self.thoughts.of(number, self._group(index), lambda: map(self._group, range(index, last)))

    def _packs(self, group: Group, thoughts: list[Own]) -> list[Pack]:
        """A list's documents: behind their query in one row, or all of them in one prompt."""
        if self.listed:
            return [pack([self.bound.encode(group.query, list(group.documents)).whole], [0], share=False)]
        documents = list(group.documents)
        prompts = self.thoughts.prompts(group, thoughts) if self.thoughts else self.bound.encode_many(group.query, documents)
        return [pack([p], [0], share=False) for p in prompts] if self.settings.plain else [pack(prompts, range(len(prompts)))]

    def scores(self, logits: torch.Tensor, units: list[Unit]) -> tuple[torch.Tensor, ...]:
        """Scores [n] of each list from the logits [N, V] at the answers: log-odds of each document's own answer, or the logits
        of the labels that the documents of one prompt have."""
        if self.listed:
            return tuple(row[self.bound.answer_ids[: len(u.grades)]] for row, u in zip(logits, units))
        no, yes = self.bound.answer_ids
        return (logits[:, yes] - logits[:, no]).split([len(u.grades) for u in units])

    def loss(self, model: torch.nn.Module, units: list[Unit]) -> tuple[torch.Tensor, dict[str, float]]:
        """Mean loss over queries and what it was made of."""
        device = next(model.parameters()).device
        packs, flat = [p for u in units for p in u.packs], is_flat(model) and not self.settings.plain
        batch = collate(packs, self.bound.tokenizer.pad_token_id, flat).to(device)
        logits = self.logits(model, batch)  # [N, V], N prompts of all units
        scores = self.scores(logits, units)
        parts: dict[str, torch.Tensor] = {}
        for unit, row in zip(units, scores):
            grades = torch.tensor(unit.grades, device=device)
            given = {"labels": grades / self.highest, "grades": grades, "temperature": self.settings.teacher_temperature}
            given["teacher"] = torch.tensor(unit.teacher, device=device) if unit.teacher else None
            for name in self.settings.loss:
                parts[name] = parts.get(name, 0) + LOSSES[name](row, **given) / len(units)
        loss = sum(weight * parts[name] for name, weight in self.settings.loss.items())
        if self.settings.keep_answers:
            parts["answer_mass"] = answer_mass(logits, self.bound.answer_ids)
            loss = loss + self.settings.keep_answers * parts["answer_mass"]
        more, figures = self.further(model, batch, units, scores)
        figures |= {f"loss_{name}": float(value.detach()) for name, value in parts.items()}
        return loss + more, figures | self._figures(units, scores, logits)

    def further(
        self, model: torch.nn.Module, batch: Batch, units: list[Unit], scores: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor | float, dict[str, float]]:
        """What a stage adds to the loss for these lists and their scores, and its figures."""
        return 0.0, {}

    def _figures(self, units: list[Unit], scores: tuple[torch.Tensor, ...], logits: torch.Tensor) -> dict[str, float]:
        """Share of lists whose best score lies on a best grade, format rate, documents a unit; of thoughts, if there are any, their
        tokens and the share that had to be closed."""
        answered = torch.isin(logits.argmax(-1), torch.tensor(self.bound.answer_ids, device=logits.device))
        top = [unit.grades[int(row.argmax())] == max(unit.grades) for unit, row in zip(units, scores)]
        own = [one for unit in units for one in unit.thoughts]
        written = {"think_tokens": fmean(one.tokens for one in own), "thoughts_cut": fmean(one.cut for one in own)} if own else {}
        return written | {
            "top1": sum(top) / len(top),
            "format_rate": float(answered.float().mean()),
            "documents": sum(len(u.grades) for u in units) / len(units),
            "tokens": sum(u.length for u in units) / len(units),
        }

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        if not self.dev:
            return {}
        found = self.dev.measure(model)
        return found | {"score": found["ndcg@10"]}
