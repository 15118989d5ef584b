"""Charts of the report as inline SVG: coloured by the page's CSS variables, so that they follow its light or dark mode.

All bars of one report share one scale from 0, so lengths compare between datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, LABEL, VALUE = 520, 176, 52
ROW, BAR = 26, 14


def bars(rows: Sequence[tuple[str, int, float, tuple[float, float]]], top: float) -> str:
    """Horizontal bars with intervals.

    Args:
        rows: (name, colour number, value, (low, high)) from top to bottom.
        top: end of the scale.
    """
    height, span = ROW * len(rows) + 26, WIDTH - LABEL - VALUE
    parts = [_axis(top, height, span)]
    for i, (name, colour, value, (low, high)) in enumerate(rows):
        y, x = i * ROW + 4, LABEL + span * value / top
        a, b, middle = LABEL + span * low / top, min(LABEL + span * high / top, WIDTH - 2), y + BAR / 2 + 2
        bar = f'x="{LABEL}" y="{y + 2}" width="{max(x - LABEL, 0.5):.1f}" height="{BAR}"'
        parts.append(
            f"<g><title>{escape(name)}: {value:.4f}, 95 % interval {low:.4f} to {high:.4f}</title>"
            f'<text x="{LABEL - 8}" y="{middle + 4}" text-anchor="end">{escape(_short(name))}</text>'
            f'<rect {bar} rx="2" fill="var(--c{colour})"/>'
            f'<path class="whisker" d="M{a:.1f} {middle}H{b:.1f}M{a:.1f} {middle - 4}v8M{b:.1f} {middle - 4}v8"/>'
            f'<text class="value" x="{WIDTH - 2}" y="{middle + 4}" text-anchor="end">{value:.3f}</text></g>'
        )
    return _svg(WIDTH, height, "".join(parts), "nDCG@10 of each system")


def _axis(top: float, height: float, span: float) -> str:
    ticks = [t / 10 for t in range(0, 11, 2 if top > 0.5 else 1) if t / 10 <= top + 1e-9]
    lines = (
        f'<path class="grid" d="M{LABEL + span * t / top:.1f} 0V{height - 22}"/>'
        f'<text class="tick" x="{LABEL + span * t / top:.1f}" y="{height - 6}" text-anchor="middle">{t:.1f}</text>'
        for t in ticks
    )
    return "".join(lines)


def differences(values: Sequence[tuple[str, float]], colour: int) -> str:
    """One thin column a query, gains first: `values` holds (query text, difference in nDCG@10)."""
    height, left, middle = 132, 30, 62
    ordered = sorted(values, key=lambda item: -item[1])
    step = (WIDTH - left) / max(len(ordered), 1)
    parts = [_scale(left, middle)]
    for i, (text, value) in enumerate(ordered):
        tall = abs(value) * 56
        y, fill = (middle - tall, f"var(--c{colour})") if value >= 0 else (middle, "var(--loss)")
        box = f'x="{left + i * step:.2f}" y="{y:.1f}" width="{max(step * 0.82, 0.4):.2f}" height="{max(tall, 0.6):.1f}"'
        parts.append(f'<rect {box} fill="{fill}"><title>{value:+.3f}  {escape(_short(text, 120))}</title></rect>')
    return _svg(WIDTH, height, "".join(parts), "difference of each query to the first stage")


def _scale(left: float, middle: float) -> str:
    marks = ((1, "+1"), (0, "0"), (-1, "−1"))
    return "".join(
        f'<path class="grid" d="M{left} {middle - 56 * v}H{WIDTH}"/>'
        f'<text class="tick" x="{left - 6}" y="{middle - 56 * v + 4}" text-anchor="end">{name}</text>'
        for v, name in marks
    )


def reliability(before: Sequence[tuple[float, float, int]], after: Sequence[tuple[float, float, int]], colour: int) -> str:
    """Share relevant against probability, before (grey) and after calibration: points are `reliability.bins`."""
    left, side, high = 44, 220, 230  # the plot is a square, its foot at `high`
    parts = []
    for i in range(0, 11, 2):
        x, y = left + side * i / 10, high - side * i / 10
        parts.append(
            f'<path class="grid" d="M{left} {y:.1f}h{side}M{x:.1f} {high}v-{side}"/>'
            f'<text class="tick" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{i / 10:.1f}</text>'
            f'<text class="tick" x="{x:.1f}" y="{high + 15}" text-anchor="middle">{i / 10:.1f}</text>'
        )
    parts.append(f'<path class="whisker" stroke-dasharray="2 4" d="M{left} {high}l{side} -{side}"/>')
    for place, (name, points, number) in enumerate((("before", before, 0), ("after", after, colour))):
        most = max(n for _, _, n in points)
        spots = [(left + side * p, high - side * y, 2 + 5 * (n / most) ** 0.5, p, y, n) for p, y, n in points]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y, *_ in spots)
        parts.append(f'<path d="M{line}" fill="none" stroke="var(--c{number})" stroke-width="1.6"/>')
        parts += (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="var(--c{number})">'
            f"<title>{name}: {p:.3f} said, {share:.3f} relevant, {n} pairs</title></circle>"
            for x, y, r, p, share, n in spots
        )
        parts.append(
            f'<circle cx="{left + side + 36}" cy="{30 + 22 * place}" r="5" fill="var(--c{number})"/>'
            f'<text x="{left + side + 48}" y="{34 + 22 * place}">{name}</text>'
        )
    parts.append(f'<text class="tick" x="{left + side + 30}" y="{high + 15}">probability</text>')
    parts.append(f'<text class="tick" x="{left + side + 30}" y="{high - 4}">up: share relevant</text>')
    return _svg(WIDTH, high + 24, "".join(parts), "share relevant against probability")


def _svg(width: float, height: float, body: str, label: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{body}</svg>'


def _short(text: str, most: int = 26) -> str:
    """The text's beginning and end: names of checkpoints tell themselves apart at both."""
    if len(text) <= most:
        return text
    head = most // 2
    return text[:head].rstrip() + "…" + text[-(most - head - 1) :].lstrip()
