"""The benchmarks of long documents and of teachers, on toy collections and the tiny model."""

import json

import numpy as np
import pytest

from benchmarks.experiments import long_documents, teachers
from prorank.data.examples import Group
from prorank.evaluate.scoring import Scored

POOL = [Group(f"q{i}", tuple(f"passage {i} {j}" for j in range(8)), (1.0, 0.0) * 4, f"q{i}") for i in range(5)]


@pytest.fixture
def pools(monkeypatch, tmp_path):
    monkeypatch.setenv("PRORANK_DATA", str(tmp_path))
    monkeypatch.setattr(long_documents, "read_beir", lambda folder, split: folder.name)
    monkeypatch.setattr(long_documents, "pool_groups", lambda name: POOL)


def test_only_the_place_of_the_judged_passage_differs(pools):
    made = {place: long_documents.joined(3, place) for place in long_documents.PLACES}
    for lists in zip(*made.values(), strict=True):
        start, middle, end = lists
        assert start.labels == middle.labels == end.labels and sum(start.labels) == 3 and len(start.documents) == 6
        for texts in zip(*(group.documents for group in lists)):
            lines = [text.split("\n") for text in texts]
            assert lines[0][0] == lines[2][-1] == lines[1][(len(lines[1]) - 1) // 2]  # the judged passage
            assert sorted(lines[0]) == sorted(lines[1]) == sorted(lines[2]) and lines[0][0].split()[1] == start.query[1:]
            assert len(texts[0].split()) >= long_documents.WORDS
            assert not any(line.split()[1] == start.query[1:] for line in lines[0][1:])  # others are of other queries


def test_every_way_of_reading_is_a_row(pools, tiny_llama_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(long_documents, "mediqa", lambda queries: POOL[:queries])
    words = ["long", "--model", str(tiny_llama_dir), "--queries", "2", "--mediqa", "2", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", words)
    long_documents.main()
    table = capsys.readouterr().out.splitlines()
    chunked = sum(reading.chunk_length is not None for reading in long_documents.READINGS)
    rows = 1 + chunked * len(long_documents.AGGREGATES) + len(long_documents.READINGS) - chunked
    assert len(table) == 2 + rows and table[2].startswith("| BM25 |")
    monkeypatch.setattr(long_documents.Reranker, "score_encoded", lambda *_: pytest.fail("scored again"))
    long_documents.main()
    assert capsys.readouterr().out.splitlines() == table


def test_sums_of_teachers_leave_out_multiples():
    found = [tuple(weights.values()) for weights in teachers.sums(["a", "b"])]
    assert len(found) == len(set(found)) and (0.0, 1.0) in found and (1.0, 2.0) in found
    assert (0.0, 0.5) not in found and (2.0, 2.0) not in found and (0.5, 0.5) not in found
    assert len({tuple(weight / max(weights) for weight in weights) for weights in found}) == len(found)


def test_units_have_the_spread_of_one_within_lists(tmp_path, monkeypatch):
    scores = {"q1": [1.0, 3.0], "q2": [10.0, 20.0, 30.0]}
    monkeypatch.setattr(teachers, "stored", lambda task, name, out: Scored(scores, 0.0, None, None, [], True, {}))
    rows = teachers.units(None, "any", tmp_path)
    centred = np.concatenate([row - row.mean() for row in rows])
    assert centred.std() == pytest.approx(1) and rows[1][1] - rows[1][0] == pytest.approx(5 * (rows[0][1] - rows[0][0]))
    mixed = teachers.mix([rows, rows], [1.0, -1.0])
    assert json.dumps([row.tolist() for row in mixed]) == "[[0.0, 0.0], [0.0, 0.0, 0.0]]"
