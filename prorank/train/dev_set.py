"""Dev measures during training, by the code that ranks in use.

The model in training is measured through `Reranker`, so a dev measure and a later evaluation cannot disagree on prompts.
"""

from __future__ import annotations

import copy
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.examples import Group
from ..engine.modules import cast_weights
from ..errors import ModelError
from ..evaluate.gains import LINEAR, check_labels
from ..evaluate.measures import ndcg_of
from ..prompts.prompt import AnyPromptEncoder, Prompt
from ..rank.methods import Listwise
from ..reranker import Reranker

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_dev(groups: list[Group], gain: str) -> None:
    """Raise DataError for labels that nDCG cannot take."""
    check_labels((label for group in groups for label in group.labels), gain, "dev set")


def dev_of(groups: list[Group], encoder: AnyPromptEncoder, bf16: bool, gain: str) -> DevSet | None:
    """The dev set of a run whose prompts `encoder` encodes, or None without groups."""
    return DevSet(groups, Prompt.of(encoder.prompt), encoder.tokenizer, bf16, gain=gain) if groups else None


class DevSet:
    """A dev set of queries with candidates; `measure` returns nDCG@10, accuracy at log-odds 0, and the format rate.

    Args:
        groups: queries with candidates and labels; those without a relevant document are left out, and each is shuffled.
        prompt: the run's prompt.
        tokenizer: its tokenizer.
        bf16: whether training computes in bf16.
        limit: maximum documents of a query, relevant ones first.
        gain: of a label in nDCG.
    """

    def __init__(
        self, groups: list[Group], prompt: Prompt, tokenizer: Any, bf16: bool, limit: int = 20, gain: str = LINEAR
    ) -> None:
        self.groups = [_shuffled(_limited(g, limit)) for g in groups if max(g.labels, default=0) > 0]
        self.prompt, self.tokenizer, self.bf16, self.gain = prompt, tokenizer, bf16, gain
        self._differed = False  # whether any measurement's scores told documents apart

    def __len__(self) -> int:
        return len(self.groups)

    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """Measure the model as it is now.

        Returns:
            "ndcg@10", "accuracy" and "format_rate". With a prompt of several documents nDCG@10 alone. With a thinking prompt the
            model thinks about every document, as in use, and "thoughts_cut" replaces the format rate.

        Raises:
            ModelError: scores that are not finite, or that have collapsed to one value.
        """
        # A bf16 copy, as the checkpoint will be run; autocast would cast the weights anew for every batch.
        if self.bf16:
            model = copy.deepcopy(getattr(model, "module", model))
            cast_weights(model, torch.bfloat16)
        method = Listwise() if self.prompt.lists else None
        think = self.prompt.kind == "thinking"
        reranker = Reranker.of(model, self.tokenizer, self.prompt, think=think, method=method)
        if reranker.thinks:
            return self._measure_thinking(reranker)
        queries, documents = [g.query for g in self.groups], [g.documents for g in self.groups]
        if self.prompt.lists:
            scores = reranker.score_lists(queries, documents)
            return {"ndcg@10": self._ndcg(np.concatenate(scores))}
        seen = reranker.diagnose(queries, documents)
        rate = float(seen.argmax_is_answer.mean())
        return {"ndcg@10": self._ndcg(seen.scores), "accuracy": self._accuracy(seen.answer == 1), "format_rate": rate}

    def _measure_thinking(self, reranker: Reranker) -> dict[str, float]:
        """Measures of scores after the thoughts that the model writes now, and the share of thoughts that were cut."""
        rankings = reranker.rank_many([g.query for g in self.groups], [g.documents for g in self.groups])
        hits = [hit for ranking in rankings for hit in sorted(ranking, key=lambda hit: hit.index)]
        scores = np.array([hit.score for hit in hits], np.float32)
        cut = float(np.mean([hit.thought_cut for hit in hits]))
        return {"ndcg@10": self._ndcg(scores), "accuracy": self._accuracy(scores > 0), "thoughts_cut": cut}

    def _accuracy(self, predicted: np.ndarray) -> float:
        """Mean of the accuracies on relevant and on irrelevant documents, for predictions [n], bool (True: relevant)."""
        relevant = np.concatenate([g.labels for g in self.groups]) > 0
        if relevant.all():
            return float(predicted.mean())
        return float(np.mean([predicted[relevant].mean(), (~predicted[~relevant]).mean()]))

    def _ndcg(self, scores: np.ndarray) -> float:
        """Mean nDCG@10 of scores [n] of all groups' documents, one group after another.

        Raises:
            ModelError: scores that are not finite, or that are all equal where they were not before. They have an nDCG, but it
                means nothing.
        """
        ends = np.cumsum([len(group.documents) for group in self.groups])
        rows = np.split(scores, ends[:-1])
        if not np.isfinite(scores).all():
            raise ModelError("scores of the dev set are not finite")
        differ = any(np.ptp(row) > 0 for row in rows)
        if self._differed and not differ:
            raise ModelError("all documents of the dev set get the same score, so the weights have collapsed")
        self._differed |= differ
        return float(ndcg_of([group.labels for group in self.groups], rows, self.gain).mean())


def _shuffled(group: Group) -> Group:
    """The group's documents in an order that depends on its query alone.

    Lists hold relevant documents first, and a model that repeats the order it is shown, or scores all alike, must not look perfect.
    """
    places = list(range(len(group.documents)))
    Random(f"dev/{group.query}").shuffle(places)
    return group.take(places)


def _limited(group: Group, limit: int) -> Group:
    """The group's relevant documents (at most half of `limit`) and its first other ones."""
    if len(group.documents) <= limit:
        return group
    relevant = [i for i, label in enumerate(group.labels) if label > 0][: limit // 2]
    others = [i for i, label in enumerate(group.labels) if label <= 0][: limit - len(relevant)]
    return group.take(sorted(relevant + others))
