"""The result of an evaluation: rows of figures, comparisons, and the values of every query.

The mean over several datasets gives each dataset the same weight, independent of its number of queries.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..errors import ConfigError
from .measures import Values

FIRST, MODEL, ANSWERS = "first stage", "model", "answers only"


@dataclass
class Row:
    """One system on one dataset.

    Attributes:
        dataset, system: names in the tables.
        kind: FIRST, MODEL or ANSWERS.
        measures: mean of each measure over its queries.
        queries: number of queries that count for nDCG@10.
        ci: 95 % bootstrap interval of nDCG@10.
        difference, difference_ci, p: difference in nDCG@10 to the first stage, its interval and p-value; None for the first stage.
        p_holm: `p` after Holm's correction; only for models, as answers-only rows belong to no family of tests.
        tie_share: share of documents with the score of another document of the same query.
        format_rate, findings: figures of a diagnosed sample, see `diagnostics.Findings`.
        documents, seconds, documents_per_second: number of scored documents, time and speed.
        cuts, cost: the model's counts of truncated texts and of tokens.
        without_text: candidates without text, which were not scored.
        reused: whether the scores come from an earlier call.
        probabilities: calibration error, see `calibration_figures.probabilities_of`.
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
    """Two models on one dataset: the `difference` a - b in nDCG@10, and `p_holm` corrected over the dataset's pairs of models."""

    dataset: str
    a: str
    b: str
    difference: float
    ci: tuple[float, float]
    p: float
    p_holm: float


@dataclass
class Evaluation:
    """All figures of an evaluation.

    Attributes:
        rows: one row per dataset and system.
        comparisons: comparisons of every two models.
        notes: dataset -> notes on data that were left out.
        skipped: dataset -> ids of queries without a positive judgement.
        settings: arguments of `evaluate`, and its environment.
        values: dataset -> system -> measure -> query id -> value.
        queries: dataset -> query id -> text, for the HTML report.
        whole_names: full name of a dataset or system -> its names in the tables.
    """

    rows: list[Row] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    values: dict[str, dict[str, Values]] = field(default_factory=dict)
    queries: dict[str, dict[str, str]] = field(default_factory=dict)
    whole_names: dict[str, list[str]] = field(default_factory=dict)

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets, in order."""
        return list(self.values)

    @property
    def systems(self) -> list[str]:
        """Systems in table order: first stages, then models, each with its answers-only row."""
        return list(dict.fromkeys(r.system for r in sorted(self.rows, key=lambda r: r.kind != FIRST)))

    def row(self, dataset: str, system: str) -> Row:
        """Return the row of a system on a dataset.

        Args:
            dataset: name in the tables, or argument of `evaluate`.
            system: name in the tables ("demo/score"), or the model's full name ("runs/demo/score").

        Raises:
            ConfigError: there is no such row, or a full name fits several. The message lists the known names.
        """
        dataset, system = self._shown(dataset, self.datasets, "dataset"), self._shown(system, self.systems, "system")
        if row := self.find(dataset, system):
            return row
        known = ", ".join(r.system for r in self.rows if r.dataset == dataset)
        raise ConfigError(f"dataset '{dataset}' has no row of system '{system}'; it has those of {known}")

    def find(self, dataset: str, system: str) -> Row | None:
        """Return the row with these names in the tables, or None."""
        return next((r for r in self.rows if (r.dataset, r.system) == (dataset, system)), None)

    def rows_of(self, system: str) -> list[Row]:
        """Return the rows of a system, in the order of the datasets."""
        rows = (self.find(dataset, system) for dataset in self.datasets)
        return [row for row in rows if row is not None]

    def mean(self, system: str) -> dict[str, float]:
        """Return the mean of each measure over the datasets, with equal weights.

        Raises:
            ConfigError: the system is unknown, or a dataset lacks it.
        """
        system = self._shown(system, self.systems, "system")
        rows = [self.row(dataset, system) for dataset in self.datasets]
        return {name: float(np.mean([r.measures[name] for r in rows])) for name in rows[0].measures}

    def means(self) -> dict[str, dict[str, float]]:
        """Return `mean` of every system that has a row on all datasets, in table order."""
        return {s: self.mean(s) for s in self.systems if all(self.find(dataset, s) for dataset in self.datasets)}

    def note_name(self, whole: str, shown: str) -> None:
        """Allow looking up a dataset or a system by its full name, too."""
        self.whole_names.setdefault(whole, []).append(shown)
        self.whole_names.setdefault(answers_name(whole), []).append(answers_name(shown))

    def _shown(self, name: str, known: list[str], what: str) -> str:
        """Return the name in the tables for `name`. Raises ConfigError if it is unknown or fits several."""
        short = dict.fromkeys(self.whole_names.get(str(name), []))
        fitting = [name] if name in known else [one for one in short if one in known]
        if len(fitting) == 1:
            return fitting[0]
        listed = ", ".join(fitting or known)
        if fitting:
            raise ConfigError(f"{what} '{name}' stands for {len(fitting)} {what}s; name one of: {listed}")
        raise ConfigError(f"{what} '{name}' is not in this evaluation; known: {listed}")

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain values for JSON, with means if there are several datasets."""
        figures = {"settings": self.settings, "rows": [asdict(r) for r in self.rows]}
        figures["comparisons"] = [asdict(c) for c in self.comparisons]
        if len(self.datasets) > 1:
            figures["means"] = self.means()
        return figures | {"notes": self.notes, "skipped_queries": self.skipped, "values": self.values}


def answers_name(system: str) -> str:
    """Return the name of the row that ranks by a model's 0/1 answers only."""
    return f"{system}, 0/1 only"
