"""Build an Evaluation row by row: measures, intervals, significance tests, notes and run files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.trec import write_run
from .calibration_figures import note, probabilities_of
from .candidates import Options, Task
from .diagnostics import tie_share
from .measures import MAIN, Ranking, means, measure, rank_scores
from .results import ANSWERS, FIRST, MODEL, Comparison, Evaluation, Row, answers_name
from .scoring import Scored, reranked
from .significance import bootstrap_ci, holm, randomisation_test
from .system_names import slug

FLIPS, LEVEL = 10_000, 0.95  # sign patterns of the randomisation test, level of the intervals


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference in nDCG@10 of two systems over a dataset's queries, with interval and p-value."""

    mean: float
    ci: tuple[float, float]
    p: float


class EvaluationBuilder:
    """Adds rows to an Evaluation and writes each system's run file as soon as its ranking is known.

    Args:
        options: how candidates and measures are made.
        sample: number of pairs of each model's diagnosis, for the report.
        tasks: the datasets.
        out: folder of the run files; None to write none.
    """

    def __init__(self, options: Options, sample: int, tasks: list[Task], out: Path | None) -> None:
        settings = asdict(options) | {"sample": sample, "datasets": [task.name for task in tasks]}
        self.result, self.options, self.out = Evaluation(settings=settings), options, out
        self.recall_at = sorted({10, options.top_k})

    def add_first_stage(self, task: Task) -> None:
        """Add a dataset, and the row of its first stage."""
        self.result.values[task.name] = {}
        self.result.notes[task.name] = task.notes
        self.result.skipped[task.name] = task.skipped
        self.result.queries[task.name] = {q: task.collection.queries[q] for q in task.queries}
        self._add(task, task.first, FIRST, task.ranking)

    def add_model(self, task: Task, model: Any, scored: Scored) -> None:
        """Add a model's row on a dataset, and the row of its 0/1 answers if it has `diagnose`.

        Args:
            task: the dataset.
            model: the model.
            scored: its scores of the dataset.
        """
        row = self._add(task, model.name, MODEL, reranked(task, scored, self.options.top_k))
        row.documents, row.seconds, row.cuts, row.reused = scored.documents, scored.seconds, scored.cuts, scored.reused
        row.cost = scored.cost
        row.documents_per_second = scored.documents / scored.seconds if scored.seconds else None
        row.tie_share, row.without_text, row.findings = tie_share(scored.scores), scored.without_text, scored.findings
        row.format_rate = (scored.findings or {}).get("format_rate")
        row.probabilities = probabilities_of(model, task, scored)
        if getattr(model, "can_diagnose", hasattr(model, "diagnose")):
            by_answers = reranked(task, scored, self.options.top_k, answers=True)
            self._add(task, answers_name(model.name), ANSWERS, by_answers)
        self.result.notes[task.name] += _notes(row)

    def _add(self, task: Task, system: str, kind: str, ranking: Ranking) -> Row:
        values = measure(task.qrels, ranking, task.queries, self.recall_at, self.options.min_rel, self.options.gain)
        self.result.values[task.name][system] = values
        main = list(values[MAIN].values())
        row = Row(task.name, system, kind, means(values), len(main), bootstrap_ci(main, LEVEL, seed=self.options.seed))
        if kind != FIRST:
            against_first = self._difference(task.name, system, task.first)
            row.difference, row.difference_ci, row.p = against_first.mean, against_first.ci, against_first.p
        self.result.rows.append(row)
        if self.out and kind != ANSWERS:
            write_run(self.out / f"{task.name}.{slug(system)}.run", rank_scores(ranking), slug(system))
        return row

    def _difference(self, dataset: str, a: str, b: str) -> PairedDifference:
        """Return the difference system a - system b."""
        x, y = (np.array(list(self.result.values[dataset][s][MAIN].values())) for s in (a, b))
        seed = self.options.seed
        return PairedDifference(float((x - y).mean()), bootstrap_ci(x - y, LEVEL, seed=seed), randomisation_test(x, y, FLIPS, seed))

    def compare_models(self) -> None:
        """Compare all pairs of models, and correct p-values by Holm's method.

        On each dataset, models against the first stage are one family of tests, pairs of models another.
        """
        for dataset in self.result.datasets:
            rows = [r for r in self.result.rows if r.dataset == dataset and r.kind == MODEL]
            tested = [(row, row.p) for row in rows if row.p is not None]
            for (row, _), p in zip(tested, holm([p for _, p in tested])):
                row.p_holm = p
            pairs = [(later.system, row.system) for i, row in enumerate(rows) for later in rows[i + 1 :]]
            differences = [self._difference(dataset, a, b) for a, b in pairs]
            for (a, b), difference, p in zip(pairs, differences, holm([d.p for d in differences])):
                comparison = Comparison(dataset, a, b, difference.mean, difference.ci, difference.p, p)
                self.result.comparisons.append(comparison)


def _notes(row: Row) -> list[str]:
    """Return notes on missing texts, truncation and cached scores of a model's row."""
    notes = []
    if row.without_text:
        notes.append(f"{row.system}: {row.without_text} candidates without text were not reranked; they follow the others")
    if row.cuts and (row.cuts.get("documents") or row.cuts.get("queries")):
        truncated = f"{row.cuts['documents']:,} of {row.documents:,} documents and {row.cuts['queries']:,} queries"
        notes.append(f"{row.system}: {truncated} were truncated to the prompt's length")
    if row.cuts and row.cuts.get("chunked"):
        chunked = f"{row.cuts['chunked']:,} of {row.documents:,} documents were read in {row.cuts['chunks']:,} overlapping chunks"
        notes.append(f"{row.system}: {chunked}, of which the best counts")
    if about_probabilities := note(row):
        notes.append(about_probabilities)
    if row.reused:
        notes.append(f"{row.system}: scores reused from an earlier call (same weights, same texts)")
    return notes
