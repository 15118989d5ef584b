"""The section on probabilities of the HTML report."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from . import charts
from .format import figure, percent
from .html_parts import chart, colour, system_cell, table
from .reliability import NAMES

if TYPE_CHECKING:
    from .results import Evaluation

ABOUT = (
    "Of judged candidates: how far the probability that a calibrated model gives is from the share that is relevant, before (the "
    "sigmoid of the score) and after calibration. ECE: mean gap over 10 bins, of equal width or of equally many pairs. Diagrams: "
    "bins of equal width, the larger the dot the more pairs; on the diagonal probabilities are as often right as they say."
)
SHOWN = ("ece", "ece_equal_count", "brier")


def section(evaluation: "Evaluation") -> str:
    """The page's section, or nothing where no row has probabilities."""
    rows = [(r, r.probabilities) for r in evaluation.rows if r.probabilities]
    if not rows:
        return ""
    body, parts = [], []
    for row, found in rows:
        changes = [figure(found[side][key]) for key in SHOWN for side in ("before", "after")]
        cells = [escape(found["method"]), str(found["pairs"]), percent(found["relevant"]), *changes]
        body.append(("", [escape(row.dataset), system_cell(evaluation, row.system), *cells]))
        svg = charts.reliability(found["bins_before"], found["bins_after"], colour(evaluation, row.system))
        parts.append(chart(svg, f"{escape(row.dataset)} · {escape(row.system)}"))
    head = ["dataset", "system", "method", "pairs", "relevant", *(f"{NAMES[k]}{side}" for k in SHOWN for side in ("", ", after"))]
    grid = f'<div class="grid">{"".join(parts)}</div>'
    return f'<section class="pair"><h2>Probabilities</h2><p>{escape(ABOUT)}</p>{table(head, body)}{grid}</section>'
