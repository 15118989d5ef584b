"""Calibration error of a model's probabilities on a dataset, for results.json and the reports.

Only judged candidates count, because the relevance of the others is unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoints.calibration import sigmoid
from .candidates import Task
from .format import figure
from .reliability import NAMES, bins, figures
from .scoring import Scored

if TYPE_CHECKING:
    from .results import Row


def probabilities_of(model: Any, task: Task, scored: Scored) -> dict[str, Any] | None:
    """Measure the calibration error of a model's probabilities on a dataset.

    Args:
        model: the model.
        task: the dataset.
        scored: the model's scores of it.

    Returns:
        `method`, number of `pairs`, share `relevant`, and before and after calibration the figures of `reliability.figures`
        (`before`, `after`) and their bins (`bins_before`, `bins_after`). None if the model has no calibration, or if its judged
        candidates are all relevant or all not relevant.
    """
    calibration = getattr(model, "calibration", None)
    if calibration is None:
        return None
    scores, labels = _judged(task, scored, 1 if calibration.min_rel is None else calibration.min_rel)
    if len(set(labels)) < 2:
        return None
    measured = {"method": calibration.method, "pairs": len(labels), "relevant": float(labels.mean())}
    for name, probabilities in (("before", sigmoid(scores)), ("after", calibration.apply(scores))):
        measured |= {name: figures(probabilities, labels), f"bins_{name}": bins(probabilities, labels)}
    return measured


def _judged(task: Task, scored: Scored, min_rel: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (scores [n], labels [n] of 0 and 1) of the judged candidates."""
    pairs = [
        (score, float(task.qrels[query][document] >= min_rel))
        for query, row in scored.scores.items()
        for document, score in zip(scored.heads[query], row)
        if document in task.qrels.get(query, {})
    ]
    return np.array([score for score, _ in pairs]), np.array([label for _, label in pairs])


def note(row: "Row") -> str | None:
    """Return one line about a row's probabilities; None if it has none."""
    if not row.probabilities:
        return None
    before, after = row.probabilities["before"], row.probabilities["after"]
    changes = ", ".join(f"{NAMES[key]} {figure(before[key])} to {figure(after[key])}" for key in ("ece", "brier"))
    pairs = f"{row.probabilities['pairs']:,} judged candidates"
    return f"{row.system}: calibrated ({row.probabilities['method']}), on {pairs} {changes}"
