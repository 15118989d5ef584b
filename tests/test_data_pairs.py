"""Pairs to label: drawn over all ranks, each text once, the same for the same seed.

A dataset without labels is enough, for labels are what the pairs are for.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from prorank.cli.command_line import app
from prorank.data.pairs import pairs_of_clicks, pairs_of_run, spread, write_pairs
from prorank.data.trec import write_run
from prorank.errors import DataError


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [{"_id": f"d{i}", "text": f"text {i}"} for i in range(40)]
    rows += [{"_id": "same", "text": "text  0"}, {"_id": "none", "text": ""}]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "one"}\n{"_id": "q2", "text": "two"}\n')
    ranking = {f"d{i}": 50.0 - i for i in range(40)}
    write_run(tmp_path / "run", {"q1": ranking | {"same": 1.0, "none": 0.5}, "q2": {"d3": 1.0}, "q9": {"d1": 1.0}})
    return folder


def test_pairs_of_a_run_lie_in_all_parts_of_the_list(dataset, tmp_path):
    found = list(pairs_of_run(tmp_path / "run", dataset, per_query=5, depth=40))
    ranks = [row["rank"] for row in found if row["query_id"] == "q1"]
    assert [(rank - 1) // 8 for rank in ranks] == [0, 1, 2, 3, 4]
    assert found[-1] == {"query": "two", "document": "text 3", "query_id": "q2", "doc_id": "d3", "rank": 1}
    assert found == list(pairs_of_run(tmp_path / "run", dataset, per_query=5, depth=40))
    assert found != list(pairs_of_run(tmp_path / "run", dataset, per_query=5, depth=40, seed=1))


def test_the_same_text_is_written_once(dataset, tmp_path):
    said = write_pairs(pairs_of_run(tmp_path / "run", dataset, per_query=99), tmp_path / "out")
    texts = [json.loads(line)["document"] for line in (tmp_path / "out").read_text().splitlines()]
    assert len(texts) == 41 and texts[:40] == [f"text {i}" for i in range(40)]
    assert said == f"{tmp_path}/out: 41 pairs of 2 queries; 1 duplicates left out"


def clicks(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_clicks_of_the_same_query_are_joined(tmp_path):
    shown = [{"text": t, "clicked": c} for t, c in (("a", False), ("b", True), (" ", True))]
    log = clicks(tmp_path / "log", {"query": "q", "shown": shown}, {"query": "q ", "shown": [{"text": "b", "clicked": False}]})
    assert list(pairs_of_clicks(log, per_query=5)) == [
        {"query": "q", "document": "a", "rank": 1, "clicked": False},
        {"query": "q", "document": "b", "rank": 1, "clicked": True},
    ]


@pytest.mark.parametrize(
    "row, message",
    [
        ({"query": "", "shown": []}, ":1: the query is empty"),
        ({"query": "q", "shown": ["a"]}, ":1: shown[0]: expected an object with text and clicked"),
        ({"query": "q", "shown": [{"text": "a", "clicked": 1}]}, ":1: shown[0]: 'clicked' must be true or false, got 1"),
    ],
)
def test_bad_clicks_name_the_line(tmp_path, row, message):
    with pytest.raises(DataError) as caught:
        list(pairs_of_clicks(clicks(tmp_path / "log", row), 5))
    assert message in str(caught.value)


@given(length=st.integers(0, 60), count=st.integers(1, 20), seed=st.text(max_size=3))
def test_draws_are_ordered_and_spread(length, count, seed):
    some = spread(list(range(length)), count, seed)
    assert some == sorted(set(some)) and len(some) == min(length, count)


def test_the_command_takes_one_source(dataset, tmp_path):
    out = str(tmp_path / "out")
    run = ["--run", str(tmp_path / "run"), "--dataset", str(dataset)]
    assert CliRunner().invoke(app, ["sample-pairs", out, *run]).exit_code == 0
    for wrong in ([], run[:2], [*run, "--clicks", "x"]):
        said = CliRunner().invoke(app, ["sample-pairs", out, *wrong])
        assert "give --run and --dataset, or --clicks" in str(said.exception)
    with pytest.raises(DataError, match="at least 1 pair"):
        spread([1], 0, "")
