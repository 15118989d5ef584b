"""Pairs with a thought and an answer: what a supervised start is made of.

Hard fact: a thought with a tag in it would teach the model to break the form, so it is an error and not silently cleaned.

    {"query": "…", "document": "…", "think": "…", "answer": "yes", "label": 1}     as `prorank convert` and `prorank label` write it
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from ..errors import DataError
from .examples import normalised
from .jsonl import filled, get, number_of, objects

ANSWERS = ("no", "yes")  # by label
TAG = re.compile(r"</?(?:think|answer)>")


@dataclass(frozen=True)
class Thought:
    """A pair, why the document covers the query or not, and whether it does (label 1 or 0)."""

    query: str
    document: str
    think: str
    label: int


def thought_row(query: str, document: str, think: str, label: int) -> dict[str, Any]:
    """The training form of a pair, which `read_thoughts` reads."""
    return {"query": query, "document": document, "think": think, "answer": ANSWERS[label], "label": label}


def read_thoughts(path: str | Path) -> list[Thought]:
    """Pairs of a JSONL file, plain or gzip. Raises DataError naming file and line; answer and label may not differ."""
    found = []
    for number, row in objects(path):
        where = f"{path}:{number}"
        query, document, think = filled(row, "query", where), *(get(row, key, str, where) for key in ("document", "think"))
        tag = TAG.search(think)
        if tag:
            raise DataError(f"{where}: 'think' holds the tag {tag[0]}, which would break the form; take it out")
        answer = get(row, "answer", str, where)
        if answer not in ANSWERS:
            raise DataError(f"{where}: 'answer' must be yes or no, got {answer[:40]!r}")
        label = ANSWERS.index(answer)
        if number_of(row.get("label", label), f"{where}: 'label'") != label:
            raise DataError(f"{where}: answer {answer!r} and label {row['label']!r} contradict each other")
        found.append(Thought(query, document, think, label))
    if not found:
        raise DataError(f"{path}: no pairs with thoughts")
    return found


def split_thoughts(thoughts: Sequence[Thought], queries: int, seed: int) -> tuple[list[Thought], list[Thought]]:
    """(training, dev): so many queries, but at most a fifth of them, are held out with all their pairs."""
    names = {thought.query: normalised(thought.query) or thought.query for thought in thoughts}
    known = sorted(set(names.values()))
    held = set(Random(f"thoughts/{seed}").sample(known, min(queries, len(known) // 5)))
    parts: tuple[list[Thought], list[Thought]] = ([], [])
    for thought in thoughts:
        parts[names[thought.query] in held].append(thought)
    return parts
