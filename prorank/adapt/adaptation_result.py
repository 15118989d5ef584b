"""What `adapt` found, in figures and in words."""

from __future__ import annotations

from dataclasses import dataclass

from ..evaluate.gains import FORMULA, LINEAR
from ..evaluate.measures import MAIN

SURE = 0.05  # a p below it is no chance


@dataclass(frozen=True)
class AdaptationResult:
    """What came of it.

    Attributes:
        before, after: nDCG@10 over the `queries` that decide. p: of their difference (paired randomisation, two-sided).
        likelihood, likelihood_p: what the log-likelihood of their relevant documents gained, and its p.
        trained_on: queries of the training.
        better: whether the likelihood gained beyond chance and nDCG did not fall beyond chance.
        model: the one to use: the new checkpoint where it is better, or was kept anyway.
        trainings: one that left those queries out, or several that each left out a part of them, whose mean is the new checkpoint.
        gain: of a label in nDCG and in the likelihood.
        kept_anyway: the new checkpoint is kept though there is no evidence that it is better.
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
            where = f"on {self.queries} queries, each held out by one of {self.trainings} trainings"
        gain = _told(self.after - self.before, self.p)
        heard = f"log-likelihood of their relevant documents {_told(self.likelihood, self.likelihood_p)}"
        measure = MAIN if self.gain == LINEAR else f"{MAIN} with gains {FORMULA[self.gain]}"
        return f"{measure} before {self.before:.4f}, after {self.after:.4f} ({gain}) {where}\n{heard}\n{self._verdict()}"

    def _verdict(self) -> str:
        """What is kept, and what to do where nothing is."""
        if self.better:
            return f"kept: {self.model}"
        lost = self.p < SURE and self.after < self.before
        why = f"{MAIN} fell beyond chance" if lost else f"no significant gain (p {self.likelihood_p:.4f}, needed below {SURE})"
        if self.kept_anyway:
            return f"{why}; kept anyway: {self.model}"
        remedy = "label more queries, give more --minutes, or take the new one all the same by --keep-anyway"
        return f"{why}, so the model stays {self.model}; {remedy}"


def _told(gain: float, p: float) -> str:
    return f"{gain:+.4f}, p {p:.4f}" + ("" if p < SURE else ", which may be chance")
