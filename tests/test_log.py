"""`benchmarks/log.jsonl`: every row has its fields, ids are unique, and what README and docs cite exists."""

import json
import re
from datetime import date
from pathlib import Path

import pytest

from scripts.docs_tables import headlines, log_table, read_log

ROOT = Path(__file__).parent.parent
ROWS = read_log()
FIELDS = {
    "id": str, "date": str, "commit": (str, type(None)), "kind": str, "question": str, "command": str, "seeds": list,
    "hardware": str, "minutes": (int, float, str, type(None)), "result": str, "verdict": str,
}  # fmt: skip
OPTIONAL = {"seeds_note": str, "metrics": dict, "list": str, "headline": str}
VERDICTS = {"works", "fails", "no difference", "undecided", "measured"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_a_row_has_its_fields(row):
    assert set(FIELDS) <= set(row) <= set(FIELDS) | set(OPTIONAL)
    assert all(isinstance(row[key], kind) for key, kind in (FIELDS | OPTIONAL).items() if key in row)
    assert all(row[key].strip() for key in ("question", "command", "hardware", "result"))
    assert date.fromisoformat(row["date"]).year >= 2026
    assert row["commit"] is None or re.fullmatch(r"[0-9a-f]{7,40}", row["commit"])
    assert row["kind"] in ("run", "trial") and row["verdict"] in VERDICTS
    assert all(isinstance(seed, int) for seed in row["seeds"])
    assert ("headline" in row) == ("list" in row) and row.get("list", "finding") in ("finding", "failure")
    assert "headline" not in row or "metrics" in row


def test_ids_are_unique_and_in_order():
    ids = [row["id"] for row in ROWS]
    assert ids == sorted(set(ids)) and len(ids) >= 114 and all(re.fullmatch(r"E\d{3}", number) for number in ids)
    assert [row["date"] for row in ROWS] == sorted(row["date"] for row in ROWS)


def test_ten_findings_and_ten_failures_have_a_headline():
    for kind in ("finding", "failure"):
        assert len(headlines(kind).splitlines()) == 10
    assert len(log_table().splitlines()) == len(ROWS) + 2


def numbers(value):
    """All numbers of a nested value."""
    if isinstance(value, dict):
        return [n for item in value.values() for n in numbers(item)]
    return [n for item in value for n in numbers(item)] if isinstance(value, list) else [value]


@pytest.mark.parametrize("row", [row for row in ROWS if "metrics" in row], ids=lambda row: row["id"])
def test_metrics_are_figures_of_the_result(row):
    text = row["question"] + row["result"]
    for number in numbers(row["metrics"]):
        ways = {f"{number:.{digits}f}".removeprefix("0") for digits in range(1, 5) if round(number, digits) == number}
        assert any(re.search(rf"(?<!\d){re.escape(way)}(?!\d)", text) for way in ways), number


def test_cited_ids_exist():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    cited = {i for page in pages for i in re.findall(r"\bE\d{3}\b", page.read_text(encoding="utf-8"))}
    cited |= {i for row in ROWS for i in re.findall(r"\bE\d{3}\b", row.get("headline", ""))}
    assert len(cited) > 30 and cited <= {row["id"] for row in ROWS}


def test_the_file_is_one_object_a_line():
    lines = (ROOT / "benchmarks" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [row["id"] for row in ROWS]
