"""The HTML report of an evaluation: one self-contained file, with light and dark style.

`page` prepares the data for `templates/`. The templates escape all texts (see `html_templates`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import charts
from .format import gain_note
from .html_templates import template_environment
from .measures import MAIN
from .reliability import NAMES, Bin
from .results import ANSWERS, FIRST, MODEL, answers_name
from .significance import randomisation_test

if TYPE_CHECKING:
    from .results import Evaluation, Row

EXAMPLES = 5  # queries with the largest gains, and as many with the largest losses
COLOURS = 8  # CSS variables --c0 to --c7; 0 is the first stage's
CALIBRATION_MEASURES = ("ece", "ece_equal_count", "brier")


@dataclass(frozen=True)
class DatasetRows:
    """Table of a dataset: its rows, and the value of each measure to print in bold."""

    name: str
    rows: "list[Row]"
    best: dict[str, float]


@dataclass(frozen=True)
class ExampleQuery:
    """A query whose nDCG@10 was changed by a model."""

    query_id: str
    text: str
    before: float
    after: float


@dataclass(frozen=True)
class ModelChange:
    """Changes in nDCG@10 by a model relative to the first stage of a dataset.

    Attributes:
        better, worse, equal: number of queries.
        svg: chart of the differences by query.
        examples: queries with the largest gains and losses.
    """

    dataset: str
    system: str
    first_stage: str
    better: int
    worse: int
    equal: int
    svg: str
    examples: list[ExampleQuery]


@dataclass(frozen=True)
class AnswerFinding:
    """A row with diagnostics, nDCG@10 by its 0/1 answers only, and the p-value of the difference to its log-odds."""

    row: "Row"
    by_answers: float | None
    p: float | None


def page(evaluation: "Evaluation") -> str:
    """Render the whole page."""
    colours = _colours(evaluation)
    means = evaluation.means() if len(evaluation.datasets) > 1 else {}
    return template_environment().get_template("report.html").render(
        evaluation=evaluation,
        main=MAIN,
        kinds={row.system: row.kind for row in reversed(evaluation.rows)},
        colours=colours,
        lead=_lead(evaluation),
        means=means,
        best_mean=_best(mean[MAIN] for mean in means.values()),
        datasets=[_dataset_rows(evaluation, name) for name in evaluation.datasets],
        bar_charts=_bar_charts(evaluation, colours),
        changes=[_model_change(evaluation, row, colours) for row in evaluation.rows if row.kind == MODEL],
        findings=[_answer_finding(evaluation, row) for row in evaluation.rows if row.findings],
        reliability=[(row, _reliability_chart(row, colours)) for row in evaluation.rows if row.probabilities],
        calibration_measures=CALIBRATION_MEASURES,
        calibration_head=[f"{NAMES[name]}{side}" for name in CALIBRATION_MEASURES for side in ("", ", after")],
        notes=[(dataset, note) for dataset, notes in evaluation.notes.items() for note in notes],
        command=evaluation.settings["environment"]["command"],
        settings=_settings(evaluation),
    )  # fmt: skip


def _colours(evaluation: "Evaluation") -> dict[str, int]:
    """Return the number of each system's colour: 0 for first stages, 1, 2, ... for models in their order."""
    models = list(dict.fromkeys(row.system for row in evaluation.rows if row.kind == MODEL))
    return {s: 1 + models.index(s) % (COLOURS - 1) if s in models else 0 for s in evaluation.systems}


def _lead(evaluation: "Evaluation") -> str:
    rows = [row for row in evaluation.rows if row.kind == FIRST]
    first_stages = ", ".join(dict.fromkeys(row.system for row in rows))
    datasets = f"{len(rows)} dataset{'s' * (len(rows) > 1)}"
    queries = f"{sum(row.queries for row in rows):,} queries"
    date = evaluation.settings["environment"]["date"]
    return " · ".join([datasets, queries, f"first stage: {first_stages}", gain_note(evaluation), date])


def _best(values: Iterable[float]) -> float:
    """Return the largest value, to print in bold; infinity if all are equal."""
    distinct = set(values)
    return max(distinct) if len(distinct) > 1 else math.inf


def _dataset_rows(evaluation: "Evaluation", dataset: str) -> DatasetRows:
    rows = [row for row in evaluation.rows if row.dataset == dataset]
    return DatasetRows(dataset, rows, {name: _best(row.measures[name] for row in rows) for name in rows[0].measures})


def _bar_charts(evaluation: "Evaluation", colours: dict[str, int]) -> list[tuple[str, str]]:
    """Return (dataset, SVG) of each dataset, with a common scale."""
    rows = [row for row in evaluation.rows if row.kind != ANSWERS]
    scale_end = min(1.0, math.ceil(max(0.1, *(row.ci[1] for row in rows)) * 10) / 10)
    values: dict[str, list[charts.BarValue]] = {dataset: [] for dataset in evaluation.datasets}
    for row in rows:
        values[row.dataset].append(charts.BarValue(row.system, colours[row.system], row.measures[MAIN], *row.ci))
    return [(dataset, charts.bars(bars, scale_end)) for dataset, bars in values.items()]


def _model_change(evaluation: "Evaluation", row: "Row", colours: dict[str, int]) -> ModelChange:
    first = next(r for r in evaluation.rows if r.dataset == row.dataset and r.kind == FIRST)
    after, before = (evaluation.values[row.dataset][r.system][MAIN] for r in (row, first))
    changes, texts = {query: after[query] - before[query] for query in after}, evaluation.queries[row.dataset]
    better, worse = (sum(sign * change > 1e-12 for change in changes.values()) for sign in (1, -1))
    return ModelChange(
        row.dataset, row.system, first.system, better, worse, len(changes) - better - worse,
        svg=charts.differences([(texts[query], change) for query, change in changes.items()], colours[row.system]),
        examples=[ExampleQuery(query, texts[query][:240], before[query], after[query]) for query in _largest(changes)],
    )  # fmt: skip


def _largest(changes: dict[str, float]) -> list[str]:
    """Return the queries with the largest gains, then those with the largest losses."""
    ordered = sorted(changes, key=lambda query: -changes[query])
    gains, losses = ordered[:EXAMPLES], ordered[-EXAMPLES:]
    return [query for query in gains if changes[query] > 0] + [query for query in losses if changes[query] < 0]


def _answer_finding(evaluation: "Evaluation", row: "Row") -> AnswerFinding:
    answers = evaluation.find(row.dataset, answers_name(row.system))
    if answers is None:
        return AnswerFinding(row, None, None)
    scores, binary = (list(evaluation.values[row.dataset][s][MAIN].values()) for s in (row.system, answers.system))
    p = randomisation_test(scores, binary, evaluation.settings["flips"], evaluation.settings["seed"])
    return AnswerFinding(row, answers.measures[MAIN], p)


def _reliability_chart(row: "Row", colours: dict[str, int]) -> str:
    probabilities = row.probabilities or {}
    before, after = ([Bin(*one) for one in probabilities[name]] for name in ("bins_before", "bins_after"))
    return charts.reliability(before, after, colours[row.system])


def _settings(evaluation: "Evaluation") -> dict[str, str]:
    """Return settings, machine and package versions as text, without those that are None."""
    origin = evaluation.settings["environment"]
    shown = {name: value for name, value in evaluation.settings.items() if name != "environment"}
    shown |= {name: value for name, value in origin.items() if name not in ("command", "packages")}
    shown |= origin["packages"]
    return {name: _as_text(value) for name, value in shown.items() if value is not None}


def _as_text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
