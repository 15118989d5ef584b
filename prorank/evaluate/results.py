"""The result of an evaluation: rows of figures, comparisons, and the values of every query.

The mean over several datasets weighs each dataset the same, whatever its number of queries.
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
        difference, difference_ci, p: of nDCG@10 against the first stage; None for the first stage itself.
        p_holm: `p` after Holm's correction; models only, as answers-only rows belong to no family of tests.
        tie_share: share of documents with the score of another document of the same query.
        format_rate, findings: of a diagnosed sample, see `diagnostics.Findings`.
        documents, seconds, documents_per_second: documents scored, and how fast.
        cuts, cost: texts that were truncated, and tokens that were used, as the model counted them.
        without_text: candidates without text, which were not scored.
        reused: the scores come from an earlier call.
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
        rows: one a dataset and system.
        comparisons: of every two models.
        notes: dataset -> notes on what was left out.
        skipped: dataset -> ids of queries without a positive judgement.
        settings: arguments of `evaluate`, its environment included.
        values: dataset -> system -> measure -> query id -> value.
        queries: dataset -> query id -> text, for the HTML report.
        whole_names: whole name of a dataset or system -> its names in the tables.
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
        """Names of the datasets, in their order."""
        return list(self.values)

    @property
    def systems(self) -> list[str]:
        """Systems in table order: first stages, then models, each with its answers-only row."""
        return list(dict.fromkeys(r.system for r in sorted(self.rows, key=lambda r: r.kind != FIRST)))

    def row(self, dataset: str, system: str) -> Row:
        """The row of a system on a dataset.

        Args:
            dataset: its name in the tables, or the argument of `evaluate`.
            system: its name in the tables ("demo/score"), or the model's whole name ("runs/demo/score").

        Raises:
            ConfigError: there is no such row, or a whole name fits several. The message lists the known names.
        """
        dataset, system = self._shown(dataset, self.datasets, "dataset"), self._shown(system, self.systems, "system")
        if row := self.find(dataset, system):
            return row
        known = ", ".join(r.system for r in self.rows if r.dataset == dataset)
        raise ConfigError(f"dataset '{dataset}' has no row of system '{system}'; it has those of {known}")

    def find(self, dataset: str, system: str) -> Row | None:
        """The row with these names in the tables, or None."""
        return next((r for r in self.rows if (r.dataset, r.system) == (dataset, system)), None)

    def rows_of(self, system: str) -> list[Row]:
        """The rows of a system, in the order of the datasets."""
        rows = (self.find(dataset, system) for dataset in self.datasets)
        return [row for row in rows if row is not None]

    def mean(self, system: str) -> dict[str, float]:
        """Mean of each measure over the datasets, each weighing the same.

        Raises:
            ConfigError: unknown system, or a dataset lacks it.
        """
        system = self._shown(system, self.systems, "system")
        rows = [self.row(dataset, system) for dataset in self.datasets]
        return {name: float(np.mean([r.measures[name] for r in rows])) for name in rows[0].measures}

    def means(self) -> dict[str, dict[str, float]]:
        """`mean` of every system that has a row on all datasets, in table order."""
        return {s: self.mean(s) for s in self.systems if all(self.find(dataset, s) for dataset in self.datasets)}

    def note_name(self, whole: str, shown: str) -> None:
        """Let a dataset or a system also be looked up by its whole name."""
        self.whole_names.setdefault(whole, []).append(shown)
        self.whole_names.setdefault(answers_name(whole), []).append(answers_name(shown))

    def _shown(self, name: str, known: list[str], what: str) -> str:
        """The name in the tables that `name` stands for. Raises ConfigError if it is unknown or fits several."""
        short = dict.fromkeys(self.whole_names.get(str(name), []))
        fitting = [name] if name in known else [one for one in short if one in known]
        if len(fitting) == 1:
            return fitting[0]
        listed = ", ".join(fitting or known)
        if fitting:
            raise ConfigError(f"{what} '{name}' stands for {len(fitting)} {what}s; name one of: {listed}")
        raise ConfigError(f"{what} '{name}' is not in this evaluation; known: {listed}")

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values for JSON, with means if there are several datasets."""
        figures = {"settings": self.settings, "rows": [asdict(r) for r in self.rows]}
        figures["comparisons"] = [asdict(c) for c in self.comparisons]
        if len(self.datasets) > 1:
            figures["means"] = self.means()
        return figures | {"notes": self.notes, "skipped_queries": self.skipped, "values": self.values}


def answers_name(system: str) -> str:
    """Name of the row that ranks by a model's 0/1 answers alone."""
    return f"{system}, 0/1 only"
