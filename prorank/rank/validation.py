"""What callers hand to `rank`, `score` and their sisters: checked before any work, and turned into plain texts once.

Every public method reads its arguments here, so all of them take and refuse the same things with the same words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from ..errors import DataError, ProRankError
from ..utils.texts import plain_text, shown
from .documents import Document, document_text

# Methods that turn a table (pandas, polars, pyarrow) into its rows.
TABLES = {"to_dicts": ".to_dicts()", "to_pylist": ".to_pylist()", "to_dict": '.to_dict("records")'}


@dataclass(frozen=True)
class RankOptions:
    """The options of a call, checked when it is made.

    Attributes:
        top_k: number of hits, at least 1; None for all.
        min_score: lowest score of a hit; None for no bound.
        batch_size: documents in a forward pass, at least 1; None chooses by tokens.
        instruction: text in place of the prompt's own; None keeps that.

    Raises:
        DataError: an option has another type or a value that cannot work.
    """

    top_k: int | None = None
    min_score: float | None = None
    batch_size: int | None = None
    instruction: str | None = None

    def __post_init__(self) -> None:
        checked = {
            "top_k": whole_number(self.top_k, "top_k", "leave it out to get all documents"),
            "min_score": _bound(self.min_score),
            "batch_size": whole_number(self.batch_size, "batch_size", "leave it out to choose by tokens"),
            "instruction": None if self.instruction is None else plain_text(self.instruction, "the instruction"),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def whole_number(value: Any, name: str, remedy: str = "", raised: type[ProRankError] = DataError) -> int | None:
    """Return `value` as an `int` of at least 1, or None; numpy's integers are taken, booleans and floats are not.

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


def _bound(value: Any) -> float | None:
    """Return `min_score` as a float. Raises DataError for what is no number, and for NaN."""
    if value is None:
        return None
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.nan
    if math.isnan(number):
        raise DataError(f"min_score must be a number, not {shown(value)}; leave it out to get all documents")
    return number


@dataclass(frozen=True)
class Lists:
    """Queries with their documents. `documents` are as they were given, `texts` what is scored of each."""

    queries: list[str]
    documents: list[list[Document]]
    texts: list[list[str]]


def read_lists(queries: Any, documents: Any) -> Lists:
    """Read queries and, for each, its documents.

    Args:
        queries: an iterable of texts that are not blank.
        documents: an iterable of as many iterables of documents, see `document_text`.

    Raises:
        DataError: naming the query, or the document, that cannot be read.
    """
    queries, lists = items(queries, "queries"), items(documents, "documents")
    if len(queries) != len(lists):
        raise DataError(f"{len(queries)} queries but {len(lists)} lists of documents; give one list a query")
    asked = [query_text(query, f"query {i}") for i, query in enumerate(queries)]
    given = [items(some, f"documents of query {i}") for i, some in enumerate(lists)]
    texts = [[document_text(one, f"document {j} of query {i}") for j, one in enumerate(some)] for i, some in enumerate(given)]
    return Lists(asked, given, texts)


def read_pairs(pairs: Any) -> tuple[Lists, list[list[int]]]:
    """Read (query, document) pairs as lists of one query each, and the places of each list's pairs in the input.

    Args:
        pairs: an iterable of pairs: tuples, lists or rows of an array.

    Raises:
        DataError: naming the pair that cannot be read.
    """
    found: dict[str, list[int]] = {}
    given = items(pairs, "pairs", 'give (query, document) pairs, such as zip(frame["query"], frame["text"])')
    checked = [_pair(pair, i) for i, pair in enumerate(given)]
    for i, (query, _, _) in enumerate(checked):
        found.setdefault(query, []).append(i)
    places = list(found.values())
    documents = [[checked[i][1] for i in some] for some in places]
    texts = [[checked[i][2] for i in some] for some in places]
    return Lists(list(found), documents, texts), places


def _pair(pair: Any, number: int) -> tuple[str, Document, str]:
    """(query, document, text) of a pair."""
    array = getattr(pair, "ndim", None) == 1 and hasattr(pair, "tolist")
    if not isinstance(pair, (tuple, list)) and not array or len(pair) != 2:
        raise DataError(f"pair {number} is {str(pair)[:80]!r}; expected (query, document)")
    query, document = pair
    where = f"pair {number}"
    return query_text(query, f"{where} is wrong: its query"), document, document_text(document, f"{where}: its document")


def query_text(value: Any, where: str) -> str:
    """A query as plain text. Raises DataError for a blank one, and as `plain_text`."""
    if isinstance(value, str) and not value.strip() or value is None:
        raise DataError(f"{where} is {value!r}; expected a text that is not empty")
    return plain_text(value, where)


def items(value: Any, what: str, remedy: str = "") -> list[Any]:
    """The elements of an iterable, in its order: a list, tuple, generator, array, column or view of a dict.

    Args:
        value: what the caller gave.
        what: what the message calls it.
        remedy: for a table, in place of the call that gives its rows.

    Raises:
        DataError: a text, bytes, a mapping, a set (it has no order), a table (its elements would be column names), or nothing that
            can be gone through.
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
    except TypeError as error:  # an array of no dimension
        raise DataError(f"{what} must be a list, not {shown(value)}") from error
    return list(elements)
