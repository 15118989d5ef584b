"""What an evaluation found: rows of figures, comparisons, and every query's values.

Hard fact: the mean over several sets gives each set the same weight, whatever its number of queries.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .measures import Values

FIRST, MODEL, ANSWERS = "first stage", "model", "answers only"


@dataclass
class Row:
    """One system on one dataset. `difference`, `p`, `p_holm`: against the first stage on nDCG@10.

    Answers-only rows belong to no family of tests: they have `p` alone.
    """

    dataset: str
    system: str
    kind: str
    measures: dict[str, float]
    queries: int
    ci: tuple[float, float]
    difference: float | None = None
    difference_ci: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    tie_share: float | None = None
    format_rate: float | None = None
    findings: dict[str, float] | None = None
    documents: int | None = None
    seconds: float | None = None
    documents_per_second: float | None = None
    cuts: dict[str, int] | None = None
    cost: dict[str, float] | None = None
    without_text: int | None = None
    reused: bool = False
    probabilities: dict[str, Any] | None = None


@dataclass(frozen=True)
class Comparison:
    """Two models on one dataset, nDCG@10: `difference` is a - b, `p_holm` corrected over the dataset's pairs."""

    dataset: str
    a: str
    b: str
    difference: float
    ci: tuple[float, float]
    p: float
    p_holm: float


@dataclass
class Evaluation:
    """All figures. `values`: dataset -> system -> measure -> query id -> value; `queries`: texts, for the report."""

    rows: list[Row] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    values: dict[str, dict[str, Values]] = field(default_factory=dict)
    queries: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def datasets(self) -> list[str]:
        return list(self.values)

    @property
    def systems(self) -> list[str]:
        """Systems in table order: first stages, then models, each with its answers-only row."""
        return list(dict.fromkeys(r.system for r in sorted(self.rows, key=lambda r: r.kind != FIRST)))

    def row(self, dataset: str, system: str) -> Row | None:
        return next((r for r in self.rows if (r.dataset, r.system) == (dataset, system)), None)

    def rows_of(self, system: str) -> list[Row]:
        """The rows of a system, in the order of the datasets."""
        rows = (self.row(dataset, system) for dataset in self.datasets)
        return [row for row in rows if row is not None]

    def mean(self, system: str) -> dict[str, float] | None:
        """Mean over the datasets of each measure (every set weighs the same); None where a set lacks the system."""
        rows = self.rows_of(system)
        if len(rows) < len(self.datasets):
            return None
        return {name: float(np.mean([r.measures[name] for r in rows])) for name in rows[0].measures}

    def to_dict(self) -> dict[str, Any]:
        """Plain figures for JSON, with means over the sets where there are several."""
        found = {"settings": self.settings, "rows": [asdict(r) for r in self.rows]}
        found["comparisons"] = [asdict(c) for c in self.comparisons]
        if len(self.datasets) > 1:
            found["means"] = {s: self.mean(s) for s in self.systems if self.mean(s)}
        return found | {"notes": self.notes, "skipped_queries": self.skipped, "values": self.values}


def answers_name(system: str) -> str:
    """Name of the row that orders by a model's 0/1 answers alone."""
    return f"{system}, 0/1 only"
