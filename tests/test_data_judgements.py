"""One rule for labels and optional keys in all forms of training data.

A text has one label for a query, the highest; null stands for an absent value; ids may be whole numbers.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prorank.data.examples import Group
from prorank.data.formats import read_groups
from prorank.errors import DataError

PASSAGES = {"query": "q", "positive_passages": [{"text": "a"}], "negative_passages": [{"text": "b"}]}
# Each file says that "a" is relevant to "q" and that it is not; "b" is not.
CONTRADICTORY = {
    "pairs.jsonl": [{"query": "q", "document": d, "label": label} for d, label in (("a", 1), ("b", 0), ("a", 0))],
    "list.jsonl": [{"query": "q", "pos": ["a"], "neg": ["b", "a"]}],
    "lists.jsonl": [{"query": "q", "pos": ["a"], "neg": ["b"]}, {"query": "q", "pos": [], "neg": ["a", "b"]}],
    "passages.jsonl": [PASSAGES | {"negative_passages": [{"text": "b"}, {"title": None, "text": "a"}]}],
    "triplet.jsonl": [{"anchor": "q", "positive": "a", "negative": "a", "negative_1": "b"}],
    "triplets.jsonl": [{"query": "q", "positive": "a", "negative": "b"}, {"query": "q", "positive": "c", "negative": "a"}],
    "triples.tsv": "q\ta\tb\nq\tc\ta\n",
    "headed.tsv": "query\tpositive\tnegative\nq\ta\tb\nq\tc\ta\n",
    "pairs.csv": "query,document,label\nq,a,1\nq,b,0\nq,a,0\n",
}


def write(path: Path, content: str | list[dict]) -> Path:
    rows = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
    path.write_text(rows, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", CONTRADICTORY)
def test_a_text_labelled_twice_gets_the_highest_label_and_a_warning(tmp_path, caplog, name):
    groups = read_groups(write(tmp_path / name, CONTRADICTORY[name]))
    for group in groups:
        assert len(set(group.documents)) == len(group.documents)
        assert [label for text, label in zip(group.documents, group.labels) if text in "ab"] == [
            1.0 if text == "a" else 0.0 for text in group.documents if text in "ab"
        ]
    (said,) = [record.getMessage() for record in caplog.records if "different labels" in record.getMessage()]
    assert f"{name}: 1 text has different labels for the same query; the highest is used. First: " in said
    assert "has label 0 for 'a', which had 1 before" in said and f"{name}:" in said.split("First: ")[1]


def test_a_collection_has_the_same_rule(tmp_path, caplog):
    corpus = [{"_id": "d1", "text": "a"}, {"_id": "d2", "title": "a", "text": ""}, {"_id": "d3", "text": "b"}]
    write(tmp_path / "corpus.jsonl", corpus)
    write(tmp_path / "queries.jsonl", [{"_id": "q1", "text": "q"}])
    (tmp_path / "qrels").mkdir()
    write(tmp_path / "qrels/train.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t0\nq1\td2\t2\nq1\td3\t0\n")
    assert read_groups(tmp_path) == [Group("q", ("a", "b"), (2.0, 0.0), "q1", ("d1", "d3"))]
    assert "1 text has different labels" in caplog.text and "query q1" in caplog.text


def test_the_highest_grade_counts_in_any_order_and_queries_are_apart(tmp_path):
    rows = [{"query": q, "document": "a", "label": label} for q, label in (("q", 1), ("q", 3), ("q", 2), ("r", 0))]
    assert read_groups(write(tmp_path / "p.jsonl", rows)) == [Group("q", ("a",), (3.0,)), Group("r", ("a",), (0.0,))]
    graded = {"query": "q", "pos": ["a", "a"], "neg": ["b"], "pos_labels": [1, 3]}
    assert read_groups(write(tmp_path / "l.jsonl", [graded])) == [Group("q", ("a", "b"), (3.0, 0.0))]


def test_a_text_that_comes_twice_in_a_list_is_used_once(tmp_path, caplog):
    row = {"query": "q", "pos": ["a", "a"], "neg": ["b", "b"], "pos_ids": [1, 2], "neg_ids": [3, 4]}
    row |= {"pos_scores": [9, 8], "neg_scores": [7, 6]}
    assert read_groups(write(tmp_path / "l.jsonl", [row])) == [Group("q", ("a", "b"), (1.0, 0.0), "", ("1", "3"), (9.0, 7.0))]
    assert "l.jsonl: 2 texts come twice in the same list; each is used once" in caplog.text
    assert "different labels" not in caplog.text


def test_consistent_files_warn_of_nothing(tmp_path, caplog):
    read_groups(write(tmp_path / "t.tsv", "q a\tone two\tno one\nq a\tone two\tno other\nr a\tno one\tone two\n"))
    read_groups(write(tmp_path / "p.jsonl", [{"query": "q", "document": "a", "label": 1}] * 2))
    assert not caplog.records


IDS = {"query_id": "1", "pos_ids": ["2"], "neg_ids": ["3"]}
LIST = {"query": "q", "pos": ["a"], "neg": ["b"]}
NULLS = {
    "scores": (LIST | {"pos_scores": None, "neg_scores": None}, LIST),
    "labels": (LIST | {"pos_labels": None}, LIST),
    "ids": (LIST | {"query_id": None, "pos_ids": None, "neg_ids": None}, LIST),
    "an id": (LIST | {"pos_ids": [None], "neg_ids": ["7"]}, LIST),
    "numeric ids": (LIST | {"query_id": 1, "pos_ids": [2], "neg_ids": [3]}, LIST | IDS),
    "passages": (
        PASSAGES | {"query_id": None, "positive_passages": [{"docid": None, "title": None, "text": "a"}]},
        PASSAGES,
    ),
    "numeric docids": (
        {
            "query": "q", "query_id": 1,
            "positive_passages": [{"docid": 2, "text": "a"}], "negative_passages": [{"docid": 3, "text": "b"}],
        },
        LIST | IDS,
    ),
    "pair": (
        {"query": "q", "document": "a", "label": 1, "query_id": None, "doc_id": None},
        {"query": "q", "document": "a", "label": 1},
    ),
    "numeric pair": (
        {"query": "q", "document": "a", "label": 1, "query_id": 5, "doc_id": 0},
        {"query": "q", "document": "a", "label": 1, "query_id": "5", "doc_id": "0"},
    ),
    "triplet": (
        {"query": "q", "positive": "a", "negative": "b", "negative_1": None},
        {"query": "q", "positive": "a", "negative": "b"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NULLS)
def test_null_is_absent_and_whole_numbers_are_ids(tmp_path, case):
    row, plain = NULLS[case]
    assert read_groups(write(tmp_path / "a.jsonl", [row])) == read_groups(write(tmp_path / "b.jsonl", [plain]))


@pytest.mark.parametrize(("row", "message"), [
    (LIST | {"pos": None}, ":1: 'pos' must be a list, got null"),
    (LIST | {"query": None}, ":1: 'query' must be a string, got null"),
    (LIST | {"pos_scores": [1.0], "neg_scores": None}, "'pos_scores' and 'neg_scores' must be given together"),
    (LIST | {"pos_ids": ["7"], "neg_ids": None}, "2 documents but 1 ids"),
    (LIST | {"query_id": 1.0}, "'query_id' must be a string, got 1.0"),
    ({"query": "q", "document": "a", "label": None}, "'label' must be a finite number >= 0, got nothing"),
    ({"query": "q", "positive": None}, "'positive' must be a string, got null"),
])  # fmt: skip
def test_null_is_no_value_where_one_is_needed(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read_groups(write(tmp_path / "bad.jsonl", [row]))
