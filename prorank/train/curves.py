"""Pictures of a run from its `metrics.jsonl`.

Hard fact: every figure that the log holds for at least two steps is drawn; train and dev values of the same name share a panel.
"""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import DataError, extra
from ..files import atomic_file

# The policy loss is 0 in value on the first pass, whatever its gradient, so a picture of it says nothing.
SKIPPED = {"step", "minutes", "documents", "tokens", "dev_score", "loss_policy"}
SMOOTHED = 20  # points from which on a moving average shows more than it hides


def read_metrics(run: str | Path) -> list[dict[str, float]]:
    """Lines of `<run>/metrics.jsonl`. Raises DataError if there are none."""
    path = Path(run) / "metrics.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: no such file; is this a run folder?")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    if not lines:
        raise DataError(f"{path}: holds no figures yet")
    return lines


def plot(run: str | Path) -> Path:
    """Draw `<run>/train_curves.png` and return its path."""
    with extra("train"):
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    lines = read_metrics(run)
    panels = _panels(lines)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4.6 * columns, 2.9 * rows), squeeze=False, layout="constrained")
    for axis, (name, series) in zip(axes.flat, panels.items()):
        _panel(axis, name, series)
    for axis in axes.flat[len(panels):]:
        axis.set_visible(False)
    figure.suptitle(Path(run).name)
    path = Path(run) / "train_curves.png"
    with atomic_file(path, "wb") as handle:
        figure.savefig(handle, format="png", dpi=110)
    pyplot.close(figure)
    return path


def _panels(lines: list[dict[str, float]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """{panel: {"train" or "dev": [(step, value)]}}."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line in lines:
        for key, value in line.items():
            if key in SKIPPED or not isinstance(value, (int, float)):
                continue
            side = "dev" if key.startswith("dev_") else "train"
            panels.setdefault(key.removeprefix("dev_"), {}).setdefault(side, []).append((line["step"], value))
    return {name: sides for name, sides in panels.items() if any(len(points) > 1 for points in sides.values())} or panels


def _panel(axis, name: str, series: dict[str, list[tuple[float, float]]]) -> None:
    for side, points in sorted(series.items(), reverse=True):
        steps, values = zip(*points)
        if side == "dev":
            axis.plot(steps, values, "o-", color="#c2410c", linewidth=1.8, markersize=4, label="dev")
            continue
        if len(values) < SMOOTHED:
            axis.plot(steps, values, color="#1d4ed8", linewidth=1.8, label="train")
            continue
        axis.plot(steps, values, color="#93a5c4", linewidth=0.9)
        axis.plot(steps, _smooth(values), color="#1d4ed8", linewidth=1.8, label="train, smoothed")
    axis.set_title(name.replace("_", " "), fontsize=10)
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7)


def _smooth(values: tuple[float, ...], keep: float = 0.8) -> list[float]:
    """Exponential moving average, started at the mean of the first values so that it shows no false climb."""
    first = values[: max(1, len(values) // 10)]
    out, now = [], sum(first) / len(first)
    for value in values:
        now = keep * now + (1 - keep) * value
        out.append(now)
    return out
