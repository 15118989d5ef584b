"""What a calibrated model's probabilities are worth on a dataset: figures for results.json, a note, a section of the page.

Only judged candidates count, as a probability is measured against what is known to be relevant or not.
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
    """Figures of `reliability.figures` before and after the model's calibration, and the bins of both; None where it has no
    calibration, or where the judged candidates are all relevant or all not."""
    calibration = getattr(model, "calibration", None)
    if calibration is None:
        return None
    least = 1 if calibration.min_rel is None else calibration.min_rel
    judged = [
        (score, float(task.qrels[query][document] >= least))
        for query, row in scored.scores.items()
        for document, score in zip(scored.heads[query], row)
        if document in task.qrels.get(query, {})
    ]
    if len({label for _, label in judged}) < 2:
        return None
    scores, labels = (np.array(some) for some in zip(*judged))
    found = {"method": calibration.method, "pairs": len(labels), "relevant": float(labels.mean())}
    for name, said in (("before", sigmoid(scores)), ("after", calibration.apply(scores))):
        found |= {name: figures(said, labels), f"bins_{name}": bins(said, labels)}
    return found


def note(row: "Row") -> str | None:
    """A line about a row's probabilities, if it has any."""
    if not row.probabilities:
        return None
    before, after = row.probabilities["before"], row.probabilities["after"]
    told = ", ".join(f"{NAMES[key]} {figure(before[key])} to {figure(after[key])}" for key in ("ece", "brier"))
    pairs = f"{row.probabilities['pairs']:,} judged candidates"
    return f"{row.system}: calibrated ({row.probabilities['method']}), on {pairs} {told}"
