"""Reasoning examples: a query, one or several documents, a thought and an answer, for supervised training of thinking models.

A tag such as `<think>` inside a thought raises an error, because it would teach the model a wrong format.

    {"query": "…", "document": "…", "think": "…", "answer": "yes", "label": 1}     from `prorank import-logs` and `prorank label`
    {"query": "…", "documents": ["…", "…"], "think": "…", "answer": "[2]"}     several documents: the best one, or [2] > [1]

A pair may have a `score`, the log-odds of relevance by a teacher such as the reranker of `prorank label --quote`.
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
class ReasoningExample:
    """A pair with a thought.

    Attributes:
        query, document: texts of the pair.
        think: thought about its relevance.
        label: 1 (relevant) or 0.
        score: log-odds of relevance by a teacher; None if there are none.
    """

    query: str
    document: str
    think: str
    label: int
    score: float | None = None


@dataclass(frozen=True)
class ListReasoningExample:
    """A list with a thought.

    Attributes:
        query, documents: texts of the list.
        think: thought about the documents, "" for none.
        answer: labels in square brackets, best document first.
    """

    query: str
    documents: tuple[str, ...]
    think: str
    answer: str


AnyReasoningExample = ReasoningExample | ListReasoningExample


def reasoning_row(query: str, document: str, think: str, label: int) -> dict[str, Any]:
    """Return a pair as a JSON object that `read_reasoning_examples` reads."""
    return {"query": query, "document": document, "think": think, "answer": ANSWERS[label], "label": label}


def read_reasoning_examples(path: str | Path) -> list[AnyReasoningExample]:
    """Read pairs or lists from a JSONL file, plain or gzip.

    Raises:
        DataError: a line is malformed, or its answer contradicts its label. The message names file and line.
    """
    examples: list[AnyReasoningExample] = []
    for number, row in objects(path):
        where = f"{path}:{number}"
        if "documents" in row:
            examples.append(_list_example(row, where))
            continue
        query, document = filled(row, "query", where), get(row, "document", str, where)
        think = _think(row, where)
        answer = get(row, "answer", str, where)
        if answer not in ANSWERS:
            raise DataError(f"{where}: 'answer' must be yes or no, got {answer[:40]!r}")
        label = ANSWERS.index(answer)
        if number_of(row.get("label", label), f"{where}: 'label'") != label:
            raise DataError(f"{where}: answer {answer!r} and label {row['label']!r} contradict each other")
        score = number_of(row["score"], f"{where}: 'score'") if row.get("score") is not None else None
        examples.append(ReasoningExample(query, document, think, label, score))
    if not examples:
        raise DataError(f"{path}: no pairs with thoughts")
    return examples


def _think(row: dict[str, Any], where: str) -> str:
    """The thought of a line. Raises DataError if it contains a tag."""
    think = get(row, "think", str, where)
    tag = TAG.search(think)
    if tag:
        raise DataError(f"{where}: 'think' contains the tag {tag[0]}, which would break the format; remove it")
    return think


def _list_example(row: dict[str, Any], where: str) -> ListReasoningExample:
    """An example with several documents. Raises DataError if the answer is malformed or names an unknown document."""
    documents = get(row, "documents", list, where)
    if len(documents) < 2 or not all(isinstance(document, str) for document in documents):
        raise DataError(f"{where}: 'documents' must be a list of at least two texts")
    answer = get(row, "answer", str, where)
    labels = LABEL.findall(answer)
    if not labels or LABEL.sub("", answer).replace(">", "").strip():
        raise DataError(f"{where}: 'answer' must be labels in brackets, such as [2] or [2] > [1], got {answer[:40]!r}")
    if len(set(labels)) < len(labels) or not all(1 <= int(label) <= len(documents) for label in labels):
        raise DataError(f"{where}: 'answer' {answer[:40]!r} names a document twice, or one that is not among the {len(documents)}")
    think = _think(row, where) if "think" in row else ""
    return ListReasoningExample(filled(row, "query", where), tuple(strings(row, "documents", where)), think, answer)


def split_reasoning_examples(
    examples: Sequence[AnyReasoningExample], queries: int, seed: int
) -> tuple[list[AnyReasoningExample], list[AnyReasoningExample]]:
    """Split examples by query, so that all examples of a query are in the same part.

    Args:
        examples: the examples.
        queries: number of dev queries, at most a fifth of all queries.
        seed: seed of the split.

    Returns:
        (training examples, dev examples).
    """
    keys = {example.query: query_key(example.query) for example in examples}
    distinct = sorted(set(keys.values()))
    dev = set(Random(f"thoughts/{seed}").sample(distinct, min(queries, len(distinct) // 5)))
    parts: tuple[list[AnyReasoningExample], list[AnyReasoningExample]] = ([], [])
    for example in examples:
        parts[keys[example.query] in dev].append(example)
    return parts
