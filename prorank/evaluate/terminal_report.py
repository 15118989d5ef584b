"""Show an evaluation: tables for the terminal, results.json, report.html.

Results.json holds every figure of the page, every query's values included, and no text of a dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..utils.terminal import plain, stdout_console, visible
from .format import figure, findings_cells, gain_note, p_value, shown_name, signed, speed, tokens
from .results import ANSWERS

if TYPE_CHECKING:
    from .results import Evaluation, Row


def show(evaluation: "Evaluation", console: Any = None) -> None:
    """Print one table a dataset, the means over several, what the models do at the answer position, and the notes."""
    console = console or stdout_console()
    for dataset in evaluation.datasets:
        console.print(_results(evaluation, dataset))
        for note in evaluation.notes[dataset]:
            console.print(plain(f"  · {note}", "dim"), highlight=False, soft_wrap=True)
        console.print()
    if len(evaluation.datasets) > 1:
        console.print(_means(evaluation))
    if any(row.findings for row in evaluation.rows):
        console.print(_findings(evaluation))
    console.print(plain(f"  · {gain_note(evaluation)}", "dim"), highlight=False, soft_wrap=True)


def _table(title: Any, first: Iterable[str], figures: Iterable[str]) -> Any:
    """A table that fits 80 columns: text columns, then figures."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in first:
        table.add_column(name, overflow="fold")
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _shown(row: "Row") -> dict[str, float]:
    """The measures a terminal has room for: of the recalls only the deepest."""
    recalls = [name for name in row.measures if name.startswith("R@")]
    return {name: value for name, value in row.measures.items() if name not in recalls[:-1]}


def _results(evaluation: "Evaluation", dataset: str) -> Any:
    rows = [r for r in evaluation.rows if r.dataset == dataset]
    title = plain(f"{dataset} · {rows[0].queries} queries", "bold")
    table = _table(title, ["system"], [*_shown(rows[0]), "diff", "p", "docs/s", "tokens/q"])
    best = max(r.measures["nDCG@10"] for r in rows)
    for row in rows:
        main, *others = _shown(row).values()
        cells = [figure(main), *map(figure, others), signed(row.difference), p_value(row), speed(row), tokens(row)]
        cells[0] = f"[bold]{cells[0]}[/bold]" if main == best else cells[0]
        table.add_row(plain(shown_name(row.system, row.kind)), *cells, style="dim" if row.kind == ANSWERS else None)
    return table


def _means(evaluation: "Evaluation") -> Any:
    title = f"mean over {len(evaluation.datasets)} sets"
    table = _table(title, ["system"], _shown(evaluation.rows[0]))
    for system, found in evaluation.means().items():
        kept = [found[name] for name in _shown(evaluation.rows[0])]
        kind = next(r.kind for r in evaluation.rows if r.system == system)
        table.add_row(plain(shown_name(system, kind)), *map(figure, kept), style="dim" if kind == ANSWERS else None)
    return table


def _findings(evaluation: "Evaluation") -> Any:
    pairs = max(row.findings["pairs"] for row in evaluation.rows if row.findings)
    figures = ("format", "p(0)+p(1)", "ties", "eff. rank", "cosine")
    table = _table(f"at the answer position of {pairs} pairs", ("dataset", "system"), figures)
    for row in evaluation.rows:
        if row.findings:
            table.add_row(plain(row.dataset), plain(row.system), *findings_cells(row, row.findings)[1:])
    return table


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars on stderr as the `progress` argument of `evaluate`: one a dataset and model."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=Console(stderr=True)) as bar:

        def hear(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(visible(what), total=total)
            bar.update(tasks[what], completed=done)

        yield hear
