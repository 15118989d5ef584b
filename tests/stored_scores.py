"""Stored scores of a model that needs no model: relevant documents first, or last."""

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.protocol import scores_file
from prorank.evaluate.candidates import Task


def store_scores(task: Task, name: str, out: Path, right: float = 1.0, queries: Sequence[str] = ()) -> None:
    """Store scores as `benchmarks.protocol.scored` does: relevant documents get `right`, all others 0.

    Args:
        task: the candidates.
        name: name of the model.
        out: folder of the scores.
        right: score of relevant documents; below 0 they come last.
        queries: ids of the queries; all of the task by default.
    """
    heads = {query: task.head(query, 100)[0] for query in queries or task.queries}
    scores = {query: [right * (task.qrels[query].get(d, 0) > 0) for d in head] for query, head in heads.items()}
    path = scores_file(task, name, out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"scores": scores, "seconds": 1.0, "cuts": {}, "cost": {}, "findings": {}}), encoding="utf-8")
