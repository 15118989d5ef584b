"""ir_datasets as data: texts and labels as its catalogue has them, no more documents than are needed, errors in one line.

One test registers local files with the real package, so that its interface is held to; the others use a fake of it and
run without.
"""

import sys
import types
from collections import namedtuple

import pytest

from prorank.adapt.held_out_folds import read_labelled_lists
from prorank.data.examples import Group
from prorank.data.formats import is_collection, read_beir, read_collection, read_groups, write_run
from prorank.data.irds import read_irds
from prorank.data.negatives import mine_negatives
from prorank.errors import DataError, MissingExtra
from prorank.evaluate import evaluate
from prorank.rank.rerank_files import read_run_texts, rerank_run
from prorank.reranker import Reranker
from tests.evaluate_toy import Fake

Label = namedtuple("Label", "query_id doc_id relevance")
DOCUMENTS = {"d1": ("Green", "tea leaves"), "d2": ("", "bread and salt"), "d3": ("Stone", "bridge"), "d4": ("Tea", "cup")}
QUERIES = {"q1": " green tea ", "q2": "stone bridge", "q9": "never labelled"}
LABELS = [("q1", "d1", 1), ("q1", "d1", 2), ("q1", "d2", 0), ("q2", "d3", 1), ("q2", "d4", 0)]


class Document(namedtuple("Document", "doc_id title text")):
    def default_text(self):
        return f"{self.title} {self.text}"


class Query(namedtuple("Query", "query_id text")):
    def default_text(self):
        return self.text


class Dataset:
    """One dataset of the fake catalogue; `looked_up` and `walked` tell how documents were read."""

    def __init__(self, labels=LABELS, has=("docs", "queries", "qrels"), broken=False):
        self.labels, self.has, self.broken, self.looked_up, self.walked = labels, has, broken, None, 0

    def has_docs(self):
        return "docs" in self.has

    def has_queries(self):
        return "queries" in self.has

    def has_qrels(self):
        return "qrels" in self.has

    def docs_iter(self):
        for key, row in DOCUMENTS.items():
            self.walked += 1
            yield Document(key, *row)

    def docs_store(self):
        def get_many(ids):
            self.looked_up = list(ids)
            return {key: Document(key, *DOCUMENTS[key]) for key in ids if key in DOCUMENTS}

        return types.SimpleNamespace(get_many=get_many)

    def queries_iter(self):
        return iter(Query(*row) for row in QUERIES.items())

    def qrels_iter(self):
        if self.broken:
            raise OSError("HTTPSConnection: no route\nto host")
        return iter(Label(*row) for row in self.labels)


@pytest.fixture
def catalogue(monkeypatch):
    """{name: Dataset} behind a fake `ir_datasets`."""
    registry = {
        "toy": Dataset(has=("docs", "queries")),
        "toy/train": Dataset(),
        "toy/positive": Dataset([row for row in LABELS if row[2]]),
        "toy/broken": Dataset(broken=True),
        "toy/other": Dataset([("q7", "d1", 1)]),
        "toy/spam": Dataset([("q1", "d1", 1), ("q1", "d2", -2)]),
        "toy/gone": Dataset([("q1", "d1", 1), ("q1", "d7", 0)]),
    }
    monkeypatch.setitem(sys.modules, "ir_datasets", types.SimpleNamespace(registry=registry, load=registry.__getitem__))
    return registry


def test_the_labelled_documents_become_groups_and_no_other_is_read(catalogue):
    assert read_groups("ir_datasets:toy/train") == [
        Group("green tea", ("Green tea leaves", "bread and salt"), (2.0, 0.0), "q1", ("d1", "d2")),
        Group("stone bridge", ("Stone bridge", "Tea cup"), (1.0, 0.0), "q2", ("d3", "d4")),
    ]
    assert catalogue["toy/train"].looked_up == ["d1", "d2", "d3", "d4"] and catalogue["toy/train"].walked == 0


