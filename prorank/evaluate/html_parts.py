"""Pieces of HTML that the sections of the report share."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from .format import shown_name
from .results import ANSWERS, MODEL

if TYPE_CHECKING:
    from .results import Evaluation

COLOURS = 8


def table(head: Iterable[str], rows: Iterable[tuple[str, list[str]]]) -> str:
    """An HTML table of escaped cells; the first column is text, the others are figures. A row is (CSS class, cells)."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f'<tr class="{css}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" for css, cells in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def css_class(evaluation: "Evaluation", system: str) -> str:
    return next(r.kind for r in evaluation.rows if r.system == system).replace(" ", "-")


def colour(evaluation: "Evaluation", system: str) -> int:
    """0 for first stages, 1, 2, ... for models in their order."""
    models = list(dict.fromkeys(r.system for r in evaluation.rows if r.kind == MODEL))
    return 1 + models.index(system) % (COLOURS - 1) if system in models else 0


def system_cell(evaluation: "Evaluation", system: str) -> str:
    if css_class(evaluation, system) == "answers-only":
        return escape(shown_name(system, ANSWERS))
    return f'<i class="dot" style="background:var(--c{colour(evaluation, system)})"></i>{escape(system)}'


def chart(svg: str, caption: str) -> str:
    return f"<figure><figcaption>{caption}</figcaption>{svg}</figure>"
