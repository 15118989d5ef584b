"""Figures of an evaluation as text, for the terminal and the HTML report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .gains import FORMULA, LINEAR
from .measures import MAIN
from .results import ANSWERS

if TYPE_CHECKING:
    from .results import Evaluation, Row

DASH = "–"


def gain_note(evaluation: "Evaluation") -> str:
    """Return a note on the gain of a label in nDCG."""
    gain = evaluation.settings.get("gain", LINEAR)
    return f"{MAIN} with {gain} gains ({FORMULA[gain]})"


def shown_name(system: str, kind: str) -> str:
    """Return a system's name in a table. An answers-only row is below its model and does not repeat its name."""
    return "  └ 0/1 only" if kind == ANSWERS else system


def findings_cells(row: "Row") -> list[str]:
    """Return pairs, format rate, answer mass, ties, effective rank and mean cosine of a row with findings, as text."""
    findings = row.findings or {}
    shares = [percent(findings["format_rate"]), percent(findings["format_mass"]), percent(row.tie_share)]
    return [str(findings["pairs"]), *shares, f"{findings['effective_rank']:.1f}", f"{findings['mean_cosine']:.3f}"]


def figure(value: float | None) -> str:
    """Format with four decimals, without the 0 before the point: .1234; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return DASH
    return f"{value:.4f}".replace("0.", ".", 1) if 0 <= value < 1 else f"{value:.4f}"


def signed(value: float | None) -> str:
    """Format as +.1234 or −.1234; "" for None."""
    return "" if value is None else ("+" if value >= 0 else "−") + figure(abs(value))


def percent(value: float | None) -> str:
    """Format with one decimal, or two near 0 % and 100 % so that 99.95 % and 100 % differ; a dash for None."""
    if value is None:
        return DASH
    plain = value in (0, 1) or 0.001 <= value <= 0.999
    return f"{100 * value:.1f} %" if plain else f"{100 * value:.2g} %" if value < 0.5 else f"{100 * value:.2f} %"


def p_value(row: "Row") -> str:
    """Format the p-value against the first stage, Holm-corrected for models; a star below .05."""
    p = row.p_holm if row.p_holm is not None else row.p
    if p is None:
        return ""
    return probability(p) + (" *" if p < 0.05 else "")


def probability(p: float) -> str:
    """Format with three decimals, or four if three would print 0."""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.4f}" if p >= 0.0001 else "<.0001"


def speed(row: "Row") -> str:
    """Format documents per second; "" for a first stage."""
    return _rounded(row.documents_per_second)


def tokens(row: "Row") -> str:
    """Format tokens read and generated per query; "" if none were counted."""
    cost = row.cost or {}
    return _rounded((cost.get("prompt_tokens", 0) + cost.get("generated_tokens", 0)) / max(1, row.queries))


def shortened(text: str, max_length: int) -> str:
    """Shorten a text to its beginning and end, because names of checkpoints differ in both."""
    if len(text) <= max_length:
        return text
    head = max_length // 2
    return text[:head].rstrip() + "…" + text[-(max_length - head - 1) :].lstrip()


def _rounded(value: float | None) -> str:
    if not value:
        return ""
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}" if value < 99_999 else f"{value / 1000:,.0f}k"