def test_a_whole_collection_is_that_of_the_beir_folder(catalogue, tmp_path):
    (tmp_path / "toy-train" / "qrels").mkdir(parents=True)
    (tmp_path / "toy-train" / "corpus.jsonl").write_text(
        "".join(f'{{"_id": "{key}", "title": "{title}", "text": "{text}"}}\n' for key, (title, text) in DOCUMENTS.items())
    )
    (tmp_path / "toy-train" / "queries.jsonl").write_text(
        "".join(f'{{"_id": "{key}", "text": "{text}"}}\n' for key, text in QUERIES.items())
    )
    rows = "".join(f"{q}\t{d}\t{label}\n" for q, d, label in LABELS[1:])
    (tmp_path / "toy-train" / "qrels" / "train.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    folder = read_beir(tmp_path / "toy-train", "train")
    named = read_collection("ir_datasets:toy/train")
    assert (named.name, named.corpus, named.queries, named.qrels) == (folder.name, folder.corpus, folder.queries, folder.qrels)
    assert is_collection("ir_datasets:x") and is_collection(tmp_path) and not is_collection(tmp_path / "none.jsonl")


def test_labels_and_exclusions_of_files_go_before_its_own(catalogue, tmp_path):
    (tmp_path / "q.tsv").write_text("q1 0 d3 1\nq1 0 d4 0\n")
    (tmp_path / "x.tsv").write_text("q1 d4\n")
    found = read_irds("ir_datasets:toy", tmp_path / "q.tsv", tmp_path / "x.tsv", ["d1"])
    assert found.qrels == {"q1": {"d3": 1}} and set(found.corpus) == {"d1", "d3"} and found.excluded == {("q1", "d4")}


def test_mining_takes_the_whole_corpus(catalogue):
    groups, report = mine_negatives(read_collection("ir_datasets:toy/positive"), negatives=2)
    assert report.groups == 2 and all(sum(label == 0 for label in group.labels) == 2 for group in groups)
    assert [g.query for g in read_labelled_lists(["ir_datasets:toy/positive"])] == ["green tea", "stone bridge"]


def test_a_run_is_evaluated_and_reranked_by_the_documents_it_names(catalogue, tmp_path, tiny_llama_dir):
    write_run(tmp_path / "in.run", {"q1": {"d2": 2.0, "d1": 1.0}})
    name = "ir_datasets:toy/train"
    found = evaluate([name], [Fake()], run=tmp_path / "in.run", sample=0, command="x", out=tmp_path / "out")
    assert found.datasets == ["toy-train"] and len(list((tmp_path / "out").glob("toy-train.*.run"))) == 2
    assert catalogue["toy/train"].walked == 0
    texts = read_run_texts(tmp_path / "in.run", name)
    said = rerank_run(Reranker(tiny_llama_dir, dtype="fp32"), texts, tmp_path / "new.run")
    assert "1 queries reranked, 0 left as they were, 0 documents without text" in said
    evaluate([name], sample=0, command="x")  # BM25 needs them all
    assert catalogue["toy/train"].walked == len(DOCUMENTS)


@pytest.mark.parametrize(("name", "message"), [
    ("toy/trian", r"ir_datasets:toy/trian: no such dataset in ir_datasets; did you mean 'toy/train'\?"),
    ("zzz", r"ir_datasets:zzz: no such dataset in ir_datasets$"),
    ("toy", r"ir_datasets:toy: has no qrels; one of its parts may have them, such as toy/train"),
    ("toy/broken", r"ir_datasets:toy/broken: cannot be read \(HTTPSConnection: no route\); ir_datasets downloads it"),
    ("toy/other", r"ir_datasets:toy/other: none of its 1 labelled queries has a text"),
    ("toy/positive", r"only relevant documents are labelled.*`prorank mine ir_datasets:toy/positive lists\.jsonl` and train"),
    ("toy/spam", r"toy-spam: label -2 is out of range; training labels are >= 0"),
    ("toy/gone", r"toy-gone: document 'd7' \(query 'q1'\) is not in the corpus"),
])  # fmt: skip
def test_errors_are_one_line(catalogue, name, message):
    with pytest.raises(DataError, match=message) as error:
        read_groups(f"ir_datasets:{name}")
    assert "\n" not in str(error.value)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'prorank\[ir-datasets\]'"):
        read_groups("ir_datasets:toy/train")


def test_the_real_package_reads_the_same(tmp_path, monkeypatch):
    real = pytest.importorskip("ir_datasets")
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IR_DATASETS_TMP", str(tmp_path / "tmp"))
    (tmp_path / "docs.tsv").write_text("".join(f"{key}\t{' '.join(row).strip()}\n" for key, row in DOCUMENTS.items()))
    (tmp_path / "queries.tsv").write_text("".join(f"{key}\t{text.strip()}\n" for key, text in QUERIES.items()))
    (tmp_path / "qrels").write_text("".join(f"{q} 0 {d} {label}\n" for q, d, label in LABELS[1:]))
    made = real.create_dataset(*(str(tmp_path / name) for name in ("docs.tsv", "queries.tsv", "qrels")))
    real.registry.register("prorank-toy/train", made)
    groups = read_groups("ir_datasets:prorank-toy/train")
    assert [(g.query, g.documents, g.labels) for g in groups] == [
        ("green tea", ("Green tea leaves", "bread and salt"), (2.0, 0.0)),
        ("stone bridge", ("Stone bridge", "Tea cup"), (1.0, 0.0)),
    ]
    assert len(read_collection("ir_datasets:prorank-toy/train").corpus) == len(DOCUMENTS)
    with pytest.raises(DataError, match="no such dataset in ir_datasets"):
        read_groups("ir_datasets:prorank-toy/dev")
