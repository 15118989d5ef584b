"""Print the hits of a search: a table for people, JSON lines for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..utils.terminal import json_line, plain, print_lines, stdout_console

if TYPE_CHECKING:
    from ..search.searcher import SearchHit

SNIPPET_LENGTH = 160  # characters of a document in the table


def print_json(hits: Sequence[SearchHit], about: Mapping[str, Any]) -> None:
    """Print one JSON object a line, with the keys of `about` first."""
    for rank, hit in enumerate(hits, 1):
        line = {**about, "rank": rank, "score": hit.score, "id": hit.id, "index": hit.index}
        line |= {} if hit.probability is None else {"probability": hit.probability}
        line |= {"first_stage_rank": hit.first_stage_rank, "first_stage_score": hit.first_stage_score, "document": hit.document}
        print_lines([json_line(line)])


def print_table(hits: Sequence[SearchHit], title: str = "") -> None:
    """Print a table: rank, score, probability of a calibrated model, rank in the first stage, id and text of each hit."""
    from rich.table import Table

    calibrated = any(hit.probability is not None for hit in hits)
    columns = ["rank", "score", *(["probability"] if calibrated else []), "first stage", "document"]
    table = Table(*columns, title=plain(title, "bold") if title else None, title_justify="left")
    for rank, hit in enumerate(hits, 1):
        text = " ".join(hit.text.split())
        snippet = text if len(text) <= SNIPPET_LENGTH else text[: SNIPPET_LENGTH - 1] + "…"
        figures = [f"{hit.score:+.3f}", *([f"{hit.probability:.3f}"] if calibrated else []), str(hit.first_stage_rank)]
        table.add_row(str(rank), *figures, plain(f"[{hit.id}] {snippet}"))
    stdout_console().print(table)
