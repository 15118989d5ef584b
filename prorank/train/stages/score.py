"""Stage `score`: fine-grained score learning on logit("1") - logit("0") over one query's documents (ProRank stage 2).

The documents of a query lie behind one shared prefix in one row, with gradient, so the query is computed once for all of
them, and the scores are those that single prompts would give. Where the prompt has the document first it is the other way round:
queries that have the same documents share these.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from ...data.examples import Group, list_groups, same_documents, sample_blocks
from ...engine.flat_attention import is_flat
from ...engine.packing import Batch, Pack, collate, pack, pack_document
from ...errors import DataError
from ...evaluate.gains import check_labels
from ...prompts.prompt import AnyPromptEncoder, Encoded, ListPromptEncoder, PairPromptEncoder
from ..dev_set import Dev
from ..forward import Logits
from ..objectives.ranking_losses import LOSSES, TAUGHT, answer_mass
from ..settings.common_settings import largest
from ..settings.stage_settings import Score
from .thought_cache import CachedThought, ThoughtCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_QUERIES_PER_BLOCK = 8  # queries that share their documents, at most
PREFETCH_DOCUMENTS = 64  # documents whose thoughts are written together: a batch of rows as ranking writes it


def usable(groups: list[Group], settings: Score) -> list[Group]:
    """Groups that give the losses something to learn. Raises DataError if there are none."""
    needs_positive = not (settings.loss and TAUGHT >= set(settings.loss))
    check_labels((label for group in groups for label in group.labels), settings.gain, "training data")
    return list_groups(groups, needs_positive)


@dataclass(frozen=True)
class ListExample:
    """What is read together: one query's list, or those of several queries over the same documents. `packs` hold a query's
    documents, or a document's queries (each prompt alone in the plain step); `key` is its place in the run; `thoughts` [n] are the
    documents'."""

    key: int
    packs: list[Pack]
    lists: tuple[Group, ...]
    thoughts: tuple[CachedThought, ...] = ()

    @property
    def length(self) -> int:
        return sum(map(len, self.packs))

    @property
    def keys(self) -> list[str]:
        """A name of each list in the run."""
        return [f"{self.key}/{i}" if i else str(self.key) for i in range(len(self.lists))]


def lists_of(units: list[ListExample]) -> list[Group]:
    """The lists of some units, in the order of their scores."""
    return [group for unit in units for group in unit.lists]


