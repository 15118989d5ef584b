"""What an evaluation found: rows of figures, comparisons, and every query's values.

The mean over several sets gives each set the same weight, whatever its number of queries.
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
    """All figures. `values`: dataset -> system -> measure -> query id -> value; `queries`: texts, for the report;
    `whole_names`: whole name -> names in the tables, where those are shorter."""

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
        return list(self.values)

    @property
    def systems(self) -> list[str]:
        """Systems in table order: first stages, then models, each with its answers-only row."""
        return list(dict.fromkeys(r.system for r in sorted(self.rows, key=lambda r: r.kind != FIRST)))

    def row(self, dataset: str, system: str) -> Row:
        """The row of a system on a dataset.

        Args:
            dataset: as the tables name it, or as it was given to `evaluate`.
            system: likewise: "demo/score", or the model's whole name "runs/demo/score".

        Raises:
            ConfigError: there is no such row, or a whole name fits several; the message lists those that are known.
        """
        dataset, system = self._shown(dataset, self.datasets, "dataset"), self._shown(system, self.systems, "system")
        if found := self.find(dataset, system):
            return found
        there = ", ".join(r.system for r in self.rows if r.dataset == dataset)
        raise ConfigError(f"dataset '{dataset}' has no row of system '{system}'; it has those of {there}")

    def find(self, dataset: str, system: str) -> Row | None:
        """The row of these names as the tables have them; None where there is none."""
        return next((r for r in self.rows if (r.dataset, r.system) == (dataset, system)), None)

    def rows_of(self, system: str) -> list[Row]:
        """The rows of a system, in the order of the datasets."""
        rows = (self.find(dataset, system) for dataset in self.datasets)
        return [row for row in rows if row is not None]

    def mean(self, system: str) -> dict[str, float]:
        """Mean over the datasets of each measure (every set weighs the same).

        Raises:
            ConfigError: the system is not known, or a dataset lacks it.
        """
        system = self._shown(system, self.systems, "system")
        rows = [self.row(dataset, system) for dataset in self.datasets]
        return {name: float(np.mean([r.measures[name] for r in rows])) for name in rows[0].measures}

    def means(self) -> dict[str, dict[str, float]]:
        """`mean` of every system that all datasets have, in table order."""
        return {s: self.mean(s) for s in self.systems if all(self.find(dataset, s) for dataset in self.datasets)}

    def note_name(self, whole: str, shown: str) -> None:
        """Let a dataset or a system be looked up by its whole name too."""
        self.whole_names.setdefault(whole, []).append(shown)
        self.whole_names.setdefault(answers_name(whole), []).append(answers_name(shown))

    def _shown(self, name: str, known: list[str], what: str) -> str:
        """The name that tables show for `name`. Raises ConfigError for one that is not known or fits several."""
        short = dict.fromkeys(self.whole_names.get(str(name), []))
        fitting = [name] if name in known else [one for one in short if one in known]
        if len(fitting) == 1:
            return fitting[0]
        listed = ", ".join(fitting or known)
        if fitting:
            raise ConfigError(f"{what} '{name}' stands for {len(fitting)} {what}s; name one of: {listed}")
        raise ConfigError(f"{what} '{name}' is not in this evaluation; known: {listed}")

    def to_dict(self) -> dict[str, Any]:
        """Plain figures for JSON, with means over the sets where there are several."""
        found = {"settings": self.settings, "rows": [asdict(r) for r in self.rows]}
        found["comparisons"] = [asdict(c) for c in self.comparisons]
        if len(self.datasets) > 1:
            found["means"] = self.means()
        return found | {"notes": self.notes, "skipped_queries": self.skipped, "values": self.values}


def answers_name(system: str) -> str:
    """Name of the row that orders by a model's 0/1 answers alone."""
    return f"{system}, 0/1 only"
