"""`rerank --run` reranks every query of the run that has a text, labelled or not, and says what has none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prorank.data.formats import read_run
from prorank.errors import DataError
from prorank.prompts.prompt import TruncationCounts
from prorank.rank.rerank_files import read_run_texts, rerank_run
from tests.evaluate_toy import write_run

CORPUS = {"d1": "bread", "d2": "sour bread", "d3": "a river", "d4": ""}
QUERIES = {"q1": "bread", "q2": "river", "q3": "violin"}


class Longest:
    """A reranker for which longer texts are better."""

    def __init__(self):
        self.cuts, self.queries = TruncationCounts(), []

    def score_lists(self, queries, documents, instruction=None):
        self.queries += queries
        return [np.array([len(text) for text in texts], np.float32) for texts in documents]


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A BEIR folder without qrels."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name, texts in (("corpus", CORPUS), ("queries", QUERIES)):
        rows = [json.dumps({"_id": key, "text": text}) + "\n" for key, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("".join(rows))
    return folder


def rerank(tmp_path, dataset, lists, top_k=None):
    reranker = Longest()
    texts = read_run_texts(write_run(tmp_path / "in.run", lists), dataset, top_k)
    said = rerank_run(reranker, texts, tmp_path / "out.run")
    return {query: list(scores) for query, scores in read_run(tmp_path / "out.run").items()}, said, reranker


@pytest.mark.parametrize("qrels", [None, "q1\td2\t1\n", "q9\td1\t1\n", "not a label file"])
def test_every_query_is_reranked_whatever_is_labelled(tmp_path, dataset, qrels):
    if qrels:
        (dataset / "qrels").mkdir()
        (dataset / "qrels" / "test.tsv").write_text(qrels)
    got, said, reranker = rerank(tmp_path, dataset, {query: ["d1", "d2", "d3"] for query in QUERIES})
    assert got == {query: ["d2", "d3", "d1"] for query in QUERIES} and reranker.queries == list(QUERIES.values())
    assert "3 queries reranked, 0 left as they were, 0 documents without text;" in said


def test_what_has_no_text_stays_and_is_said(tmp_path, dataset):
    lists = {"q8": ["d1", "d2"], "q1": ["d9", "d1", "d4", "d2"], "q2": ["d8", "d4"], "q9": ["d3"]}
    got, said, _ = rerank(tmp_path, dataset, lists)
    assert got == lists | {"q1": ["d2", "d1", "d9", "d4"]}
    assert "1 queries reranked, 3 left as they were (2 without a text, first: q8), 4 documents without text (first: d9)" in said


def test_the_tail_keeps_its_order_below_the_head(tmp_path, dataset):
    got, said, _ = rerank(tmp_path, dataset, {"q1": ["d1", "d2", "d9", "d3"]}, top_k=2)
    assert got == {"q1": ["d2", "d1", "d9", "d3"]} and "0 documents without text;" in said


def test_another_collections_run_is_refused(tmp_path, dataset):
    with pytest.raises(DataError, match="in.run: none of its 1 queries is in .*set; is it another collection's run?"):
        rerank(tmp_path, dataset, {"q9": ["d1"]})
    with pytest.raises(DataError, match="in.run: none of the documents to rerank has a text in .*set; is it another"):
        rerank(tmp_path, dataset, {"q1": ["d9", "d4"]})
    with pytest.raises(DataError, match="nowhere: no such folder; expected a BEIR folder"):
        rerank(tmp_path, tmp_path / "nowhere", {"q1": ["d1"]})
    assert not (tmp_path / "out.run").exists()
