"""Pairs with a thought and an answer: what a supervised start is made of.

A thought with a tag in it would teach the model to break the form, so it is an error and not silently cleaned.

    {"query": "…", "document": "…", "think": "…", "answer": "yes", "label": 1}     as `prorank import-logs` and `label` write it
    {"query": "…", "documents": ["…", "…"], "think": "…", "answer": "[2]"}     several documents: the best, or an order: [2] > [1]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from ..errors import DataError
from .examples import query_key
from .jsonl import filled, get, number_of, objects, strings

ANSWERS = ("no", "yes")  # by label
TAG = re.compile(r"</?(?:think|answer)>")
LABEL = re.compile(r"\[(\d{1,3})\]")


@dataclass(frozen=True)
class Thought:
    """A pair, why the document covers the query or not, and whether it does (label 1 or 0)."""

    query: str
    document: str
    think: str
    label: int


@dataclass(frozen=True)
class ListThought:
    """Documents, a thought about them ("" for an answer without one), and the answer: labels in square brackets, best first."""

    query: str
    documents: tuple[str, ...]
    think: str
    answer: str


AnyThought = Thought | ListThought


def thought_row(query: str, document: str, think: str, label: int) -> dict[str, Any]:
    """The training form of a pair, which `read_thoughts` reads."""
    return {"query": query, "document": document, "think": think, "answer": ANSWERS[label], "label": label}


def read_thoughts(path: str | Path) -> list[AnyThought]:
    """Pairs or lists of a JSONL file, plain or gzip. Raises DataError naming file and line; answer and label may not differ."""
    found: list[AnyThought] = []
    for number, row in objects(path):
        where = f"{path}:{number}"
        if "documents" in row:
            found.append(_list_thought(row, where))
            continue
        query, document = filled(row, "query", where), get(row, "document", str, where)
        think = _think(row, where)
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


def _think(row: dict[str, Any], where: str) -> str:
    """A line's thought. Raises DataError for one with a tag in it."""
    think = get(row, "think", str, where)
    tag = TAG.search(think)
    if tag:
        raise DataError(f"{where}: 'think' holds the tag {tag[0]}, which would break the form; take it out")
    return think


def _list_thought(row: dict[str, Any], where: str) -> ListThought:
    """A line about several documents. Raises DataError for an answer that is not in form or names what is not there."""
    documents = get(row, "documents", list, where)
    if len(documents) < 2 or not all(isinstance(document, str) for document in documents):
        raise DataError(f"{where}: 'documents' must be a list of two texts or more")
    answer = get(row, "answer", str, where)
    labels = LABEL.findall(answer)
    if not labels or LABEL.sub("", answer).replace(">", "").strip():
        raise DataError(f"{where}: 'answer' must be labels in brackets, such as [2] or [2] > [1], got {answer[:40]!r}")
    if len(set(labels)) < len(labels) or not all(1 <= int(label) <= len(documents) for label in labels):
        raise DataError(f"{where}: 'answer' {answer[:40]!r} names a document twice, or one that is not among the {len(documents)}")
    think = _think(row, where) if "think" in row else ""
    return ListThought(filled(row, "query", where), tuple(strings(row, "documents", where)), think, answer)


def split_thoughts(thoughts: Sequence[AnyThought], queries: int, seed: int) -> tuple[list[AnyThought], list[AnyThought]]:
    """(training, dev): so many queries, but at most a fifth of them, are held out with all their pairs."""
    names = {thought.query: query_key(thought.query) for thought in thoughts}
    known = sorted(set(names.values()))
    held = set(Random(f"thoughts/{seed}").sample(known, min(queries, len(known) // 5)))
    parts: tuple[list[AnyThought], list[AnyThought]] = ([], [])
    for thought in thoughts:
        parts[names[thought.query] in held].append(thought)
    return parts
