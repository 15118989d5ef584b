"""`prorank.Searcher` and `prorank search`: corpora, queries, first stage, fusion, hits, and errors."""

import json
import logging
import random
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import prorank
from prorank.cli.command_line import app
from prorank.data.bm25 import Bm25
from prorank.data.trec import read_run
from prorank.errors import DataError, MissingExtra
from prorank.rank.document_ids import document_ids
from prorank.rank.documents import Hit
from prorank.rank.validation import RankOptions
from prorank.search.corpus import read_corpus
from prorank.search.first_stage import FirstStage, fuse
from prorank.search.queries import read_queries
from prorank.search.searcher import Searcher
from tests.test_cli_errors import place  # noqa: F401
from tests.test_rank_bi_encoder import encoder  # noqa: F401

DOCUMENTS = [
    {"id": "violin", "text": "An old violin is repaired by a luthier."},
    {"id": "horse", "title": "Horses", "text": "A new horse runs over the field."},
    {"_id": "bread", "text": "Bread is made of flour, water and salt."},
    "The luthier sells a violin and a bow.",
]


class ByLength:
    """A reranker that scores documents by the number of their characters, and counts its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def rank_many(self, queries, documents, top_k=None, min_score=None, instruction=None, show_progress=False):
        self.calls.append((queries, documents, instruction))
        ranked = []
        for row in documents:
            lengths = [len(text["text"] if isinstance(text, dict) else text) for text in row]
            hits = [Hit(i, float(length), row[i]) for i, length in enumerate(lengths) if min_score is None or length >= min_score]
            ranked.append(sorted(hits, key=lambda hit: -hit.score)[:top_k])
        return ranked


@pytest.fixture
def never_loads(monkeypatch):
    """Neither an index nor a model may be made."""

    def fail(*_, **__):
        pytest.fail("something was loaded")

    monkeypatch.setattr("prorank.reranker.Reranker.__init__", fail)
    monkeypatch.setattr("prorank.data.bm25.Bm25.__init__", fail)


def test_hits_carry_index_id_and_first_stage():
    ranker = ByLength()
    hits = Searcher(DOCUMENTS, ranker).search("violin luthier")
    assert [(hit.index, hit.id) for hit in hits] == [(0, "violin"), (3, "3")]
    assert [hit.document for hit in hits] == [DOCUMENTS[0], DOCUMENTS[3]] and hits[0].score == len(DOCUMENTS[0]["text"])
    bm25 = Bm25({str(i): text for i, text in enumerate(Searcher(DOCUMENTS).texts)}).scores("violin luthier")
    assert {hit.index: hit.first_stage_score for hit in hits} == {0: pytest.approx(bm25[0]), 3: pytest.approx(bm25[3])}
    assert sorted(hit.first_stage_rank for hit in hits) == [1, 2]


def test_many_queries_share_one_call_of_the_reranker():
    ranker = ByLength()
    rows = Searcher(DOCUMENTS, ranker).search_many(["violin", "zebra", "bread"], instruction="Find things.")
    assert [[hit.id for hit in row] for row in rows] == [["violin", "3"], [], ["bread"]]
    ((queries, documents, instruction),) = ranker.calls
    assert queries == ["violin", "bread"] and [len(row) for row in documents] == [2, 1] and instruction == "Find things."


def test_options_reach_the_ranking():
    searcher = Searcher(DOCUMENTS, ByLength())
    assert len(searcher.search("violin", top_k=1)) == 1 and len(searcher.search("violin", min_score=38)) == 1
    assert len(Searcher(DOCUMENTS, ByLength(), candidates=1).search("violin")) == 1
    assert not searcher.search("violin", min_score=1000)


def test_without_a_model_the_first_stage_orders():
    searcher = Searcher(DOCUMENTS, None)
    hits = searcher.search("the violin and bow")
    assert [hit.score for hit in hits] == [hit.first_stage_score for hit in hits] and searcher.reranker is None
    assert [hit.first_stage_rank for hit in hits] == [1, 2] and hits[0].id == "3"
    assert [hit.id for hit in searcher.search("the violin and bow", min_score=hits[0].score)] == ["3"]


def test_queries_without_matches_are_reported_and_load_no_model(monkeypatch, caplog):
    monkeypatch.setattr("prorank.reranker.Reranker.__init__", lambda *_, **__: pytest.fail("the model was loaded"))
    with caplog.at_level(logging.WARNING, "prorank"):
        assert Searcher(DOCUMENTS).search("zebra crossing") == []
        assert Searcher(DOCUMENTS).search("the of and") == []
    assert [record.getMessage() for record in caplog.records] == [
        f"none of the words of '{query}' occurs in the 4 documents, stop words aside" for query in ("zebra crossing", "the of and")
    ]


BAD = {
    "no documents": (lambda: Searcher([]), DataError, "the corpus is empty"),
    "a text": (lambda: Searcher("text"), DataError, "documents must be a list, not str"),
    "no text": (lambda: Searcher([{"id": "a"}]), DataError, "document 0"),
    "same id": (
        lambda: Searcher([{"id": "a", "text": "x"}, "y", {"_id": "a", "text": "z"}]),
        DataError,
        "documents 0 and 2 .* 'a'",
    ),
    "id like a position": (lambda: Searcher(["x", {"id": "0", "text": "y"}]), DataError, "documents 0 and 1 have the same id '0'"),
    "id of another type": (lambda: Searcher([{"id": [1], "text": "x"}]), DataError, r"document 0: its id .* not \[1\]"),
    "no candidates": (lambda: Searcher(DOCUMENTS, candidates=0), DataError, "candidates must be at least 1"),
    "empty query": (lambda: Searcher(DOCUMENTS).search(" "), DataError, "query 0 is ' '"),
    "no query": (lambda: Searcher(DOCUMENTS).search(None), DataError, "query 0 is None"),
    "top_k": (lambda: Searcher(DOCUMENTS).search("x", top_k=0), DataError, "top_k must be at least 1"),
    "min_score": (lambda: Searcher(DOCUMENTS).search("x", min_score=float("nan")), DataError, "min_score must be a number"),
    "one of the queries": (lambda: Searcher(DOCUMENTS).search_many(["x", ""]), DataError, "query 1 is ''"),
}


@pytest.mark.parametrize("call, error, message", BAD.values(), ids=BAD)
def test_bad_input_is_refused_before_anything_is_loaded(call, error, message, never_loads):
    with pytest.raises(error, match=message):
        call()


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bm25s", None)
    with pytest.raises(MissingExtra, match=r"prorank\[eval\]"):
        Searcher(DOCUMENTS).search("violin")


def test_it_is_a_public_name():
    assert prorank.Searcher is Searcher and "Searcher" in prorank.__all__


def test_whole_numbers_are_ids():
    assert document_ids([{"id": 7, "text": "a"}, {"id": None, "_id": "x", "text": "b"}, "c"]) == ["7", "x", "2"]


def test_fusion_is_the_papers():
    """Sums of 1 / (60 + rank), by hand; ties in the order of the first ranking."""
    fused = fuse([[1, 2, 3], [3, 1]])
    assert [document for document, _ in fused] == [1, 3, 2]
    assert [score for _, score in fused] == pytest.approx([1 / 61 + 1 / 62, 1 / 63 + 1 / 61, 1 / 62])
    assert fuse([[5], [4]]) == [(5, 1 / 61), (4, 1 / 61)] and fuse([[], []]) == []


def test_a_bi_encoder_is_fused(encoder):  # noqa: F811
    """Its candidates join BM25's; the oracle takes cosines from sentence-transformers itself."""
    from sentence_transformers import SentenceTransformer

    texts = ["an old violin", "a river", "a new horse", "the violin of a luthier"]
    found = FirstStage(texts, str(encoder), "cpu").retrieve(["violin", "zebra"], depth=3)
    model = SentenceTransformer(str(encoder), device="cpu")
    cosines = model.similarity(model.encode(["violin", "zebra"]), model.encode(texts)).numpy()
    for query, candidates, row in zip(("violin", "zebra"), found, cosines):
        scores = Bm25({str(i): text for i, text in enumerate(texts)}).scores(query)
        lexical = [i for i in np.argsort(-scores, kind="stable")[:3] if scores[i] > 0]
        wanted = fuse([lexical, np.argsort(-row, kind="stable")[:3].tolist()])[:3]
        assert [(one.index, one.score) for one in candidates] == [(i, pytest.approx(score)) for i, score in wanted]
        assert [one.rank for one in candidates] == [1, 2, 3]
    hits = Searcher(texts, None, bi_encoder=encoder, device="cpu").search("violin", top_k=2)
    assert [hit.index for hit in hits] == [one.index for one in FirstStage(texts, encoder, "cpu").retrieve(["violin"], 100)[0][:2]]


