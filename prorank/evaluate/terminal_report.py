"""Print an evaluation as tables that fit 80 columns, and show progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..utils.terminal import plain, stdout_console, visible
from .format import figure, findings_cells, gain_note, p_value, shown_name, signed, speed, tokens
from .measures import MAIN
from .results import ANSWERS

if TYPE_CHECKING:
    from .results import Evaluation, Row


def show(evaluation: "Evaluation", console: Any = None) -> None:
    """Print one table per dataset with its notes, the means over several datasets, and the models' diagnostics.

    Args:
        evaluation: the evaluation.
        console: a rich console; stdout by default.
    """
    console = console or stdout_console()
    for dataset in evaluation.datasets:
        console.print(_results_table(evaluation, dataset))
        for note in evaluation.notes[dataset]:
            console.print(plain(f"  · {note}", "dim"), highlight=False, soft_wrap=True)
        console.print()
    if len(evaluation.datasets) > 1:
        console.print(_means_table(evaluation))
    if any(row.findings for row in evaluation.rows):
        console.print(_findings_table(evaluation))
    console.print(plain(f"  · {gain_note(evaluation)}", "dim"), highlight=False, soft_wrap=True)


def _table(title: Any, text_columns: Iterable[str], figure_columns: Iterable[str]) -> Any:
    """Return an empty table that fits 80 columns."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in text_columns:
        table.add_column(name, overflow="fold")
    for name in figure_columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _measures_shown(row: "Row") -> dict[str, float]:
    """Return the measures to print, with only the deepest recall."""
    recalls = [name for name in row.measures if name.startswith("R@")]
    return {name: value for name, value in row.measures.items() if name not in recalls[:-1]}


def _results_table(evaluation: "Evaluation", dataset: str) -> Any:
    rows = [row for row in evaluation.rows if row.dataset == dataset]
    title = plain(f"{dataset} · {rows[0].queries} queries", "bold")
    table = _table(title, ["system"], [*_measures_shown(rows[0]), "diff", "p", "docs/s", "tokens/q"])
    best = max(row.measures[MAIN] for row in rows)
    for row in rows:
        main, *others = _measures_shown(row).values()
        cells = [figure(main), *map(figure, others), signed(row.difference), p_value(row), speed(row), tokens(row)]
        cells[0] = f"[bold]{cells[0]}[/bold]" if main == best else cells[0]
        table.add_row(plain(shown_name(row.system, row.kind)), *cells, style="dim" if row.kind == ANSWERS else None)
    return table


def _means_table(evaluation: "Evaluation") -> Any:
    names = _measures_shown(evaluation.rows[0])
    table = _table(f"mean over {len(evaluation.datasets)} sets", ["system"], names)
    for system, means in evaluation.means().items():
        kind = next(row.kind for row in evaluation.rows if row.system == system)
        cells = [figure(means[name]) for name in names]
        table.add_row(plain(shown_name(system, kind)), *cells, style="dim" if kind == ANSWERS else None)
    return table


def _findings_table(evaluation: "Evaluation") -> Any:
    rows = [row for row in evaluation.rows if row.findings]
    pairs = max((row.findings or {})["pairs"] for row in rows)
    columns = ("format", "p(0)+p(1)", "ties", "eff. rank", "cosine")
    table = _table(f"at the answer position of {pairs} pairs", ("dataset", "system"), columns)
    for row in rows:
        table.add_row(plain(row.dataset), plain(row.system), *findings_cells(row)[1:])
    return table


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show progress bars on stderr, one per dataset and model; yields the `progress` argument of `evaluate`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=Console(stderr=True)) as bar:

        def update(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(visible(name), total=total)
            bar.update(tasks[name], completed=done)

        yield update
