"""Print the hits of a search: a table for people, JSON lines for programs; and notes on truncated texts and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..utils.terminal import json_line, note, plain, print_lines, stdout_console

if TYPE_CHECKING:
    from ..search.searcher import SearchHit


def print_json(hits: Sequence[SearchHit], about: Mapping[str, Any]) -> None:
    """Print one JSON object per line, with the keys of `about` first."""
    for rank, hit in enumerate(hits, 1):
        line = {**about, "rank": rank, "score": hit.score, "id": hit.id, "index": hit.index}
        line |= {} if hit.probability is None else {"probability": hit.probability}
        line |= {"first_stage_rank": hit.first_stage_rank, "first_stage_score": hit.first_stage_score, "document": hit.document}
        print_lines([json_line(line)])


def print_table(hits: Sequence[SearchHit], title: str = "") -> None:
    """Print a table: rank, score, probability of a calibrated model, rank in the first stage, id and text of each hit."""
    from rich.table import Table

    from ..rank.rerank_files import snippet

    calibrated = any(hit.probability is not None for hit in hits)
    columns = ["rank", "score", *(["probability"] if calibrated else []), "first stage", "document"]
    table = Table(*columns, title=plain(title, "bold") if title else None, title_justify="left")
    for rank, hit in enumerate(hits, 1):
        figures = [f"{hit.score:+.3f}", *([f"{hit.probability:.3f}"] if calibrated else []), str(hit.first_stage_rank)]
        table.add_row(str(rank), *figures, plain(f"[{hit.id}] {snippet(hit.text)}"))
    stdout_console().print(table)


def note_truncation(ranker: Any, longest: int) -> None:
    """Print on stderr how many documents were read in chunks, and how many texts were cut to prompts of `longest` tokens."""
    if ranker.cuts.chunked:
        note(f"note: {ranker.cuts.chunked} long documents were read in {ranker.cuts.chunks} overlapping chunks")
    if ranker.cuts.documents or ranker.cuts.queries:
        note(f"note: {ranker.cuts} at {longest} tokens")


def note_cost(reranker: Any) -> None:
    """Print on stderr the cost of thoughts or comparisons of documents; nothing for pointwise models without thoughts."""
    if reranker.compares_documents or reranker.thinks:
        note(f"cost: {reranker.cost}")