def test_scores_are_the_rerankers(tiny_llama_dir):
    """Whatever the first stage, a hit's score is that of `Reranker.score` for its text."""
    searcher = Searcher(DOCUMENTS, tiny_llama_dir, device="cpu", dtype="fp32")
    hits = searcher.search("violin luthier bread", top_k=None)
    ranker = prorank.Reranker(tiny_llama_dir, device="cpu", dtype="fp32")
    want = ranker.rank("violin luthier bread", [DOCUMENTS[hit.index] for hit in sorted(hits, key=lambda h: h.first_stage_rank)])
    assert [hit.document for hit in hits] == [hit.document for hit in want]
    np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in want], atol=1e-5)
    assert searcher.reranker is searcher.reranker


def test_each_of_thousands_of_sections_is_found_by_its_words():
    """One index serves many queries (how long that takes is measured by hand, not here)."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnop", k=6)) for _ in range(3000)]
    sections = [" ".join(draw.choices(words, k=150)) for _ in range(4000)]
    searcher = Searcher(sections, None)
    first = searcher.search(" ".join(sections[123].split()[:8]))
    assert first[0].index == 123
    rows = searcher.search_many([" ".join(text.split()[5:12]) for text in sections[:20]])
    assert [row[0].index for row in rows] == list(range(20))


def test_candidates_without_options_are_all_returned():
    searcher = Searcher(DOCUMENTS, ByLength())
    retrieved = searcher.retrieve(["violin"])
    assert len(searcher.rerank(["violin"], retrieved)[0]) == 2
    assert len(searcher.rerank(["violin"], retrieved, RankOptions(top_k=1))[0]) == 1


# Corpora


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_folder_of_texts(tmp_path):
    write(tmp_path / "b" / "two.md", "# Two\n")
    write(tmp_path / "one.rst", "One\n===\n")
    write(tmp_path / "empty.txt", " \n")
    write(tmp_path / ".git" / "x.txt", "hidden")
    write(tmp_path / "page.html", "<p>")
    write(tmp_path / "Makefile", "all:")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    corpus = read_corpus(tmp_path)
    assert corpus.documents == [{"id": "one.rst", "text": "One\n==="}, {"id": "b/two.md", "text": "# Two"}]
    assert corpus.skipped == (
        "2 other files (1 no suffix, 1 .html), 1 empty files, 1 files that are not UTF-8 text (first: latin.txt)"
    )


@pytest.mark.parametrize("name", ["corpus.jsonl", "docs.csv", "docs.txt"])
def test_files_are_read_as_rerank_reads_them(name, tmp_path):
    texts = {
        "corpus.jsonl": '{"_id": "d1", "title": "T", "text": "a b"}\n{"_id": "d2", "text": "c"}\n',
        "docs.csv": "id,title,text\nd1,T,a b\nd2,,c\n",
        "docs.txt": "T a b\nc\n",
    }
    write(tmp_path / name, texts[name])
    searcher = Searcher(read_corpus(tmp_path if name == "corpus.jsonl" else tmp_path / name).documents, None)
    assert searcher.texts == ["T a b", "c"] and searcher.ids == (["0", "1"] if name == "docs.txt" else ["d1", "d2"])


def test_folders_without_texts_are_refused(tmp_path):
    write(tmp_path / "a.html", "<p>")
    with pytest.raises(DataError, match=r"contains no documents: .*; skipped 1 other files \(1 \.html\)"):
        read_corpus(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none: contains no documents: neither corpus\.jsonl \(BEIR\) nor .* files$"):
        read_corpus(tmp_path / "none")
    with pytest.raises(DataError, match="gone: no such file"):
        read_corpus(tmp_path / "gone")


QUERIES = {
    "q.jsonl": '{"_id": "a", "text": "x y"}\n{"query_id": 2, "query": "z"}\n',
    "q.tsv": "a\tx y\n2\tz\n",
    "header.tsv": "query-id\ttext\na\tx y\n2\tz\n",
    "q.csv": "id,query\na,x y\n2,z\n",
    "tabs.txt": "a\tx y\n2\tz\n",
}


@pytest.mark.parametrize("name", QUERIES)
def test_forms_of_queries(name, tmp_path):
    assert read_queries(write(tmp_path / name, QUERIES[name])) == {"a": "x y", "2": "z"}


def test_queries_of_lines_and_of_beir_folders(tmp_path):
    assert read_queries(write(tmp_path / "q.txt", "x y\n\nz\n")) == {"1": "x y", "3": "z"}
    write(tmp_path / "set" / "queries.jsonl", QUERIES["q.jsonl"])
    assert read_queries(tmp_path / "set") == {"a": "x y", "2": "z"}


BAD_QUERIES = {
    "empty.txt": ("\n", "contains no queries"),
    "twice.tsv": ("a\tx\na\ty\n", r"twice\.tsv:2: the id 'a' occurs a second time"),
    "blank.tsv": ("a\tx\nb\t \n", r"blank\.tsv:2: the query 'b' is empty"),
    "notab.tsv": ("a\tx\nb\n", r"notab\.tsv:2: expected `id<tab>query`, got 'b'"),
    "no.jsonl": ('{"_id": "a"}\n', r"no\.jsonl:1: key 'text' is missing; found '_id'"),
    "none.jsonl": ('{"_id": "a", "text": " "}\n', r"none\.jsonl:1: the query 'a' is empty"),
    "no.csv": ("id,body\na,x\n", r"no\.csv:1: no column query or text; found 'id', 'body'"),
}


@pytest.mark.parametrize("name", BAD_QUERIES)
def test_bad_queries(name, tmp_path):
    text, message = BAD_QUERIES[name]
    with pytest.raises(DataError, match=message):
        read_queries(write(tmp_path / name, text))


def test_a_folder_without_queries(tmp_path):
    with pytest.raises(DataError, match=r"the folder has no queries\.jsonl"):
        read_queries(tmp_path)


# The command


def search(*words: object) -> str:
    done = CliRunner().invoke(app, ["search", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command_prints_what_the_searcher_finds(place):  # noqa: F811
    model = ("--model", place.base, "--dtype", "fp32", "--device", "cpu")
    rows = [json.loads(line) for line in search("set", "old violin horse", "--json", *model).splitlines()]
    hits = Searcher(read_corpus("set").documents, place.base, dtype="fp32", device="cpu").search("old violin horse")
    assert [(row["rank"], row["id"], row["index"], row["document"]) for row in rows] == [
        (rank, hit.id, hit.index, hit.document) for rank, hit in enumerate(hits, 1)
    ]
    assert [row["score"] for row in rows] == pytest.approx([hit.score for hit in hits], abs=1e-5)
    assert [(row["first_stage_rank"], row["first_stage_score"]) for row in rows] == [
        (hit.first_stage_rank, pytest.approx(hit.first_stage_score)) for hit in hits
    ]
    assert "d1" in search("set", "--query", "old violin", *model) and search("docs.txt", "-q", "violin", "--top-n", 1, *model)


def test_the_command_writes_a_run(place):  # noqa: F811
    place.write("q.tsv", "q1\tviolin\nq2\thorse violin\nq3\tzebra\n")
    said = search("set", "--queries", "q.tsv", "--out", "out.run", "--model", place.base, "--dtype", "fp32")
    assert said == "out.run: 3 queries, 3 hits, 1 queries without hits\n"
    run = read_run("out.run")
    assert list(run) == ["q1", "q2"] and list(run["q1"]) == ["d1"] and set(run["q2"]) == {"d1", "d2"}
    printed = search("set", "--queries", "q.tsv", "--no-rerank", "--json")
    assert [json.loads(line)["query_id"] for line in printed.splitlines()] == ["q1", "q2", "q2"]
    table = search("set", "--queries", "q.tsv", "--no-rerank")
    assert "q1: violin" in table and "q3: no hits for 'zebra'" in table


def test_the_command_says_what_a_folder_skips(place, caplog):  # noqa: F811
    write(place.folder / "texts" / "a.md", "a violin")
    write(place.folder / "texts" / "b.html", "a violin")
    code, said = place.run("search", "texts", "violin", "--no-rerank")
    assert code == 0 and "note: texts: 1 documents; skipped 1 other files (1 .html)" in said
    assert place.run("search", "texts", "zebra", "--model", str(place.base))[0] == 0
    assert "none of the words of 'zebra' occurs in the 1 documents" in caplog.text  # pytest takes log lines from stderr


def test_mistakes_of_the_command(place, never_loads):  # noqa: F811
    one = r"give one query \(prorank search CORPUS QUERY, or --query\), or --queries FILE for many"
    place.fails("search docs.txt", one)
    place.fails("search docs.txt violin --queries q.tsv", one)
    place.fails(
        "search docs.txt violin --query horse", r"two queries: --query 'horse' and the argument 'violin'; give the query once"
    )
    place.fails(["search", "docs.txt", " "], r"the query is ' '; expected a text that is not empty")
    place.fails("search none.txt violin", r"none\.txt: no such file")
    place.fails("search docs.txt violin --out x.run", r"--out needs --queries; the hits of one query are printed")
    place.fails("search docs.txt violin --top-n 0", r"--top-k must be at least 1, not 0")
    place.fails("search docs.txt violin --candidates 0", r"--candidates must be at least 1, not 0")
    place.fails("search docs.txt violin --min-score nan", r"min_score must be a number, .*")
    place.fails("search docs.txt violin --no-rerank --dtype bf16", r"--dtype is for the reranker, which --no-rerank omits")
    place.fails("search docs.txt violin --no-rerank --no-think", r"--no-think is for the reranker, which --no-rerank omits")
    place.fails("search docs.txt violin --model ./none", r"\./none: no such folder or file.*")
    place.fails("search docs.txt violin --bi-encoder none", r"none: no such folder.*")
    place.fails("search docs.txt violin --bi-encoder none --no-rerank", r"none: no such folder.*")
    local = ["search", "docs.txt", "violin", "--model", str(place.base)]
    place.fails([*local, "--method", "lists"], r".*'lists'.*")
    place.fails([*local, "--dtype", "fp3"], r"unknown dtype 'fp3'; did you mean 'fp32'\?")
    place.fails([*local, "--device", "tpu"], r"device 'tpu' is not available here; present: cpu.*")
    place.fails([*local, "--prompt", "mxbay"], r"unknown prompt preset 'mxbay'; did you mean 'mxbai'\?")
    place.write("q.tsv", "q1\tviolin\n")
    place.fails("search docs.txt --queries none.tsv", r"none\.tsv: no such file")
    place.fails("search docs.txt --queries q.tsv --json --out x.run", r"--json is for printed hits; .*")
    place.fails("search docs.txt --queries q.tsv --no-rerank --out set", r"set: Is a directory")
    write(place.folder / "texts" / "a b.md", "a violin")
    place.fails("search texts --queries q.tsv --no-rerank --out x.run", r"x\.run: a TREC run cannot contain the id 'a b\.md': .*")
    place.write("twice.jsonl", '{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n')
    place.fails("search twice.jsonl x", r"documents 0 and 1 have the same id 'a'; ids must be unique")
