"""Rerank what lies in files: documents of one query, or a whole TREC run.

Hard fact: documents below the reranked head of a run keep their order behind it, so nothing is lost from the run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.formats import read_collection, read_run, write_run
from ..errors import DataError
from ..files import numbered_lines, parse_json, source_name
from .documents import Hit

if TYPE_CHECKING:  # a server may rank in its place, and then no model's library is loaded
    from ..remote import Remote
    from ..reranker import Reranker


def read_documents(path: str) -> list[Any]:
    """Documents of a file or of stdin ("-"): JSON objects with "text" a line, or plain text lines; blank lines are skipped.

    Raises DataError naming the line.
    """
    name = source_name(path)
    kept = [(number, line.strip()) for number, line in numbered_lines(path)]
    if not kept:
        raise DataError(f"{name}: holds no documents")
    jsonl = kept[0][1].startswith("{")
    return [_object(line, f"{name}:{number}") if jsonl else line for number, line in kept]


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON ({error}); expected an object with \"text\"") from error
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise DataError(f"{where}: expected a JSON object with a string \"text\"")
    return value


def show(hits: Sequence[Hit], as_json: bool, thoughts: bool = False) -> None:
    """Print hits: one JSON object a line, or a table; of a calibrated model with probabilities, of a thinking one with its thoughts
    if asked."""
    if as_json:
        for rank, hit in enumerate(hits, 1):
            line = {"rank": rank, "index": hit.index, "score": hit.score, "document": hit.document}
            line |= {} if hit.probability is None else {"probability": hit.probability}
            line |= {"thought": hit.thought, "thought_cut": hit.thought_cut} if thoughts else {}
            print(json.dumps(line, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    sure = any(hit.probability is not None for hit in hits)
    table = Table("rank", "score", *(["probability"] if sure else []), "index", "document", *(["thought"] if thoughts else []))
    for rank, hit in enumerate(hits, 1):
        name = hit.document.get("id", hit.document.get("_id")) if isinstance(hit.document, dict) else None
        text = " ".join(hit.text.split())
        shown = text if len(text) <= 160 else text[:159] + "…"
        said = [escape(f"{hit.thought}{' […]' if hit.thought_cut else ''}")] if thoughts else []
        figures = [f"{hit.score:+.3f}", *([f"{hit.probability:.3f}"] if sure else []), str(hit.index)]
        table.add_row(str(rank), *figures, escape(f"[{name}] {shown}" if name else shown), *said)
    Console().print(table)


def check_run(run: Path, dataset: Path, split: str) -> None:
    """Fail early on a run or dataset that cannot be read, or that do not belong together."""
    collection, ranking = read_collection(dataset, split, documents=()), read_run(run)
    if not any(query in collection.queries for query in ranking):
        raise DataError(f"{run}: none of its {len(ranking)} queries is in {dataset} with labels of its split {split}")


def rerank_run(
    reranker: Reranker | Remote, run: Path, dataset: Path, split: str, out: Path, top_k: int | None, instruction: str | None
) -> str:
    """Rerank the head (top_k, default 100) of each query's list and write a TREC run; returns a line that sums up."""
    ranking = read_run(run)
    collection = read_collection(dataset, split, documents={document for scored in ranking.values() for document in scored})
    depth = top_k or 100
    lists, missing = {}, 0
    for query, scored in ranking.items():
        order = sorted(scored, key=lambda d: -scored[d])
        head = [d for d in order[:depth] if d in collection.corpus]
        missing += len(order[:depth]) - len(head)
        if query in collection.queries and head:
            seen = set(head)
            lists[query] = (head, [d for d in order if d not in seen])
    rows = reranker.score_lists(
        [collection.queries[q] for q in lists], [[collection.corpus[d] for d in head] for head, _ in lists.values()], instruction
    )
    result = dict(ranking)
    for (query, (head, rest)), scores in zip(lists.items(), rows):
        best_first = sorted(range(len(head)), key=lambda i: -scores[i])
        result[query] = {head[i]: float(scores[i]) for i in best_first}
        result[query] |= {document: float(min(scores)) - i for i, document in enumerate(rest, 1)}
    write_run(out, result, "prorank")
    untouched = len(ranking) - len(lists)
    return f"{out}: {len(lists)} queries reranked, {untouched} left as they were, {missing} documents without text; {reranker.cuts}"
