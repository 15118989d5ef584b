"""The result of `adapt`: figures before and after on held-out queries, and whether the new checkpoint is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.examples import Group
from ..evaluate.gains import FORMULA, LINEAR
from ..evaluate.list_likelihood import log_likelihood
from ..evaluate.measures import MAIN, ndcg_of
from ..evaluate.significance import randomisation_test

SIGNIFICANCE = 0.05  # differences with smaller p-values are significant
Rows = Sequence[Sequence[float] | np.ndarray]  # scores of the documents of each list


@dataclass(frozen=True)
class AdaptationResult:
    """Evaluation and decision of `adapt`.

    Attributes:
        before, after: nDCG@10 of the old and of the new model over the held-out queries.
        p: p-value of the difference in nDCG@10 (paired randomisation test, two-sided).
        likelihood, likelihood_p: difference in the log-likelihood of the relevant documents, and its p-value.
        queries: number of held-out queries.
        trained_on: number of training queries.
        better: whether the likelihood rose significantly and nDCG did not fall significantly.
        model: the checkpoint to use: the new one if it is better or was kept anyway, else the old one.
        trainings: number of trainings. If there are several, the new checkpoint is their mean.
        gain: gain of a label in nDCG and in the likelihood.
        kept_anyway: whether the new checkpoint was kept without evidence that it is better.
    """

    before: float
    after: float
    p: float
    likelihood: float
    likelihood_p: float
    queries: int
    trained_on: int
    better: bool
    model: str
    trainings: int = 1
    gain: str = LINEAR
    kept_anyway: bool = False

    def __str__(self) -> str:
        where = f"on {self.queries} held-out queries, trained on {self.trained_on}"
        if self.trainings > 1:
            where = f"on {self.queries} queries, each held out in one of {self.trainings} trainings"
        difference = _with_p(self.after - self.before, self.p)
        likelihood = f"log-likelihood of their relevant documents {_with_p(self.likelihood, self.likelihood_p)}"
        measure = MAIN if self.gain == LINEAR else f"{MAIN} with gains {FORMULA[self.gain]}"
        first = f"{measure} before {self.before:.4f}, after {self.after:.4f} ({difference}) {where}"
        return f"{first}\n{likelihood}\n{self._verdict()}"

    def _verdict(self) -> str:
        """Return which checkpoint is kept and why, with remedies if it is the old one."""
        if self.better:
            return f"kept: {self.model}"
        lost = self.p < SIGNIFICANCE and self.after < self.before
        no_gain = f"no significant gain (p {self.likelihood_p:.4f}, needed below {SIGNIFICANCE})"
        why = f"{MAIN} fell significantly" if lost else no_gain
        if self.kept_anyway:
            return f"{why}; kept anyway: {self.model}"
        remedy = "label more queries, give more --minutes, or keep the new model with --keep-anyway"
        return f"{why}, so the model is still {self.model}; {remedy}"


def compare(
    groups: list[Group], before: Rows, after: Rows, models: tuple[str, str], gain: str = LINEAR, *, trained_on: int,
    trainings: int = 1,
) -> AdaptationResult:  # fmt: skip
    """Compare the scores of two models on held-out lists.

    Args:
        groups: the held-out lists.
        before, after: scores of their documents from the old and from the new model.
        models: names of the old and the new model; the result contains the one to use.
        gain: gain of a label, "linear" or "exponential".
        trained_on: number of training queries.
        trainings: number of trainings.
    """
    labels = [group.labels for group in groups]
    old, new = (ndcg_of(labels, scores, gain) for scores in (before, after))
    old_likelihood, new_likelihood = (log_likelihood(scores, labels, gain) for scores in (before, after))
    p, likelihood = randomisation_test(new, old), float((new_likelihood - old_likelihood).mean())
    likelihood_p = randomisation_test(new_likelihood, old_likelihood)
    gained = likelihood > 0 and likelihood_p < SIGNIFICANCE
    better = gained and bool(new.mean() >= old.mean() or p >= SIGNIFICANCE)
    return AdaptationResult(
        float(old.mean()), float(new.mean()), p, likelihood, likelihood_p, len(groups), trained_on, better, models[better],
        trainings, gain,
    )  # fmt: skip


def _with_p(difference: float, p: float) -> str:
    return f"{difference:+.4f}, p {p:.4f}" + ("" if p < SIGNIFICANCE else ", which may be chance")
