"""What a calibrated model's probabilities are worth on a dataset: figures for results.json, a note, a section of the page.

Hard fact: only judged candidates count, as a probability is measured against what is known to be relevant or not.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from . import charts
from .candidates import Task
from .reliability import NAMES, bins, figures, sigmoid
from .scoring import Scored
from .terminal_report import figure, percent

if TYPE_CHECKING:
    from .results import Evaluation, Row

ABOUT = (
    "Of judged candidates: how far the probability that a calibrated model gives is from the share that is relevant, before (the "
    "sigmoid of the score) and after calibration. ECE: mean gap over 10 bins, of equal width or of equally many pairs. Diagrams: "
    "bins of equal width, the larger the dot the more pairs; on the diagonal probabilities are as often right as they say."
)
SHOWN = ("ece", "ece_equal_count", "brier")


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


def section(evaluation: "Evaluation") -> str:
    """The page's section, or nothing where no row has probabilities."""
    from .html_report import _figure, _named, colour, table

    rows = [(r, r.probabilities) for r in evaluation.rows if r.probabilities]
    if not rows:
        return ""
    body, parts = [], []
    for row, found in rows:
        changes = [figure(found[side][key]) for key in SHOWN for side in ("before", "after")]
        cells = [escape(found["method"]), str(found["pairs"]), percent(found["relevant"]), *changes]
        body.append(("", [escape(row.dataset), _named(evaluation, row.system), *cells]))
        svg = charts.reliability(found["bins_before"], found["bins_after"], colour(evaluation, row.system))
        parts.append(_figure(svg, f"{escape(row.dataset)} · {escape(row.system)}"))
    head = ["dataset", "system", "method", "pairs", "relevant", *(f"{NAMES[k]}{side}" for k in SHOWN for side in ("", ", after"))]
    grid = f'<div class="grid">{"".join(parts)}</div>'
    return f'<section class="pair"><h2>Probabilities</h2><p>{escape(ABOUT)}</p>{table(head, body)}{grid}</section>'
