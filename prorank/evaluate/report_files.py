"""Write an evaluation as results.json and report.html."""

from __future__ import annotations

from pathlib import Path

from ..utils.files import atomic_file
from ..utils.strict_json import dumps
from .html_report import page
from .results import Evaluation


def write(evaluation: Evaluation, out: str | Path) -> None:
    """Write results.json and report.html into the folder `out`, each file atomically.

    results.json contains all figures of the report and the values of every query, but no text of a dataset.
    """
    out = Path(out)
    with atomic_file(out / "results.json") as handle:
        handle.write(dumps(evaluation.to_dict(), indent=1, ensure_ascii=False) + "\n")
    with atomic_file(out / "report.html") as handle:
        handle.write(page(evaluation))
