"""The report: one safe self-contained page, plain JSON, a table that fits a terminal."""

import json
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from prorank.evaluate import evaluate
from prorank.evaluate.charts import BarValue, bars, differences
from prorank.evaluate.format import figure, percent, probability, signed
from prorank.evaluate.terminal_report import show
from tests.evaluate_toy import Fake, write_beir

VOID = {"meta", "link", "img", "br", "hr", "input"}


class _Balanced(HTMLParser):
    """Counts tags that are opened and not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def done(tmp_path):
    folders = [write_beir(tmp_path / name) for name in ("toy", "other")]
    queries = folders[0] / "queries.jsonl"
    queries.write_text(queries.read_text().replace('"bread"', '"bread <script>alert(1)</script>"'), encoding="utf-8")
    models = [Fake(name="[bold]<b>one</b>"), Fake(word="river", name="two")]
    out = tmp_path / "out"
    return evaluate(folders, models, out=out, min_rel=3, sample=8, command="prorank evaluate toy"), out


def test_page_is_whole_safe_and_needs_no_other_host(done):
    page = (done[1] / "report.html").read_text(encoding="utf-8")
    parser = _Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "<script" not in page and "&lt;script&gt;" in page and "<b>one" not in page
    assert not re.search(r"https?://|src=|@import|url\(", page)
    assert not re.search(r"\$[a-z]|{{|{%", page)
    assert page.count("<svg") == 2 + 4  # bars for each set, differences for each set and model
    assert "prefers-color-scheme: dark" in page and "prorank evaluate toy" in page


def test_json_is_strict_and_complete(done):
    result = json.loads((done[1] / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert {r["kind"] for r in result["rows"]} == {"first stage", "model", "answers only"}
    assert result["rows"][0]["measures"]["nDCG@10"] == done[0].rows[0].measures["nDCG@10"]
    assert result["settings"]["seed"] == 0 and result["settings"]["environment"]["packages"]["ir-measures"]
    assert set(result["values"]["toy"]["two"]["nDCG@10"]) == {"q1", "q2", "q4"}
    assert set(result["means"]) == {"BM25", "two", "[bold]<b>one</b>", "two, 0/1 only", "[bold]<b>one</b>, 0/1 only"}
    assert len(result["comparisons"]) == 2


def test_terminal_table_fits_and_takes_names_as_they_are(done):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    show(done[0], console)
    text = console.export_text()
    assert "[bold]<b>one</b>" in text.replace("\n", "") and "mean over 2 sets" in text
    assert "at the answer position" in text and "└ 0/1 only" in text and "MRR@10" in text


def test_figures_as_text():
    assert [figure(x) for x in (0.5058, 0.0, 1.0, None, float("nan"))] == [".5058", ".0000", "1.0000", "–", "–"]
    assert signed(-0.01) == "−.0100" and signed(0.5) == "+.5000" and signed(None) == ""
    assert [percent(x) for x in (1.0, 0.9996, 0.5, 0.0004, 0.0)] == ["100.0 %", "99.96 %", "50.0 %", "0.04 %", "0.0 %"]
    assert [probability(p) for p in (0.5, 0.0002, 1e-6)] == ["0.500", "0.0002", "<.0001"]


def test_charts_draw_every_row():
    svg = bars([BarValue("a & b", 1, 0.25, 0.2, 0.3), BarValue("long name of a checkpoint in a folder", 2, 0.5, 0.4, 0.6)], 0.6)
    assert svg.count("<rect") == 2 and "a &amp; b" in svg and "…" in svg
    assert differences([("q", 0.5), ("<r>", -0.5), ("s", 0.0)], 1).count("<rect") == 3
