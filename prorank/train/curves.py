"""Plot the metrics of a run from its `metrics.jsonl`.

Every figure is plotted. Train and dev values of the same name share a panel, and a single value is a mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.jsonl import parsed
from ..errors import DataError, extra, nearest
from ..utils.files import atomic_file, numbered_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The policy loss is always 0 on the first pass, whatever its gradient, so its plot is meaningless.
SKIPPED = {"step", "minutes", "documents", "tokens", "dev_score", "loss_policy"}
SEVERAL = ("#1d4ed8", "#c2410c", "#15803d", "#7e22ce", "#0e7490", "#b45309")  # a colour for each run
Sides = dict[str, list[tuple[float, float]]]  # {"train" or "dev": [(step, value)]}
SMOOTHED = 20  # number of points above which a moving average is plotted


def read_metrics(run: str | Path) -> list[dict[str, float]]:
    """Read the lines of `<run>/metrics.jsonl`. Raises DataError if there are none."""
    path = Path(run) / "metrics.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: no such file; is it a run folder?")
    lines = [parsed(line, f"{path}:{number}") for number, line in numbered_lines(path) if line.endswith("}")]
    if not lines:
        raise DataError(f"{path}: contains no figures yet")
    return lines


def plot(*runs: str | Path, out: str | Path | None = None, only: Sequence[str] = ()) -> Path:
    """Plot the curves of one run, or of several runs in the same panels.

    Args:
        runs: run folders.
        out: path of the picture; `<run>/train_curves.png` by default, for several runs `<first run>/compared_curves.png`.
        only: names of the figures to plot; all by default.

    Returns:
        The picture's path.

    Raises:
        DataError: a run has no figures, or no run has a figure in `only`.
    """
    with extra("train"):
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    several = len(runs) > 1
    panels: dict[str, dict[str, Sides]] = {}
    for run in runs:
        for name, sides in _panels(read_metrics(run)).items():
            panels.setdefault(name, {})[str(run)] = sides
    for name in only:
        if name not in panels:
            raise DataError(f"no run has a figure '{name}'{nearest(name, panels)}")
    panels = {name: panels[name] for name in only or panels}
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4.6 * columns, 2.9 * rows), squeeze=False, layout="constrained")
    names = _names([str(run) for run in runs])
    for axis, (name, by_run) in zip(axes.flat, panels.items()):
        for number, run in enumerate(map(str, runs)):
            if run in by_run:
                name_and_color = (names[number], SEVERAL[number % len(SEVERAL)]) if several else ("", None)
                _lines(axis, by_run[run], *name_and_color)
        axis.set_title(name.replace("_", " "), fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        if not several:
            axis.legend(fontsize=7)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    if several:  # one legend for all panels, which would hide their curves
        shown = [pyplot.Line2D([], [], color=SEVERAL[i % len(SEVERAL)], label=name) for i, name in enumerate(names)]
        shown += [pyplot.Line2D([], [], color="black", linestyle="-", label="train")]
        shown += [pyplot.Line2D([], [], color="black", linestyle="--", label="dev")]
        figure.legend(handles=shown, loc="outside lower center", ncols=4, fontsize=8)
    else:
        figure.suptitle(names[0])
    path = Path(out) if out else Path(runs[0]) / ("compared_curves.png" if several else "train_curves.png")
    with atomic_file(path, "wb") as handle:
        figure.savefig(handle, format="png", dpi=110)
    pyplot.close(figure)
    return path


def _names(runs: list[str]) -> list[str]:
    """Return the last parts of the paths, as many as needed to distinguish them."""
    parts = [Path(run).parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(set(runs)):
            return names
    return runs


def _panels(lines: list[dict[str, float]]) -> dict[str, Sides]:
    """Return the series of each figure by name."""
    panels: dict[str, Sides] = {}
    for line in lines:
        for key, value in line.items():
            if key in SKIPPED or not isinstance(value, (int, float)):
                continue
            side = "dev" if key.startswith("dev_") else "train"
            panels.setdefault(key.removeprefix("dev_"), {}).setdefault(side, []).append((line["step"], value))
    return panels


def _lines(axis: Axes, series: Sides, name: str, color: str | None) -> None:
    """Plot the lines of one run in a panel. If there are several runs, train figures are only plotted smoothed."""
    for side, points in sorted(series.items(), reverse=True):
        steps, values = zip(*points)
        label = f"{name} {side}".strip()
        if side == "dev":
            axis.plot(steps, values, "o--" if color else "o-", color=color or "#c2410c", linewidth=1.8, markersize=4, label=label)
            continue
        smooth = len(values) >= SMOOTHED
        if smooth and not color:
            axis.plot(steps, values, color="#93a5c4", linewidth=0.9)
        shown = _smooth(values) if smooth else values
        mark = "" if smooth else "o"  # a line through one point is invisible
        name_of = f"{label}, smoothed" if smooth else label
        axis.plot(steps, shown, marker=mark, color=color or "#1d4ed8", linewidth=1.8, markersize=3, label=name_of)


def _smooth(values: tuple[float, ...], decay: float = 0.8) -> list[float]:
    """Exponential moving average, started at the mean of the first values to avoid a false rise."""
    first = values[: max(1, len(values) // 10)]
    out, now = [], sum(first) / len(first)
    for value in values:
        now = decay * now + (1 - decay) * value
        out.append(now)
    return out
