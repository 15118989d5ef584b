"""Formats: what is read is what was written, errors name file and line, runs keep their order for every reader.

The run property is checked in 32-bit floats, because that is what trec_eval compares.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.data.beir import read_beir
from prorank.data.examples import Group
from prorank.data.formats import read_groups, read_qrels, read_run, write_groups, write_run
from prorank.data.trec import drop_pairs, falling, read_exclude
from prorank.errors import DataError


def jsonl(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """A folder with three documents, two queries and labels for train."""
    folder = tmp_path / "set"
    jsonl(
        folder / "corpus.jsonl",
        {"_id": "d1", "title": "Cats", "text": "purr"},
        {"_id": "d2", "title": "", "text": "dogs bark"},
        {"_id": "d3", "text": ""},
    )
    jsonl(folder / "queries.jsonl", {"_id": "q1", "text": "who purrs"}, {"_id": "q2", "text": "who barks"})
    labels(folder, "q1\td1\t2", "q1\td2\t0", "q2\td2\t1")
    return folder


def labels(folder: Path, *rows: str, split: str = "train") -> None:
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")


def test_beir_is_read_with_titles_joined_and_grades_kept(beir: Path) -> None:
    collection = read_beir(beir, "train")
    assert collection.name == "set"
    assert collection.corpus == {"d1": "Cats purr", "d2": "dogs bark", "d3": ""}
    assert collection.queries == {"q1": "who purrs", "q2": "who barks"}
    assert collection.qrels == {"q1": {"d1": 2, "d2": 0}, "q2": {"d2": 1}}
    assert collection.unknown() == ([], [])


def test_only_labelled_queries_are_kept_and_other_qrels_can_be_given(beir: Path, tmp_path: Path) -> None:
    trec = tmp_path / "full.txt"
    trec.write_text("q2 0 d1 3\nq2 0 d9 1\nq7 0 d1 1\n")
    collection = read_beir(beir, qrels=trec)
    assert list(collection.queries) == ["q2"]
    assert collection.unknown() == ([("q2", "d9")], ["q7"])


def test_exclude_drops_pairs_from_labels_and_runs(beir: Path, tmp_path: Path) -> None:
    exclude = tmp_path / "exclude.txt"
    exclude.write_text("query-id\tcorpus-id\nq1\td1\n")
    assert read_exclude(exclude) == {("q1", "d1")}
    collection = read_beir(beir, "train", exclude=exclude)
    assert collection.qrels["q1"] == {"d2": 0}
    assert drop_pairs({"q1": {"d1": 1.0, "d2": 0.5}, "q2": {"d1": 1.0}}, collection.excluded) == {
        "q1": {"d2": 0.5},
        "q2": {"d1": 1.0},
    }


def test_gzip_reads_the_same(beir: Path) -> None:
    plain = read_beir(beir, "train")
    for path in [beir / "corpus.jsonl", beir / "queries.jsonl", beir / "qrels" / "train.tsv"]:
        with gzip.open(f"{path}.gz", "wb") as handle:
            handle.write(path.read_bytes())
        path.unlink()
    zipped = read_beir(beir, "train")
    assert (zipped.corpus, zipped.queries, zipped.qrels) == (plain.corpus, plain.queries, plain.qrels)


def test_beir_groups_hold_judged_documents(beir: Path) -> None:
    first, second = read_groups(beir)
    assert first == Group("who purrs", ("Cats purr", "dogs bark"), (2.0, 0.0), "q1", ("d1", "d2"))
    assert second.labels == (1.0,)


def test_positives_only_are_to_be_mined(beir: Path) -> None:
    labels(beir, "q1\td1\t1")
    with pytest.raises(DataError, match="only relevant documents are labelled.*prorank mine"):
        read_groups(beir)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("q1\td9\t1", r"train\.tsv:2: document 'd9' .* is not in the corpus"),
        ("q9\td1\t1\nq1\td1\t1", r"train\.tsv:2: query 'q9' is not in the queries"),
        ("q1\td1\t-1", r"train\.tsv:2: label -1 is out of range"),
        ("q1\td1\tyes", r"train\.tsv:2: expected a whole number as label, got 'yes'"),
        ("q1\td1\tnan", r"train\.tsv:2: expected a whole number"),
        ("q1\td1\t0.5", r"train\.tsv:2: expected a whole number"),
        ("q1 d1", r"train\.tsv:2: expected `qid docid label`"),
        ("q1\td1\t1\nq1\td1\t0", r"train\.tsv:3: query q1, document d1 has label 0 here, had label 1 before"),
        ("", r"train\.tsv: no labels"),
    ],
)
def test_bad_labels_name_file_and_line(beir: Path, row: str, message: str) -> None:
    labels(beir, row)
    with pytest.raises(DataError, match=message):
        read_groups(beir)


def test_unknown_documents_do_not_stop_evaluation(beir: Path) -> None:
    labels(beir, "q1\td9\t1", split="test")
    assert read_beir(beir).unknown() == ([("q1", "d9")], [])


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("corpus", [], r"corpus\.jsonl: the corpus is empty"),
        ("corpus", [{"_id": "d1", "text": "a"}, {"_id": "d1", "text": "b"}], r":2: the id 'd1' occurs a second"),
        ("corpus", ['{"_id": "d1", "text": '], r"corpus\.jsonl:1: malformed JSON"),
        ("corpus", [["d1", "text"]], r"corpus\.jsonl:1: expected a JSON object, got list"),
        ("corpus", [{"_id": "d1", "body": "a"}], r"corpus\.jsonl:1: key 'text' is missing; found '_id', 'body'"),
        ("corpus", [{"_id": 1.5, "text": "a"}], r"corpus\.jsonl:1: '_id' must be a string, got 1.5"),
        ("corpus", [{"_id": "", "text": "a"}], r"corpus\.jsonl:1: the _id is empty"),
        ("queries", [{"_id": "q1", "text": "  "}], r"queries\.jsonl:1: the query 'q1' is empty"),
        ("queries", [{"_id": "other", "text": "a"}], r"train\.tsv: none of its 2 queries is in"),
    ],
)
def test_bad_collections_name_file_and_line(beir: Path, name: str, rows: list, message: str) -> None:
    jsonl(beir / f"{name}.jsonl", *rows)
    with pytest.raises(DataError, match=message):
        read_beir(beir, "train")


def test_missing_files_say_what_was_expected(beir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'dev' \(qrels/dev.tsv\); splits: train"):
        read_beir(beir, "dev")
    with pytest.raises(DataError, match="no such folder; expected a BEIR folder"):
        read_beir(tmp_path / "nowhere")
    (beir / "corpus.jsonl").unlink()
    with pytest.raises(DataError, match=r"corpus\.jsonl: no such file; a BEIR folder contains"):
        read_beir(beir, "train")
    with pytest.raises(DataError, match=r"lists\.jsonl: no such file"):
        read_groups(tmp_path / "lists.jsonl")


def test_damaged_files_are_data_errors(tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"query": "a", "document": "b", "label": 1}\n' * 99)[:-12])
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes('{"query": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz:\d+: damaged"):
        read_groups(cut)
    with pytest.raises(DataError, match=r"latin\.jsonl:1: not UTF-8"):
        read_groups(latin)


def test_pairs_are_gathered_by_query(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "pairs.jsonl",
        {"query": "a", "document": "x", "label": 2},
        {"query": "b", "document": "x", "label": 0},
        {"query": "a", "document": "y", "label": 0.5},
        {"query": "a", "document": "x", "label": 2},
    )
    assert read_groups(path) == [Group("a", ("x", "y"), (2.0, 0.5)), Group("b", ("x",), (0.0,))]


def test_pairs_keep_ids(tmp_path: Path) -> None:
    row = {"query": "a", "document": "x", "label": 1, "query_id": "q", "doc_id": "d"}
    assert read_groups(jsonl(tmp_path / "p.jsonl", row)) == [Group("a", ("x",), (1.0,), "q", ("d",))]


def test_lists_keep_teacher_scores(tmp_path: Path) -> None:
    row = {"query": "a", "pos": ["x"], "neg": ["y", "z"], "pos_scores": [3], "neg_scores": [1.5, -2]}
    assert read_groups(jsonl(tmp_path / "l.jsonl", row)) == [Group("a", ("x", "y", "z"), (1.0, 0.0, 0.0), teacher=(3.0, 1.5, -2.0))]


PAIR, LIST = {"query": "a", "document": "x", "label": 1}, {"query": "a", "pos": ["x"], "neg": ["y"]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the file is empty"),
        ([{"text": "a"}], r":1: expected the keys query, document, label .*, got text"),
        ([PAIR, PAIR | {"label": -1}], ":2: 'label' must be a finite number >= 0, got -1"),
        ([PAIR | {"label": True}], ":1: 'label' must be a finite number >= 0, got true"),
        ([PAIR | {"label": "1"}], ":1: 'label' must be a finite number"),
        ([PAIR | {"label": float("nan")}], ":1: 'label' must be a finite number"),
        ([{"query": "a", "document": "x"}], ":1: 'label' must be a finite number >= 0, got nothing"),
        ([PAIR | {"query": " "}], ":1: the query is empty"),
        ([PAIR | {"query_id": 1.5}], ":1: 'query_id' must be a string, got 1.5"),
        ([PAIR | {"doc_id": True}], ":1: 'doc_id' must be a string, got true"),
        ([PAIR | {"document": "\ud800"}], ":1: 'document' is not UTF-8 text"),
        ([LIST | {"pos": ["x", "\udc80"]}], ":1: a text in 'pos' is not UTF-8 text"),
        ([PAIR | {"query_id": "q"}, PAIR | {"query": "b", "query_id": "q"}], ":2: query_id 'q' has"),
        ([LIST, PAIR], ":2: key 'pos' is missing"),
        ([LIST | {"pos": "x"}], ":1: 'pos' must be a list, got"),
        ([LIST | {"neg": [1]}], ":1: 'neg' must be a list of strings"),
        ([LIST | {"pos": [], "neg": []}], ":1: 'pos' and 'neg' are both empty"),
        ([LIST | {"pos_scores": [1]}], ":1: 'pos_scores' and 'neg_scores' must be given together"),
        ([LIST | {"pos_scores": [1], "neg_scores": []}], ":1: 'neg_scores' has 0 numbers for 1 documents"),
        ([LIST | {"pos_labels": [0]}], ":1: 'pos_labels' must be > 0"),
        ([LIST | {"pos_ids": ["d"]}], ":1: 2 documents but 1 ids"),
    ],
)
def test_bad_groups_name_file_and_line(tmp_path: Path, rows: list, message: str) -> None:
    with pytest.raises(DataError, match=r"bad\.jsonl(:| )*" + message):
        read_groups(jsonl(tmp_path / "bad.jsonl", *rows))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def groups(draw: st.DrawFn) -> Group:
    documents = draw(st.lists(texts, min_size=1, max_size=5, unique=True))
    n = len(documents)
    exact = {"min_size": n, "max_size": n}
    return Group(
        draw(texts.filter(str.strip)),
        tuple(documents),
        tuple(sorted(draw(st.lists(st.floats(0, 4), **exact)), key=lambda label: label <= 0)),
        draw(texts),
        tuple(draw(st.one_of(st.just([]), st.lists(texts.filter(bool), **exact)))),
        draw(st.one_of(st.none(), st.lists(numbers, **exact).map(tuple))),
    )


def by_query(group: Group) -> tuple[str, str]:
    return group.query_id, group.query


@given(st.lists(groups(), min_size=1, max_size=4, unique_by=by_query))
def test_groups_survive_writing(tmp_path_factory: pytest.TempPathFactory, made: list[Group]) -> None:
    path = tmp_path_factory.mktemp("groups") / "lists.jsonl.gz"
    write_groups(path, made)
    assert read_groups(path) == made


words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=6)
ids = words.filter(lambda word: word[0] != "\ufeff")
tied = st.sampled_from([0.0, -0.0, 1.0, 1e-45, 3e38, -3.4028234e38, 1e300, -1e300, 16777217.0])


rankings = st.dictionaries(ids, st.one_of(numbers, tied), min_size=1, max_size=12)


@given(st.dictionaries(ids, rankings, min_size=1, max_size=4))
def test_written_runs_keep_the_order_for_every_reader(tmp_path_factory: pytest.TempPathFactory, run: dict) -> None:
    path = tmp_path_factory.mktemp("run") / "run.trec"
    write_run(path, run, "tag")
    back = read_run(path)
    assert list(back) == list(run)
    for qid, scores in run.items():
        # Stable: the equal ones stay as they were put in.
        assert list(back[qid]) == sorted(scores, key=lambda doc: -scores[doc])
        single = np.array(list(back[qid].values()), np.float32)
        assert np.isfinite(single).all() and (single[1:] < single[:-1]).all()


def test_scores_that_fall_are_written_as_they_are(tmp_path: Path) -> None:
    scores = {"a": 0.1 + 0.2, "b": 0.1, "c": -7.25}
    write_run(tmp_path / "r", {"q": scores}, "x")
    assert read_run(tmp_path / "r") == {"q": scores}
    assert (tmp_path / "r").read_text().splitlines()[0] == "q Q0 a 1 0.30000000000000004 x"
    assert falling([2.0, 1.0, 1.0, 0.5])[3] == 0.5


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"q": {"a": float("nan")}}, "query q: scores must be finite"),
        ({"q": {"a b": 1.0}}, "cannot contain 'a b'"),
        ({"": {"a": 1.0}}, "cannot contain ''"),
    ],
)
def test_runs_that_cannot_be_written_leave_nothing(tmp_path: Path, run: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_run(tmp_path / "run.trec", run)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 d 1 2.0", r"run\.txt:1: expected `qid Q0 docid rank score tag`"),
        ("q Q0 d 1 high t", r"run\.txt:1: expected a finite number as score, got 'high'"),
        ("q Q0 d 1 nan t", r"run\.txt:1: expected a finite"),
        ("q Q0 d 1 2 t\n\nq\tQ0\td\t2\t1\tt", r"run\.txt:3: document d occurs twice for query q"),
        ("", r"run\.txt: the run is empty"),
    ],
)
def test_bad_runs_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_run(tmp_path / "run.txt")


def test_qrels_forms_agree(tmp_path: Path) -> None:
    (tmp_path / "trec").write_text("q1\t0\td1\t2\nq1 0  d2 0\n")
    (tmp_path / "beir").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n")
    (tmp_path / "bare").write_text("q1 d1 2\nq1 d2 0\n")
    assert read_qrels(tmp_path / "trec") == read_qrels(tmp_path / "beir") == read_qrels(tmp_path / "bare")


def test_excluded_labels_are_not_checked_for_training(beir: Path, tmp_path: Path) -> None:
    """A pair that is excluded may name an unknown document, an unknown query, or have a label below 0."""
    labels(beir, "q1\td1\t1", "q1\td9\t1", "q9\td1\t1", "q2\td2\t-2")
    exclude = tmp_path / "exclude.txt"
    for row in ("q1 d9", "q9 d1", "q2 d2"):
        with pytest.raises(DataError, match="train.tsv"):
            read_beir(beir, "train", exclude=exclude if exclude.is_file() else None).check_training()
        with open(exclude, "a") as handle:
            handle.write(f"{row}\n")
    read_beir(beir, "train", exclude=exclude).check_training()


def test_real_collections_are_read(data_dir: Path) -> None:
    cranfield = read_beir(data_dir / "cranfield", exclude=data_dir / "cranfield" / "qrels" / "exclude.txt")
    assert (len(cranfield.corpus), len(cranfield.queries), len(cranfield.excluded)) == (1400, 225, 225)
    dl19 = read_beir(data_dir / "dl19", qrels=data_dir / "dl19" / "qrels" / "full.txt")
    assert len(dl19.queries) == 43 and sum(map(len, dl19.qrels.values())) == 9260 and len(dl19.unknown()[0]) > 0
    assert sum(len(group.documents) for group in read_groups(data_dir / "wikiqa")) == 8672
