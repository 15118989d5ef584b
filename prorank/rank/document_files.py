"""Read documents to rank from a file or standard input.

    {"text": "…"} a line, or "…" a line         JSONL; objects may have title, id and anything else
    [{"text": "…"}, "…"]                        a JSON array; JSON may be spread over lines
    id,title,text                               a table: .csv, .tsv, or lines below such a header
    a text a line

A file is read as text lines if it has none of the other formats. Lines that look like JSON or like a table, but cannot be parsed,
raise an error, so that no bracket, quote or header is ranked as a document.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NoReturn

from ..data.tables import header_fields, is_column, is_table, read_table, shown_columns, table_suffix
from ..errors import DataError
from ..utils.files import source_name, text_lines
from ..utils.texts import SURROGATE
from .documents import Document

Lines = list[tuple[int, str]]  # (line number from 1, text without surrounding blanks)
COLUMNS = ("id", "_id", "title", "text")
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
TEXT_KEYS = ("contents", "content", "body", "passage", "document", "doc", "page_content", "abstract", "snippet", "segment", "_text")
# Matches lines that look like a part of JSON or of a Python list.
LOOKS_JSON = re.compile(r"""\{\s*(["'}]|\w+\s*:|$) | \[\s*(["'{\]]|$) | [\]}],?$ | "(?:[^"\\]|\\.)*"\s*(,?$|:)""", re.VERBOSE)
QUOTED_FIELD = re.compile(r'(^|[,;\t])"([^"]|"")*"([,;\t](?! )|$)')  # of a CSV file
MAX_NAME_LENGTH = 40  # of a column name
REMEDY = 'give every document as JSON, one {"text": "…"} per line'


def read_documents(path: str) -> list[Document]:
    """Read the documents of a file, or of standard input ("-"), in any of the formats above; blank lines are skipped.

    Args:
        path: a file, or "-".

    Raises:
        DataError: JSON or a table is malformed, an object has no "text", there is JSON among text lines, a header lacks the column
            text, or there are no documents. The message names file, line and remedy.
    """
    name, lines = source_name(path), list(text_lines(path))
    kept = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    declared = table_suffix(path) in JSON_SUFFIXES
    if kept and not declared and (is_table(path) or _is_header(name, *kept[0])):
        documents = _table_documents(name, lines)
    elif kept and (declared or _is_json(kept[0][1])):
        documents = [_document(value, where) for where, value in _json_values(name, kept)]
    else:
        _refuse_bare_table(name, kept)
        _refuse_json_lines(name, kept)
        documents = [line for _, line in kept]
    if not documents:
        raise DataError(f"{name}: contains no documents")
    return documents


def _is_header(name: str, number: int, line: str) -> bool:
    """Return whether a file's first line names a table's columns. Raises DataError if it may also be a document."""
    _, fields = header_fields(line)
    if _names_columns(fields):
        if len(fields) > 1:
            return True
        why = "may be a document or the header of a table; name the file .csv if it is a header"
        raise DataError(f"{name}:{number}: {line!r} {why}, or {REMEDY}")
    return False


def _names_columns(fields: Sequence[str]) -> bool:
    """Return whether fields are names of columns. With a space after a comma, as in prose, all of them must be known names."""
    known = [is_column(field) for field in fields]
    prose = any(field.startswith(" ") for field in fields[1:])
    return (all(known) if prose else any(known)) and max(map(len, fields)) <= MAX_NAME_LENGTH


def _table_documents(name: str, lines: Sequence[str]) -> list[Document]:
    """Return the documents of a table; plain texts if it has no other column."""
    table = read_table(name, lines)
    if "text" not in table.columns.values():
        expected = "expected a header such as id,title,text"
        raise DataError(f"{name}:{table.line}: no column text; found {shown_columns(table.columns)}; {expected}")
    bare = len(table.columns) == 1
    return [row["text"] if bare else row for _, row in table.records(COLUMNS)]


def _json_values(name: str, kept: Lines) -> list[tuple[str, Any]]:
    """Return (place for messages, value) of each document of a JSON file."""
    values = _stream(name, kept)
    if len(values) == 1 and isinstance(values[0][1], list):
        line, documents = values[0]
        return [(f"{name}:{line}: document {i} of the array", value) for i, value in enumerate(documents, 1)]
    return [(f"{name}:{line}", value) for line, value in values]


def _is_json(line: str) -> bool:
    """Return whether a line is a JSON object, array or string, or looks like a part of one."""
    if LOOKS_JSON.match(line):
        return True
    try:
        return line[0] in '[{"' and isinstance(json.loads(line), (dict, list, str))
    except RecursionError:
        return True
    except ValueError:
        return False


def _refuse_bare_table(name: str, kept: Lines) -> None:
    """Raise DataError for text lines that look like the rows of a table without a header."""
    number, line = (kept or [(0, "")])[0]
    tabs = {line.count("\t") for _, line in kept}
    if QUOTED_FIELD.search(line) or len(kept) > 1 and len(tabs) == 1 and tabs != {0}:
        why = "looks like a row of a table; add a header row that names its columns, such as id,title,text"
        raise DataError(f"{name}:{number}: {line[:60]!r} {why}, or {REMEDY}")


def _refuse_json_lines(name: str, kept: Lines) -> None:
    """Raise DataError for a line of JSON among text lines."""
    for number, line in kept:
        if _is_json(line):
            raise DataError(f"{name}:{number}: {line[:60]!r} looks like JSON, but line {kept[0][0]} is text; {REMEDY}")


def _stream(name: str, kept: Lines) -> list[tuple[int, Any]]:
    """Return (line number, value) of consecutive JSON values, each of which ends at the end of a line."""
    text = "\n".join(line for _, line in kept)
    starts = [0, *accumulate(len(line) + 1 for _, line in kept)][:-1]  # of each line in the text
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    values: list[tuple[int, Any]] = []
    position = 0
    while position < len(text):
        number = kept[bisect_right(starts, position) - 1][0]
        try:
            value, end = decoder.raw_decode(text, position)
            if text[end : end + 1] not in ("", "\n"):
                raise json.JSONDecodeError("Extra data", text, end)
        except json.JSONDecodeError as error:
            line = bisect_right(starts, min(error.pos, len(text) - 1)) - 1
            _refuse_json(name, kept, kept[line][0], error.msg)
        except (ValueError, RecursionError) as error:
            _refuse_json(name, kept, number, "nested too deeply" if isinstance(error, RecursionError) else str(error))
        values.append((number, value))
        position = end + 1
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _refuse_json(name: str, kept: Lines, line: int, why: str) -> NoReturn:
    """Raise DataError for a line that is not valid JSON."""
    first = kept[0][0]
    above = f"; line {first} is JSON, so all lines must be" if line > first else ""
    expected = 'expected an object with "text" or a string per line, or one array of them'
    raise DataError(f"{name}:{line}: not valid JSON ({why}); {expected}{above}")


def _document(value: Any, where: str) -> Document:
    """Convert a JSON value to a document. Raises DataError for other values."""
    if not isinstance(value, (str, dict)):
        raise DataError(f'{where}: expected an object with "text" or a string, got {json.dumps(value)[:40]}')
    if isinstance(value, dict) and not isinstance(value.get("text"), str):
        raise DataError(f'{where}: expected a JSON object with a string "text"{_instead_of_text(value)}')
    if isinstance(value, dict) and not isinstance(value.get("title"), (str, type(None))):
        raise DataError(f'{where}: "title" must be a string, got {json.dumps(value["title"])[:40]}')
    try:
        serialised = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise DataError(f"{where}: nested too deeply") from None
    if SURROGATE.search(serialised):
        raise DataError(f"{where}: not UTF-8 text: it contains half of a surrogate pair")
    return value


def _instead_of_text(value: dict[str, Any]) -> str:
    """Return the keys of an object without "text", for messages."""
    if "text" in value:
        return f", got {json.dumps(value['text'])[:40]}"
    named = {key.lower(): key for key in value}
    key = next((named[name] for name in ("text", *TEXT_KEYS) if name in named), None)
    keys = f"; found {', '.join(map(repr, value)) or 'no keys'}"
    return f'{keys}; rename {key!r} to "text" if it is the text' if key else keys
