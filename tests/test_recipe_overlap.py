"""The check against the test sets: what counts as equal or near, which part of a set is test, what is dropped."""

import json
from pathlib import Path

import pytest

from prorank.data.beir import read_beir
from prorank.data.formats import read_groups
from recipes.default import held_out, overlap
from recipes.default.held_out import Index, content_words
from recipes.default.overlap import checked, drop
from tests.tiny import write_jsonl

TEXT = "The kettle was once made of copper and stood on the stove, but most of them are now heated by a coil inside."
FREE = "Bread is made of flour and water, to which salt and yeast are added before it is baked in an oven for about an hour or so."


def beir(folder: Path, queries: dict[str, str], corpus: dict[str, str], **splits: list[tuple[str, str]]) -> Path:
    (folder / "qrels").mkdir(parents=True)
    write_jsonl(folder / "queries.jsonl", [{"_id": key, "text": text} for key, text in queries.items()])
    write_jsonl(folder / "corpus.jsonl", [{"_id": key, "title": "", "text": text} for key, text in corpus.items()])
    for split, labels in splits.items():
        rows = "".join(f"{qid}\t{doc}\t1\n" for qid, doc in labels)
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}", encoding="utf-8")
    return folder


@pytest.fixture
def index() -> Index:
    index = Index()
    index.add("web", ["what is a copper kettle", "how do bees make honey in winter"], [TEXT])
    return index


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("What is a copper kettle?", "equal queries"),
        ("copper kettle definition", "near queries"),
        ("how bees make honey in the winter", "near queries"),
        ("copper kettle cleaning", None),
        ("what is", None),
        ("kettle", None),
    ],
)
def test_queries_are_near_if_they_ask_for_the_same_words(index: Index, query: str, kind: str | None) -> None:
    hit = index.query(query)
    assert (hit and hit[0]) == kind


def test_a_part_of_a_test_document_is_near_and_another_text_is_not(index: Index) -> None:
    assert index.document(TEXT.upper()) == ("equal documents", "web")
    assert index.document(f"{FREE} {TEXT[:110]} {FREE}") == ("near documents", "web")
    assert index.document(TEXT[30:100]) == ("near documents", "web")
    assert index.document(FREE) is None


def test_a_query_of_asking_words_alone_is_itself() -> None:
    assert content_words("what is it") == {"what", "is", "it"} and content_words("define kettle") == {"kettle"}


def test_of_a_trained_set_only_dev_and_test_are_test(tmp_path: Path) -> None:
    queries, corpus = {"a": "red", "b": "green", "c": "blue"}, {"1": "one", "2": "two", "3": "three", "4": "four"}
    folder = beir(tmp_path / "scifact", queries, corpus, train=[("a", "1")], test=[("b", "2")])
    (folder / "protocol.run.txt").write_text("b Q0 3 1 2.0 bm25\n", encoding="utf-8")
    assert held_out._test_part(folder) == (["green"], ["two", "three"])
    folder = beir(tmp_path / "trecqa", queries, corpus, train=[("a", "1")], test=[("b", "2")])
    assert held_out._test_part(folder) == (list(queries.values()), list(corpus.values()))


def test_dropping_leaves_a_folder_that_can_be_read(tmp_path: Path, index: Index) -> None:
    queries = {"a": "copper kettle meaning", "b": "baking bread", "c": "old stoves"}
    folder = beir(tmp_path / "toy", queries, {"1": FREE, "2": TEXT}, train=[("a", "1"), ("b", "1"), ("c", "2")])
    (folder / "source.json").write_text('{"licence": "CC0", "queries": 3}', encoding="utf-8")
    found = checked(folder, index)
    assert (found.queries, found.documents, found.read) == ({"a"}, {"2"}, (3, 2))
    drop(folder, found)
    collection = read_beir(folder, "train")
    assert collection.queries == {"b": "baking bread"} and collection.corpus == {"1": FREE}
    record = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    assert (record["licence"], record["queries"], record["overlap"]["web: equal documents"]) == ("CC0", 1, 1)
    assert not checked(folder, index).counts


def test_a_spared_set_is_counted_and_not_dropped(tmp_path: Path, index: Index) -> None:
    index.add("shared", [], [FREE])
    folder = beir(tmp_path / "toy", {"a": "old stoves"}, {"1": FREE, "2": TEXT}, train=[("a", "1")])
    found = checked(folder, index, ["shared"])
    assert found.documents == {"2"} and found.counts["equal documents", "shared"] == 1


def test_dropping_from_lists_keeps_scores_in_place(tmp_path: Path, index: Index) -> None:
    rows = [
        {"query": "bread", "pos": [FREE], "neg": ["x", TEXT, "y"], "pos_scores": [3.0], "neg_scores": [2.0, 1.0, 0.5]},
        {"query": "old stoves", "pos": [TEXT], "neg": ["x"]},
        {"query": "a copper kettle", "pos": [FREE], "neg": ["x"]},
    ]
    path = write_jsonl(tmp_path / "lists.jsonl", rows)
    drop(path, checked(path, index))
    (group,) = read_groups(path)
    assert group.query == "bread" and group.documents == (FREE, "x", "y") and group.teacher == (3.0, 2.0, 0.5)


def test_the_command_prints_counts_and_needs_test_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    beir(tmp_path / "tests/web", {"a": "copper kettle"}, {"1": TEXT}, test=[("a", "1")])
    demo = beir(tmp_path / "demo", {"a": "red"}, {"1": "one"}, test=[("a", "1")])
    monkeypatch.setattr(held_out, "semanlink", lambda: type("Paths", (), {"test": demo}))
    path = write_jsonl(tmp_path / "lists.jsonl", [{"query": "define copper kettle", "pos": [TEXT], "neg": [FREE]}])
    arguments = [str(path), "--tests", str(tmp_path / "tests"), "--json", str(tmp_path / "counts.json")]
    assert overlap.main(arguments) == 0
    assert "1 near queries, 1 equal documents" in capsys.readouterr().out
    counts = json.loads((tmp_path / "counts.json").read_text())["lists.jsonl"]
    assert counts == {"web: equal documents": 1, "web: near queries": 1}
    assert overlap.main([str(path), "--tests", str(tmp_path / "none")]) == 2
    assert "no BEIR folders" in capsys.readouterr().err
