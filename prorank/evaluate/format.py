"""Figures of an evaluation as text, for the terminal and for the page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .gains import FORMULA, LINEAR
from .measures import MAIN
from .results import ANSWERS

if TYPE_CHECKING:
    from .results import Evaluation, Row


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
