"""Convert Rerank-R0's labelled search logs (one line per query) to training examples (one line per pair).

The file is read twice. The first pass stores the labels of all pairs by hash, so that pairs labelled both yes and no are dropped
wherever they occur. Logs larger than memory can be converted.

    {"query": "…", "response": "…", "response_thinking": "…", "rejected_response": [{"document": "…", "thinking": "…"}, …]}
    {"query": "…", "document": "…", "think": "…", "answer": "yes", "label": 1}
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..utils.files import atomic_file, check_file, check_neighbour, repeatable_lines, source_name
from .jsonl import digest, filled, get, line_of, parsed
from .reasoning_examples import reasoning_row

# Ends of sentences: punctuation and closing quotes before white space, punctuation of scripts without spaces, or line ends.
SENTENCE = re.compile(r"[.!?…][\"')\]’”»]*(?=\s|$)|[。！？｡।۔][」』”’]*|(?=\n)")
MIXED, WRITTEN = -1, -2
Bad = Callable[[int, str, DataError], Any]


@dataclass
class ImportReport:
    """Counts of a conversion; `str()` gives a one-line summary.

    Attributes:
        out: the output file.
        lines: number of lines that were read.
        yes, no: number of pairs written, by answer.
        duplicates, contradictions: number of pairs dropped because they repeat a pair or are labelled both yes and no.
        cut: number of truncated thoughts.
        bad: number of malformed lines.
    """

    out: str
    lines: int = 0
    yes: int = 0
    no: int = 0
    cut: int = 0
    duplicates: int = 0
    contradictions: int = 0
    bad: int = 0

    def __str__(self) -> str:
        text = f"{self.out}: {self.yes + self.no} pairs ({self.yes} yes, {self.no} no) from {self.lines} lines; dropped "
        text += f"{self.duplicates} duplicates and {self.contradictions} pairs labelled both yes and no; {self.cut} thoughts cut"
        return text + (f"; {self.bad} bad lines are in {side_file(self.out)}" if self.bad else "")


def side_file(out: str | Path) -> Path:
    """Return the path of the file for the bad lines of a conversion."""
    return Path(f"{out}.bad.jsonl")


def convert(source: str | Path, out: str | Path, max_think_chars: int | None = None, skip_bad: bool = False) -> ImportReport:
    """Convert a log to training examples. The output is replaced atomically.

    Args:
        source: JSONL in the log format, plain or gzip. It is read twice; the lines of a pipe are kept in memory.
        out: JSONL to write, compressed if it ends in .gz.
        max_think_chars: truncate longer thoughts at the end of a sentence or word.
        skip_bad: write bad lines with their errors to `side_file(out)` and continue.

    Raises:
        DataError: a line is bad (file:line) and `skip_bad` is False, no line is good, or the limit is below 1.
    """
    if max_think_chars is not None and max_think_chars < 1:
        raise DataError(f"a limit of {max_think_chars} characters leaves no thought; use at least 1, or no limit")
    labels: dict[bytes, int] = {}  # label of each pair, MIXED, or WRITTEN
    check_file(out)
    if skip_bad:
        check_neighbour(out, "the file of bad lines")
    lines = repeatable_lines(source, errors="surrogateescape")
    name = source_name(source)
    for _, row in _rows(lines(), name, (lambda *_: None) if skip_bad else None):
        key = _key(row)
        labels[key] = row["label"] if labels.get(key, row["label"]) == row["label"] else MIXED
    if not labels:
        raise DataError(f"{name}: no line in the log form (query, response, response_thinking, rejected_response)")
    report = ImportReport(str(out), contradictions=sum(label == MIXED for label in labels.values()))
    with atomic_file(out) as handle, atomic_file(side_file(out)) if skip_bad else nullcontext() as side:

        def bad(number: int, line: str, error: DataError) -> None:
            report.bad += 1
            if side:
                side.write(json.dumps({"line": number, "error": str(error), "text": line}) + "\n")

        last = 0
        for number, row in _rows(lines(), name, bad if skip_bad else None):
            report.lines, last = report.lines + (number != last), number
            key = _key(row)
            if labels[key] == WRITTEN:
                report.duplicates += 1
            elif labels[key] != MIXED:
                _write(row, max_think_chars, handle, report)
                labels[key] = WRITTEN
    if skip_bad and not report.bad:
        side_file(out).unlink()
    return report


def _rows(lines: Iterable[tuple[int, str]], name: str, bad: Bad | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, pair in the training format). Bad lines go to `bad`, or raise if it is None."""
    for number, line in lines:
        try:
            rows = list(_pairs(line, f"{name}:{number}"))
        except DataError as error:
            if bad is None:
                raise
            bad(number, line, error)
            continue
        for row in rows:
            yield number, row


def _pairs(line: str, where: str) -> Iterator[dict[str, Any]]:
    """Pairs of one line in the log format."""
    row = parsed(line, where)
    query = filled(row, "query", where, "'query'")
    yield reasoning_row(query, filled(row, "response", where, "'response'"), get(row, "response_thinking", str, where), 1)
    for at, one in enumerate(get(row, "rejected_response", list, where)):
        place = f"{where}: rejected_response[{at}]"
        if not isinstance(one, dict):
            raise DataError(f"{place}: expected an object with document and thinking, got {json.dumps(one)[:40]}")
        yield reasoning_row(query, filled(one, "document", place, "'document'"), get(one, "thinking", str, place), 0)


def _key(row: dict[str, Any]) -> bytes:
    """Hash of query and document, without surrounding white space."""
    return digest(row["query"].strip(), row["document"].strip())


def _write(row: dict[str, Any], max_chars: int | None, handle: Any, report: ImportReport) -> None:
    think = row["think"] if max_chars is None else shortened(row["think"], max_chars)
    report.cut += think != row["think"]
    report.yes, report.no = report.yes + row["label"], report.no + 1 - row["label"]
    handle.write(line_of(row | {"think": think}))


def shortened(text: str, max_chars: int) -> str:
    """Truncate a text to `max_chars` characters.

    It ends after its last whole sentence if that keeps at least half of the limit, else after its last whole word, else before the
    first character that does not fit. Combining marks stay with their character.
    """
    if len(text) <= max_chars:
        return text
    ends = [match.end() for match in SENTENCE.finditer(text[: max_chars + 1]) if match.end() <= max_chars]
    if ends and 2 * ends[-1] >= max_chars:
        return text[: ends[-1]].rstrip()
    words = [match.start() for match in re.finditer(r"\s+", text[: max_chars + 1]) if match.start() > 0]
    if words:
        return text[: words[-1]].rstrip()
    while max_chars > 1 and unicodedata.combining(text[max_chars]):
        max_chars -= 1
    return text[:max_chars]
