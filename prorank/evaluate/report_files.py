"""Write an evaluation as results.json and report.html."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.files import atomic_file
from ..utils.strict_json import dumps

if TYPE_CHECKING:
    from .results import Evaluation


def write(evaluation: "Evaluation", out: str | Path) -> None:
    """Write results.json and report.html into `out`, each whole or not at all."""
    from .html_report import page

    out = Path(out)
    with atomic_file(out / "results.json") as handle:
        handle.write(dumps(evaluation.to_dict(), indent=1, ensure_ascii=False) + "\n")
    with atomic_file(out / "report.html") as handle:
        handle.write(page(evaluation))