class ScoreStage:
    """Units are lists of one query's documents, or of a few queries' where they share them, drawn anew in each pass; the loss is a
    weighted sum, see `losses`.

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
        self, groups: list[Group], bound: AnyPromptEncoder, settings: Score, dev: Dev | None, bf16: bool = False,
        thoughts: ThoughtCache | None = None,
    ) -> None:  # fmt: skip
        groups = usable(groups, settings)
        taught = sorted(TAUGHT & set(settings.loss))
        if taught and any(g.teacher is None for g in groups):
            remedy = "set 'teacher' to compute them"
            raise DataError(f"loss {taught[0]}: some queries have no teacher scores (pos_scores, neg_scores); {remedy}")
        self.bound, self.settings, self.dev, self.thoughts = bound, settings, dev, thoughts
        self.listed = isinstance(bound, ListPromptEncoder)
        shared = bound.prompt.order == "document-first" and not thoughts
        self.blocks = same_documents(groups, MAX_QUERIES_PER_BLOCK) if shared else [(group,) for group in groups]
        self.logits = Logits(settings, bf16)
        self.highest = max(max(g.labels) for g in groups) or 1.0
        self._pass: tuple[int, list[tuple[Group, ...]]] = (-1, [])

    def __len__(self) -> int:
        return len(self.blocks)

    def unit(self, index: int) -> ListExample:
        lists, thoughts = self._lists(index), self._thoughts(index)
        return ListExample(index, self._packs(lists, thoughts), lists, tuple(thoughts))

    def _lists(self, index: int) -> tuple[Group, ...]:
        """The lists that the index-th unit is made of."""
        epoch, row = divmod(index, len(self.blocks))
        if self._pass[0] != epoch:
            self._pass = (epoch, sample_blocks(self.blocks, self.settings.list_size, self.settings.seed, epoch))
        return self._pass[1][row]

    def _group(self, index: int) -> Group:
        """The one list of the index-th unit, where thoughts are written."""
        return self._lists(index)[0]

    def _thoughts(self, index: int) -> list[CachedThought]:
        """Thoughts of a unit's documents. Those that come next are written beside missing ones, to the end of the pass or of the
        run's steps at most."""
        if not self.thoughts:
            return []
        s, epoch = self.settings, index // len(self.blocks)
        last = min((epoch + 1) * len(self.blocks), index + max(1, PREFETCH_DOCUMENTS // largest(s.list_size)))
        last = max(index + 1, min(last, s.steps * s.batch_size)) if s.steps else last
        number = epoch // s.refresh_thoughts if s.refresh_thoughts else 0
        return self.thoughts.of(number, self._group(index), lambda: map(self._group, range(index, last)))

    def _packs(self, lists: tuple[Group, ...], thoughts: list[CachedThought]) -> list[Pack]:
        """A list's documents: behind their query in one row, or all of them in one prompt. Several lists' queries: behind each of
        their documents."""
        if isinstance(self.bound, ListPromptEncoder):
            return [pack([self.bound.encode(g.query, list(g.documents)).whole], [0], share=False) for g in lists]
        encoded = [self._encoded(self.bound, g, thoughts) for g in lists]
        by_document = list(zip(*encoded))  # what a document is asked by each query
        if self.settings.plain:
            return [pack([p], [0], share=False) for prompts in by_document for p in prompts]
        return [pack(encoded[0], range(len(encoded[0])))] if len(lists) == 1 else [pack_document(p) for p in by_document]

    def _encoded(self, bound: PairPromptEncoder, group: Group, thoughts: list[CachedThought]) -> list[Encoded]:
        """A prompt of each document of a list, with its thought where there are any."""
        if self.thoughts:
            return self.thoughts.prompts(group, thoughts)
        return bound.encode_many(group.query, list(group.documents))

    def scores(self, logits: torch.Tensor, units: list[ListExample]) -> tuple[torch.Tensor, ...]:
        """Scores [n] of each list from the logits [N, V] at the answers: log-odds of each document's own answer, or the logits
        of the labels that the documents of one prompt have."""
        if self.listed:
            return tuple(row[self.bound.answer_ids[: len(g.labels)]] for row, g in zip(logits, lists_of(units)))
        no, yes = self.bound.answer_ids
        parts = (logits[:, yes] - logits[:, no]).split([len(u.lists) * len(u.lists[0].labels) for u in units])
        # A unit's answers go document by document, and within each query by query.
        return tuple(row for part, u in zip(parts, units) for row in part.view(-1, len(u.lists)).T)

    def loss(self, model: PreTrainedModel, units: list[ListExample]) -> tuple[torch.Tensor, dict[str, float]]:
        """Mean loss over queries and what it was made of."""
        device = next(model.parameters()).device
        packs, flat = [p for u in units for p in u.packs], is_flat(model) and not self.settings.plain
        batch = collate(packs, self.bound.tokenizer.pad_token_id, flat).to(device)
        logits = self.logits(model, batch)  # [N, V], N prompts of all units
        scores = self.scores(logits, units)
        parts: dict[str, torch.Tensor] = {}
        nothing = torch.zeros((), device=device)
        for group, row in zip(lists_of(units), scores):
            grades = torch.tensor(group.labels, device=device)
            given = {"labels": grades / self.highest, "grades": grades, "gain": self.settings.gain}
            given["temperature"] = self.settings.teacher_temperature
            given["teacher"] = torch.tensor(group.teacher, device=device) if group.teacher else None
            for name in self.settings.loss:
                parts[name] = parts.get(name, nothing) + LOSSES[name](row, **given) / len(scores)
        loss = sum((weight * parts[name] for name, weight in self.settings.loss.items()), start=nothing)
        if self.settings.keep_answers:
            parts["answer_mass"] = answer_mass(logits, self.bound.answer_ids)
            loss = loss + self.settings.keep_answers * parts["answer_mass"]
        more, figures = self.extra_loss(model, batch, units, scores)
        figures |= {f"loss_{name}": float(value.detach()) for name, value in parts.items()}
        return loss + more, figures | self._figures(units, scores, logits)

    def extra_loss(
        self, model: PreTrainedModel, batch: Batch, units: list[ListExample], scores: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor | float, dict[str, float]]:
        """What a stage adds to the loss for these lists and their scores, and its figures."""
        return 0.0, {}

    def _figures(self, units: list[ListExample], scores: tuple[torch.Tensor, ...], logits: torch.Tensor) -> dict[str, float]:
        """Share of lists whose best score lies on a best grade, format rate, documents a unit; of thoughts, if there are any, their
        tokens and the share that had to be closed."""
        answered = torch.isin(logits.argmax(-1), torch.tensor(self.bound.answer_ids, device=logits.device))
        top = [group.labels[int(row.argmax())] == max(group.labels) for group, row in zip(lists_of(units), scores)]
        own = [one for unit in units for one in unit.thoughts]
        written = {"think_tokens": fmean(one.tokens for one in own), "thoughts_cut": fmean(one.cut for one in own)} if own else {}
        return written | {
            "top1": sum(top) / len(top),
            "format_rate": float(answered.float().mean()),
            "documents": sum(map(len, scores)) / len(units),
            "tokens": sum(u.length for u in units) / len(units),
        }

    def evaluate(self, model: PreTrainedModel) -> dict[str, float]:
        if not self.dev:
            return {}
        found = self.dev.measure(model)
        return found | {"score": found["ndcg@10"]}
