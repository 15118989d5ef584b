"""The examples for search engines that need the standard library only: SQLite's FTS5, and responses as JSON.

The other engines are tested by `make test-exports`.
"""

import importlib
import io
import json
import re
import runpy
from pathlib import Path

import pytest

from prorank.reranker import Reranker
from tests.test_search_response import QUERY, TEXTS, respond

FOLDER = Path(__file__).parent.parent / "examples" / "search_engines"
QUESTION = "delete a folder and everything inside it"


@pytest.fixture
def sqlite_example(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("sqlite_fts5")


def printed_orders(output: str) -> tuple[list[str], list[str]]:
    """Titles of the two columns that `show` prints."""
    rows = re.findall(r"^\d\. (\S+) +[+-]\d+\.\d\d (\S+) \(was (?:\d+|below 20)\)$", output, re.M)
    return [before for before, _ in rows], [after for _, after in rows]


def test_sqlite_finds_and_the_reranker_orders(sqlite_example, standin, capsys):
    connection = sqlite_example.build(sqlite_example.standard_library.documents())
    candidates = sqlite_example.search(connection, QUESTION)
    reranker = Reranker()
    sqlite_example.main(QUESTION, reranker)
    before, after = printed_orders(capsys.readouterr().out)
    assert len(candidates) == 20 and before == [document["title"] for document in candidates[:5]]
    assert after == [hit.document["title"] for hit in reranker.rank(QUESTION, candidates, top_k=5)]


@pytest.mark.parametrize("query", ["AND", 'NEAR("x y", 3) OR *', "it's", "title:", "-", "", "a\0b"])
def test_sqlite_takes_every_query(sqlite_example, query):
    connection = sqlite_example.build([{"id": "a", "title": "and near", "text": "it's or x"}])
    assert len(sqlite_example.search(connection, query)) <= 1


def test_questions_are_answered_by_documents(sqlite_example):
    """No answer is misspelled, and ids are unique."""
    library = sqlite_example.standard_library
    ids = [document["id"] for document in library.documents()]
    assert len(set(ids)) == len(ids) > 400
    assert set().union(*library.QUESTIONS.values()) <= set(ids)


def test_the_comparison_measures_both_orders(sqlite_example, standin, capsys, monkeypatch):
    compare = importlib.import_module("compare")
    monkeypatch.setattr(compare, "QUESTIONS", dict(list(compare.QUESTIONS.items())[:3]))
    compare.main(["sqlite_fts5"], Reranker())
    assert re.search(r"^sqlite_fts5 +\d/3 +0\.\d{3} +0\.\d{3}$", capsys.readouterr().out, re.M)
    ranking = [{"id": letter} for letter in "abc"]
    assert compare.reciprocal_rank(ranking, {"c", "b"}) == 0.5
    assert compare.reciprocal_rank(ranking, {"c"}, depth=2) == compare.reciprocal_rank([], {"c"}) == 0.0
    answers = {question: min(answers) for question, answers in compare.QUESTIONS.items()}
    lists = [[{"id": "x", "text": "x"}, {"id": answer, "text": "y"}] for answer in answers.values()]
    assert compare.mrr(lists) == 0.5
    scores = compare.score({"one": lists, "two": lists}, Reranker())
    assert {pair: scores[pair] for pair in answers.items()} == pytest.approx(
        {(question, answer): Reranker().score([(question, "y")])[0] for question, answer in answers.items()}, abs=1e-3
    )


def test_a_response_is_read_and_written_as_json(standin, monkeypatch, capsys):
    path = str(FOLDER / "elasticsearch_response.py")
    response = json.dumps(respond([{"text": text} for text in TEXTS]))

    def run(*arguments: str, text: str = response) -> None:
        monkeypatch.setattr("sys.argv", [path, *arguments])
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        runpy.run_path(path, run_name="__main__")

    run(QUERY, "text")
    got = json.loads(capsys.readouterr().out)
    assert [hit["_id"] for hit in got["hits"]["hits"]] == [f"d{hit.index}" for hit in Reranker().rank(QUERY, TEXTS)]
    for arguments, text, message in (
        ((QUERY, "body"), response, "error: no hit has the field 'body'; valid: text"),
        ((QUERY, "text"), "<html>", "error: Expecting value: line 1 column 1"),
        ((QUERY,), response, "usage: "),
    ):
        with pytest.raises(SystemExit, match=re.escape(message)):
            run(*arguments, text=text)
