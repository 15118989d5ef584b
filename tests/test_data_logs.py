"""Conversion of logs: every pair comes once with its thought, whatever the language; what is wrong is said or set aside.

The log is made anew by each test, so the counts checked here are known by hand.
"""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from prorank.cli.command_line import app
from prorank.data.formats import read_groups
from prorank.data.rerank_r0_logs import convert, shortened, side_file
from prorank.errors import DataError


def log(query: str, response: str, *rejected: str, think: str = "It covers all.") -> dict:
    others = [{"document": text, "thinking": f"{text} is about something else."} for text in rejected]
    return {"query": query, "response": response, "response_thinking": think, "rejected_response": others}


def write(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def read(path: Path) -> list[dict]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as handle:
        return [json.loads(line) for line in handle]


def test_a_line_becomes_a_pair_for_each_document(tmp_path):
    report = convert(write(tmp_path / "in", log("q", "good", "bad", "worse")), tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl") == [
        {"query": "q", "document": "good", "think": "It covers all.", "answer": "yes", "label": 1},
        {"query": "q", "document": "bad", "think": "bad is about something else.", "answer": "no", "label": 0},
        {"query": "q", "document": "worse", "think": "worse is about something else.", "answer": "no", "label": 0},
    ]
    assert str(report) == (
        f"{tmp_path}/out.jsonl: 3 pairs (1 yes, 2 no) from 1 lines; dropped 0 duplicates and 0 pairs labelled both yes and no; "
        "0 thoughts cut"
    )
    assert [group.labels for group in read_groups(tmp_path / "out.jsonl")] == [(1.0, 0.0, 0.0)]  # training reads it


def test_duplicates_come_once_and_contradictions_not_at_all(tmp_path):
    rows = [log("q", "a", "b", "c"), log("q", "a", "b ", "d"), log("q", "c"), log("other", "b", "b")]
    report = convert(write(tmp_path / "in", *rows), tmp_path / "out")
    assert [(row["query"], row["document"]) for row in read(tmp_path / "out")] == [("q", "a"), ("q", "b"), ("q", "d")]
    assert (report.duplicates, report.contradictions, report.yes, report.no, report.lines) == (2, 2, 1, 2, 4)


def test_gzip_and_every_script_go_through(tmp_path):
    row = log("¿qué es el café?", "咖啡是一种饮料。", "قهوة", "☕" * 3, think="是的。")
    with gzip.open(tmp_path / "in.gz", "wt", encoding="utf-8") as handle:
        handle.write(json.dumps(row, ensure_ascii=False) + "\n")
    convert(tmp_path / "in.gz", tmp_path / "out.jsonl.gz")
    assert [row["document"] for row in read(tmp_path / "out.jsonl.gz")] == ["咖啡是一种饮料。", "قهوة", "☕☕☕"]


BAD = [
    ("{", "malformed JSON"),
    ("[1]", "expected a JSON object, got list"),
    ({"query": "q"}, "key 'response' is missing; found 'query'"),
    (log(" ", "a"), "'query' is empty"),
    (log("q", "a", ""), "rejected_response[0]: 'document' is empty"),
    (log("q", "a") | {"response": 3}, "'response' must be a string, got 3"),
    (log("q", "a") | {"rejected_response": ["b"]}, "rejected_response[0]: expected an object with document and thinking"),
    (log("q", "a") | {"rejected_response": None}, "'rejected_response' must be a list"),
    ('{"query": "\\ud800", "response": "a", "response_thinking": "", "rejected_response": []}', "half of a surrogate pair"),
    (b'{"query": "\xff", "response": "a", "response_thinking": "", "rejected_response": []}', "not UTF-8 text"),
    ("[" * 100_000, "malformed JSON"),
]


@pytest.mark.parametrize("row, message", BAD, ids=[m[:24] for _, m in BAD])
def test_bad_lines_name_file_and_line_and_leave_nothing(tmp_path, row, message):
    source = write(tmp_path / "in", log("q", "a"), "", row)
    with pytest.raises(DataError) as caught:
        convert(source, tmp_path / "out")
    assert str(caught.value).startswith(f"{source}:3: ") and message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_bad_lines_go_aside_when_asked(tmp_path):
    source = write(tmp_path / "in", *(row for row, _ in BAD), log("q", "a"))
    report = convert(source, tmp_path / "out", skip_bad=True)
    aside = read(side_file(tmp_path / "out"))
    assert report.bad == len(BAD) and [row["line"] for row in aside] == list(range(1, len(BAD) + 1))
    assert all(message in row["error"] for row, (_, message) in zip(aside, BAD))
    assert aside[0]["text"] == "{" and len(read(tmp_path / "out")) == 1
    convert(write(tmp_path / "in", log("q", "a")), tmp_path / "out", skip_bad=True)
    with pytest.raises(DataError, match="no line in the log form"):
        convert(write(tmp_path / "in", "{"), tmp_path / "new", skip_bad=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "text, most, want",
    [
        ("One two. Three four five.", 12, "One two."),
        ("One two. Three four five.", 20, "One two. Three four"),  # the sentence would keep less than half
        ("He said “no.” Then he left the house", 30, "He said “no.” Then he left the"),
        ("He said “yes, no.” Then he left", 20, "He said “yes, no.”"),
        ("价格是 3.5 元。很贵。真的", 12, "价格是 3.5 元。"),
        ("第一句。第二句。第三句", 9, "第一句。第二句。"),
        ("Pi is 3.14159 or so", 9, "Pi is"),  # a point within a number ends nothing
        ("abcdefgh", 3, "abc"),
        ("ae\u0301i", 2, "a"),  # the accent belongs to its letter
        ("one two", 7, "one two"),
        ("one two", 3, "one"),
    ],
)
def test_thoughts_end_with_a_sentence_or_a_word(text, most, want):
    assert shortened(text, most) == want


@given(text=st.text(), most=st.integers(1, 50))
def test_a_shortened_thought_begins_the_long_one(text, most):
    short = shortened(text, most)
    assert len(short) <= most and text.startswith(short)
    assert bool(short.strip()) >= (bool(text[:most].strip()) and not text[:1].isspace())


def test_limits_are_checked_and_cuts_counted(tmp_path):
    source = write(tmp_path / "in", log("q", "a", "b", think="Yes. " * 10))
    assert convert(source, tmp_path / "out", max_think_chars=12).cut == 2
    assert [row["think"] for row in read(tmp_path / "out")] == ["Yes. Yes.", "b is about"]
    with pytest.raises(DataError, match="a limit of 0 characters"):
        convert(source, tmp_path / "out", max_think_chars=0)


def test_script_and_verb_give_the_same(tmp_path):
    source = write(tmp_path / "in", log("q", "a", "b"))
    said = CliRunner().invoke(app, ["import-logs", str(source), str(tmp_path / "one"), "--max-think-chars", "1200000"])
    assert said.exit_code == 0 and "2 pairs (1 yes, 1 no) from 1 lines" in said.stdout
    script = Path(__file__).parent.parent / "scripts" / "convert_data.py"
    subprocess.run([sys.executable, script, source, tmp_path / "two", "--max-think-chars", "1200000"], check=True)
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text()
