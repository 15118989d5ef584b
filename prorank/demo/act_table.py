"""The demo's figures: a table by acts, single lines, and summary.json."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.files import atomic_file
from ..utils.strict_json import dumps
from ..utils.terminal import plain, stdout_console
from .django_docs import CANDIDATES
from .systems import ACTS

if TYPE_CHECKING:
    from ..evaluate.results import Evaluation, Row

MAIN, SECOND = "nDCG@10", "MRR@10"


def rows_of(evaluation: Evaluation) -> list[Row]:
    """The first stage's row and one of each system."""
    from ..evaluate.results import ANSWERS

    return [row for row in evaluation.rows if row.kind != ANSWERS]


def show_result(evaluation: Evaluation, system: str) -> None:
    """Print a system's nDCG@10 beside that of BM25."""
    from ..evaluate.format import figure, probability, signed

    first, row = rows_of(evaluation)[0], evaluation.rows_of(system)[0]
    p = probability(row.p if row.p is not None else 1.0)
    print(f"{MAIN}: BM25 {figure(first.measures[MAIN])}, {system} {figure(row.measures[MAIN])} ({signed(row.difference)}, p {p})")


def compare(evaluation: Evaluation, a: str, b: str) -> str:
    """The difference of two systems, as a line."""
    from ..evaluate.format import probability, signed

    pair = next(one for one in evaluation.comparisons if {one.a, one.b} == {a, b})
    difference = pair.difference if pair.a == a else -pair.difference
    return f"{a} against {b}: {signed(difference)} {MAIN}, p {probability(pair.p)} (this comparison alone)"


def show_table(evaluation: Evaluation) -> None:
    """Print the systems, act by act."""
    from rich.table import Table

    from ..evaluate.format import figure, p_value, percent, signed

    rows = rows_of(evaluation)
    table = Table(
        "act", "system", MAIN, "format", "vs BM25", "p (Holm)", title=f"{rows[0].queries} headings of the Django documentation"
    )
    shown = ""
    for row in rows:
        act = "" if row is rows[0] else ACTS.get(row.system, "train")
        cells = [figure(row.measures[MAIN]), percent(row.format_rate), signed(row.difference), p_value(row)]
        table.add_row(act if act != shown else "", plain(row.system), *cells)
        shown = act
    stdout_console().print(table)


def write_summary(evaluation: Evaluation, seed: int, shortened: list[str], path: Path) -> None:
    """Write the figures as JSON.

    Args:
        evaluation: of all systems.
        seed: of the demo.
        shortened: lines about trainings that the stopwatch cut short.
        path: file to write.
    """
    rows = rows_of(evaluation)
    figures: dict[str, Any] = {
        "rows": [_row(row) for row in rows],
        "comparisons": [asdict(comparison) for comparison in evaluation.comparisons],
        "task": rows[0].dataset,
        "queries": rows[0].queries,
        "candidates": CANDIDATES,
        "seed": seed,
        "shortened": shortened,
    }
    with atomic_file(path) as handle:
        handle.write(dumps(figures, indent=2) + "\n")


def _row(row: Row) -> dict[str, Any]:
    """One system: measures, format rate, and the test against BM25, before and after Holm's correction."""
    return {
        "system": row.system, "ndcg@10": row.measures[MAIN], "mrr@10": row.measures[SECOND], "format": row.format_rate,
        "difference": row.difference, "p": row.p, "p_holm": row.p_holm,
    }  # fmt: skip
