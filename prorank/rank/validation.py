"""Check the arguments of `rank`, `score` and the other public methods, and turn documents into texts.

Every public method validates its arguments here, before any work, so all of them accept the same values and raise the same errors.
Each document is converted to its text once; later steps use texts only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, ModelError, ProRankError
from ..utils.texts import plain_text, shown
from .documents import Document, document_text

# Methods that convert a table (pandas, polars, pyarrow) to rows.
TABLES = {"to_dicts": ".to_dicts()", "to_pylist": ".to_pylist()", "to_dict": '.to_dict("records")'}


@dataclass(frozen=True)
class RankOptions:
    """The validated options of a call.

    Attributes:
        top_k: number of hits, at least 1; None for all.
        min_score: lowest score of a hit; None for no limit.
        batch_size: maximum number of documents in a forward pass, at least 1; None chooses by tokens.
        instruction: replaces the prompt's instruction; None keeps it.
        top_n: alias of `top_k`, as in the APIs of Cohere and Jina; both have the same value after validation.

    Raises:
        DataError: the value of an option has a wrong type or is out of range, or `top_k` and `top_n` differ.
    """

    top_k: int | None = None
    min_score: float | None = None
    batch_size: int | None = None
    instruction: str | None = None
    top_n: int | None = None

    def __post_init__(self) -> None:
        number_of_hits = _number_of_hits(self.top_k, self.top_n)
        checked = {
            "top_k": number_of_hits,
            "top_n": number_of_hits,
            "min_score": _lowest_score(self.min_score),
            "batch_size": whole_number(self.batch_size, "batch_size", "omit it to choose by tokens"),
            "instruction": None if self.instruction is None else plain_text(self.instruction, "the instruction"),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def whole_number(value: Any, name: str, remedy: str = "", raised: type[ProRankError] = DataError) -> int | None:
    """Return `value` as an `int` of at least 1, or None. Integers of numpy are accepted, booleans and floats are not.

    Args:
        value: the value.
        name: its name in messages.
        remedy: remedy in messages.
        raised: class of the error.

    Raises:
        DataError (or `raised`): anything else.
    """
    if value is None:
        return None
    hint = f"; {remedy}" if remedy else ""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise raised(f"{name} must be a whole number, not {shown(value)}{hint}")
    if value < 1:
        raise raised(f"{name} must be at least 1, not {value}{hint}")
    return int(value)


def _number_of_hits(top_k: Any, top_n: Any) -> int | None:
    """Return `top_k` or its alias `top_n`. Raises DataError if they differ."""
    values = {
        name: whole_number(value, name, "omit it to get all documents") for name, value in (("top_k", top_k), ("top_n", top_n))
    }
    if None not in values.values() and values["top_k"] != values["top_n"]:
        raise DataError(f"top_n is an alias of top_k, but top_k is {top_k} and top_n is {top_n}; give one of them")
    return values["top_n"] if values["top_k"] is None else values["top_k"]


def _lowest_score(value: Any) -> float | None:
    """Return `min_score` as a float. Raises DataError for NaN and values that are not numbers."""
    if value is None:
        return None
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.nan
    if math.isnan(number):
        raise DataError(f"min_score must be a number, not {shown(value)}; omit it to get all documents")
    return number


@dataclass(frozen=True)
class QueryBatch:
    """Validated queries with their documents.

    Attributes:
        queries: one text per query.
        documents: the documents of each query, unchanged.
        texts: the text to score of each document.
    """

    queries: list[str]
    documents: list[list[Document]]
    texts: list[list[str]]


def validate_batch(queries: Any, documents: Any) -> QueryBatch:
    """Validate queries and the documents of each.

    Args:
        queries: an iterable of texts that are not blank.
        documents: an iterable of as many iterables of documents, see `document_text`.

    Raises:
        DataError: a query or document is invalid; the message names it.
    """
    queries, lists = items(queries, "queries"), items(documents, "documents")
    if len(queries) != len(lists):
        raise DataError(f"{len(queries)} queries but {len(lists)} lists of documents; give one list per query")
    query_texts = [query_text(query, f"query {i}") for i, query in enumerate(queries)]
    lists = [items(row, f"documents of query {i}") for i, row in enumerate(lists)]
    texts = [
        [document_text(document, f"document {j} of query {i}") for j, document in enumerate(row)] for i, row in enumerate(lists)
    ]
    return QueryBatch(query_texts, lists, texts)


def validate_pairs(pairs: Any) -> tuple[QueryBatch, list[list[int]]]:
    """Validate (query, document) pairs, and group them by query.

    Args:
        pairs: an iterable of pairs: tuples, lists or rows of an array.

    Returns:
        The batch, and for each of its documents the index of its pair in the input.

    Raises:
        DataError: a pair is invalid; the message names it.
    """
    rows = items(pairs, "pairs", 'give (query, document) pairs, such as zip(frame["query"], frame["text"])')
    checked = [_pair(pair, i) for i, pair in enumerate(rows)]
    by_query: dict[str, list[int]] = {}
    for i, pair in enumerate(checked):
        by_query.setdefault(pair.query, []).append(i)
    places = list(by_query.values())
    documents = [[checked[i].document for i in indices] for indices in places]
    texts = [[checked[i].text for i in indices] for indices in places]
    return QueryBatch(list(by_query), documents, texts), places


class _Pair(NamedTuple):
    query: str
    document: Document
    text: str


def _pair(pair: Any, number: int) -> _Pair:
    """Check one pair."""
    is_array = getattr(pair, "ndim", None) == 1 and hasattr(pair, "tolist")
    if not isinstance(pair, (tuple, list)) and not is_array or len(pair) != 2:
        raise DataError(f"pair {number} is {str(pair)[:80]!r}; expected (query, document)")
    query, document = pair
    where = f"pair {number}"
    return _Pair(query_text(query, f"{where} is wrong: its query"), document, document_text(document, f"{where}: its document"))


def query_text(value: Any, where: str) -> str:
    """Return a query as plain text. Raises DataError for blank queries, and see `plain_text`."""
    if isinstance(value, str) and not value.strip() or value is None:
        raise DataError(f"{where} is {value!r}; expected a text that is not empty")
    return plain_text(value, where)


def items(value: Any, what: str, remedy: str = "") -> list[Any]:
    """Return the elements of an iterable, in its order: a list, tuple, generator, array, column or view of a dict.

    Args:
        value: an argument of a public method.
        what: its name in messages.
        remedy: remedy for a table, instead of the call that returns its rows.

    Raises:
        DataError: the value is a text, bytes, a mapping, a set (it has no order), a table (its elements would be column names), or
        not
            iterable.
    """
    name = type(value).__name__
    if isinstance(value, (set, frozenset)):
        raise DataError(f"{what} must be a list, not {name}, which has no order")
    if table := next((call for method, call in TABLES.items() if hasattr(value, "columns") and hasattr(value, method)), ""):
        raise DataError(f"{what} must be a list, not the table {name}; {remedy or f'give its rows: {table}'}")
    if isinstance(value, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(value, Iterable):
        raise DataError(f"{what} must be a list, not {name} {str(value)[:60]!r}")
    try:
        elements = iter(value)
    except TypeError as error:  # an array without dimensions
        raise DataError(f"{what} must be a list, not {shown(value)}") from error
    return list(elements)


def check_finite(name: str, scores: Sequence[np.ndarray]) -> None:
    """Raise ModelError if a score of the model `name` is not finite."""
    if not all(np.isfinite(row).all() for row in scores):
        raise ModelError(f"{name}: scores are not finite; the weights are damaged or its training diverged")
