"""Training data in the forms of other packages come out as the groups that our own form gives.

Texts are compared, not counts: a reader that loses a title or swaps the sides fails here.
"""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank.data.examples import Group
from prorank.data.formats import read_groups
from prorank.errors import DataError
from tests.tiny import write_jsonl

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=8).filter(str.strip)


def test_tevatron(tmp_path):
    row = {
        "query_id": "7", "query": "tea",
        "positive_passages": [{"docid": "a", "title": "Green", "text": "leaves"}],
        "negative_passages": [{"docid": "b", "title": "", "text": "bread"}, {"docid": "c", "text": "stone"}],
    }  # fmt: skip
    path = write_jsonl(tmp_path / "t.jsonl", [row, row | {"query_id": "8", "negative_passages": [{"text": "no id"}]}])
    first, second = read_groups(path)
    assert first == Group("tea", ("Green leaves", "bread", "stone"), (1.0, 0.0, 0.0), "7", ("a", "b", "c"))
    assert second.doc_ids == () and second.documents == ("Green leaves", "no id")


def test_triplets_of_a_query_become_one_list(tmp_path):
    rows = [
        {"anchor": "tea", "positive": "leaves", "negative": "bread"},
        {"anchor": "tea", "positive": "cup", "negative": "leaves"},
        {"anchor": "music", "positive": "violin", "negative_1": "stone", "negative_2": "bread", "negative_3": None},
    ]
    assert read_groups(write_jsonl(tmp_path / "t.jsonl", rows)) == [
        Group("tea", ("leaves", "bread", "cup"), (1.0, 0.0, 1.0)),
        Group("music", ("violin", "stone", "bread"), (1.0, 0.0, 0.0)),
    ]
    assert len(read_groups(write_jsonl(tmp_path / "q.jsonl", [{"query": "tea", "positive": "leaves"}]))) == 1


SENTENCE = TEXT.map("and {}".format)  # no single word, which could be a column's name


@settings(max_examples=30, deadline=None)
@given(triples=st.lists(st.tuples(SENTENCE, SENTENCE, SENTENCE), min_size=1, max_size=8), packed=st.booleans())
def test_tsv_triples_are_those_of_json(tmp_path_factory, triples, packed):
    folder = tmp_path_factory.mktemp("t")
    path = folder / ("triples.train.tsv.gz" if packed else "triples.train.tsv")
    with gzip.open(path, "wt", encoding="utf-8") if packed else open(path, "w", encoding="utf-8") as handle:
        handle.writelines("\t".join(one) + "\n" for one in triples)
    rows = [dict(zip(("anchor", "positive", "negative"), one)) for one in triples]
    groups = read_groups(path)
    assert groups == read_groups(write_jsonl(folder / "t.jsonl", rows))
    assert {d for g in groups for d, label in zip(g.documents, g.labels) if label} == {positive for _, positive, _ in triples}


@pytest.mark.parametrize(("name", "text", "message"), [
    ("t.tsv", "a\tb\n", "t.tsv:1: expected query, positive and negative separated by tabs, got 2 columns"),
    ("t.tsv", "a\tb\tc\na\t\tc\n", "t.tsv:2: expected query, positive and negative"),
    ("t.jsonl", json.dumps({"anchor": "", "positive": "a"}), "the anchor is empty"),
    ("t.jsonl", json.dumps({"anchor": "a", "positive": 1}), "'positive' must be a string"),
    ("t.jsonl", json.dumps({"query": "a", "positive_passages": ["x"], "negative_passages": []}), "contain objects with 'text'"),
    ("t.jsonl", json.dumps({"query": "a", "positive_passages": [], "negative_passages": []}), "no passages"),
])  # fmt: skip
def test_errors_name_the_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message.replace("(", "\\(").replace(")", "\\)")):
        read_groups(tmp_path / name)
