"""The published first-stage figures come out of `evaluate` on the real collections (PRORANK_DATA)."""

import pytest

from prorank.evaluate import evaluate

PROTOCOL = {"dl19": 0.5058, "dl20": 0.4796, "scifact": 0.7105, "cranfield": 0.4678, "npl_vaswani": 0.4644, "dbpedia50": 0.3555}
QUERIES = {"dl19": 43, "dl20": 54, "scifact": 100, "cranfield": 75, "npl_vaswani": 60, "dbpedia50": 40}


def test_protocol_lists(data_dir):
    result = evaluate([data_dir / name for name in PROTOCOL], run="protocol")
    assert {r.dataset: round(r.measures["nDCG@10"], 4) for r in result.rows} == PROTOCOL
    assert {r.dataset: r.queries for r in result.rows} == QUERIES


@pytest.mark.parametrize("name", ["dl19", "dl20"])
def test_published_bm25_with_full_judgements(data_dir, name):
    result = evaluate([data_dir / name], run="run.bm25.txt", qrels="qrels/full.txt")
    assert round(result.rows[0].measures["nDCG@10"], 4) == PROTOCOL[name]
    assert any("judged documents have no text" in note for note in result.notes[name])


@pytest.mark.parametrize(
    "name, how, expected",
    [
        ("adi", {}, 0.480),
        ("npl_vaswani", {}, 0.445),
        ("cosqa", {}, 0.320),
        ("lee50", {}, 0.382),
        ("dbpedia50", {"judged_only": True}, 0.355),
    ],
)
def test_own_bm25(data_dir, name, how, expected):
    result = evaluate([data_dir / name], **how)
    assert result.rows[0].measures["nDCG@10"] == pytest.approx(expected, abs=0.002)
