"""Show an evaluation: tables for the terminal, results.json, report.html.

Hard fact: results.json holds every figure of the page, every query's values included, and no text of a dataset.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.files import atomic_file
from ..utils.hardware import processor_name
from ..utils.strict_json import dumps
from ..utils.terminal import plain, stdout_console, visible
from .gains import FORMULA, LINEAR
from .measures import MAIN
from .results import ANSWERS

if TYPE_CHECKING:
    from .results import Evaluation, Row

PACKAGES = ("prorank", "torch", "transformers", "numpy", "ir-measures", "pytrec-eval-terrier", "bm25s", "PyStemmer")


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


def gain_note(evaluation: "Evaluation") -> str:
    """How labels count in nDCG."""
    gain = evaluation.settings.get("gain", LINEAR)
    return f"{MAIN} with {gain} gains ({FORMULA[gain]})"


def shown_name(system: str, kind: str) -> str:
    """A system's name in a table; an answers-only row stands below its model and need not repeat its name."""
    return "  └ 0/1 only" if kind == ANSWERS else system


def findings_cells(row: "Row", found: dict[str, float]) -> list[str]:
    """Pairs, format rate, answer mass, ties, effective rank, mean cosine of a row and its findings, as text."""
    shares = [percent(found["format_rate"]), percent(found["format_mass"]), percent(row.tie_share)]
    return [str(found["pairs"]), *shares, f"{found['effective_rank']:.1f}", f"{found['mean_cosine']:.3f}"]


def figure(value: float | None) -> str:
    """.1234, or a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.4f}".replace("0.", ".", 1) if 0 <= value < 1 else f"{value:.4f}"


def signed(value: float | None) -> str:
    """+.1234 or −.1234."""
    return "" if value is None else ("+" if value >= 0 else "−") + figure(abs(value))


def percent(value: float | None) -> str:
    """One decimal, two at the ends, where 99.95 % and 100 % differ; a dash for None."""
    if value is None:
        return "–"
    plain = value in (0, 1) or 0.001 <= value <= 0.999
    return f"{100 * value:.1f} %" if plain else f"{100 * value:.2g} %" if value < 0.5 else f"{100 * value:.2f} %"


def p_value(row: "Row") -> str:
    """The p-value against the first stage, Holm-corrected for models; a star below .05."""
    p = row.p_holm if row.p_holm is not None else row.p
    if p is None:
        return ""
    return probability(p) + (" *" if p < 0.05 else "")


def probability(p: float) -> str:
    """Three decimals, or four where three would say 0."""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.4f}" if p >= 0.0001 else "<.0001"


def speed(row: "Row") -> str:
    """Documents a second, or nothing for a first stage."""
    return _short(row.documents_per_second)


def tokens(row: "Row") -> str:
    """Tokens read and written a query, or nothing where none were counted."""
    spent = row.cost or {}
    return _short((spent.get("prompt_tokens", 0) + spent.get("generated_tokens", 0)) / max(1, row.queries))


def _short(found: float | None) -> str:
    if not found:
        return ""
    return f"{found:.1f}" if found < 10 else f"{found:,.0f}" if found < 99_999 else f"{found / 1000:,.0f}k"


def environment(command: str) -> dict[str, Any]:
    """Command, date, machine and package versions: what a figure needs beside it. Host and user names stay out."""
    packages = {name: _version(name) for name in PACKAGES}
    return {
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "accelerator": _accelerator(),
        "packages": {name: found for name, found in packages.items() if found},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _accelerator() -> str | None:
    """The GPU's name where torch is in use already; importing it for this alone would cost seconds."""
    import sys

    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name(0) if torch is not None and torch.cuda.is_available() else None


def write(evaluation: "Evaluation", out: str | Path) -> None:
    """Write results.json and report.html into `out`, each whole or not at all."""
    from .html_report import page

    out = Path(out)
    with atomic_file(out / "results.json") as handle:
        handle.write(dumps(evaluation.to_dict(), indent=1, ensure_ascii=False) + "\n")
    with atomic_file(out / "report.html") as handle:
        handle.write(page(evaluation))


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
