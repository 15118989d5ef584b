"""Charts of the HTML report as inline SVG.

This module computes coordinates in SVG user units; `templates/charts.html` draws them. All bars of one report share one scale
that begins at 0, so lengths compare between datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .html_templates import template_environment
from .reliability import Bin

WIDTH, LABEL_WIDTH, VALUE_WIDTH = 520, 176, 52
ROW_HEIGHT, BAR_HEIGHT = 26, 14


@dataclass(frozen=True)
class BarValue:
    """Data of a bar: a system, the number of its colour, a value and its interval."""

    name: str
    colour: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PlacedBar(BarValue):
    """A bar with its coordinates: `middle` is the height of its centre line, `low_x` and `high_x` the ends of its whisker."""

    top: float
    middle: float
    height: float
    length: float
    low_x: float
    high_x: float


@dataclass(frozen=True)
class Column:
    """One query of `differences`: a thin column above or below the zero line."""

    text: str
    value: float
    x: float
    y: float
    width: float
    height: float
    fill: str


@dataclass(frozen=True)
class Tick:
    """A grid line at `x` and its value."""

    x: float
    value: float


@dataclass(frozen=True)
class Dot:
    """A bin of a reliability diagram and its dot, whose size increases with the number of pairs."""

    bin: Bin
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Curve:
    """One curve of a reliability diagram."""

    name: str
    colour: int
    dots: list[Dot]


def bars(values: Sequence[BarValue], scale_end: float) -> str:
    """Draw horizontal bars with intervals.

    Args:
        values: bars from top to bottom.
        scale_end: value at the right end of the scale.
    """
    height, span = ROW_HEIGHT * len(values) + 26, WIDTH - LABEL_WIDTH - VALUE_WIDTH

    def x_of(value: float) -> float:
        return LABEL_WIDTH + span * value / scale_end

    step = 2 if scale_end > 0.5 else 1
    ticks = [Tick(x_of(t / 10), t / 10) for t in range(0, 11, step) if t / 10 <= scale_end + 1e-9]
    placed = [
        PlacedBar(
            bar.name, bar.colour, bar.value, bar.low, bar.high,
            top=i * ROW_HEIGHT + 6, middle=i * ROW_HEIGHT + 6 + BAR_HEIGHT / 2, height=BAR_HEIGHT,
            length=max(x_of(bar.value) - LABEL_WIDTH, 0.5), low_x=x_of(bar.low), high_x=min(x_of(bar.high), WIDTH - 2),
        )
        for i, bar in enumerate(values)
    ]  # fmt: skip
    return _drawn("bars", width=WIDTH, height=height, left=LABEL_WIDTH, ticks=ticks, bars=placed)


def differences(values: Sequence[tuple[str, float]], colour: int) -> str:
    """Draw one thin column per query, gains first.

    Args:
        values: (query text, difference in nDCG@10) of each query.
        colour: number of the colour of gains; losses have another colour.
    """
    height, left, middle, scale = 132, 30, 62, 56
    ordered = sorted(values, key=lambda item: -item[1])
    step = (WIDTH - left) / max(len(ordered), 1)
    columns = [
        Column(
            text, value, x=left + i * step, y=middle - scale * abs(value) if value >= 0 else middle, width=max(step * 0.82, 0.4),
            height=max(scale * abs(value), 0.6), fill=f"var(--c{colour})" if value >= 0 else "var(--loss)",
        )
        for i, (text, value) in enumerate(ordered)
    ]  # fmt: skip
    return _drawn("differences", width=WIDTH, height=height, left=left, middle=middle, scale=scale, columns=columns)


def reliability(before: Sequence[Bin], after: Sequence[Bin], colour: int) -> str:
    """Draw the share of relevant pairs against probability, before (grey) and after calibration.

    Args:
        before, after: bins of `reliability.bins`.
        colour: number of the colour of `after`.
    """
    left, side, foot = 44, 220, 230  # the plot is a square with its lower edge at `foot`
    curves = [
        Curve(name, number, [_dot(one, left, side, foot, max(b.pairs for b in bins)) for one in bins])
        for name, bins, number in (("before", before, 0), ("after", after, colour))
    ]
    return _drawn("reliability", width=WIDTH, left=left, side=side, foot=foot, curves=curves)


def _dot(one: Bin, left: float, side: float, foot: float, max_pairs: int) -> Dot:
    return Dot(one, left + side * one.probability, foot - side * one.relevant, 2 + 5 * (one.pairs / max_pairs) ** 0.5)


def _drawn(macro: str, **values: Any) -> str:
    """Render a macro of `templates/charts.html` as SVG, marked as safe HTML."""
    return getattr(template_environment().get_template("charts.html").module, macro)(**values)
