"""nDCG by length: the buckets, and the tables of stored scores."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.evidence import lengths
from benchmarks.evidence.lengths import bucket, names_of
from benchmarks.protocol import task_of
from tests.stored_scores import store_scores
from tests.toy_data import write_collection


@given(words=st.floats(0, 1000), bounds=st.lists(st.integers(1, 900), min_size=1, max_size=5, unique=True).map(sorted))
def test_every_length_has_one_bucket(words, bounds):
    names = names_of(bounds)
    assert len(set(names)) == len(bounds) + 1 and bucket(words, bounds) in names
    assert names.index(bucket(words, bounds)) == sum(words > bound for bound in bounds)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_collection(tmp_path / "data", "toy")
    monkeypatch.setenv("PRORANK_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(lengths, "PROTOCOL", ("toy",))
    monkeypatch.setattr(lengths, "DEV", ("toy",))
    for kind, task in (("lists", task_of("toy")), ("dev", task_of("toy", pool=True))):
        store_scores(task, "good", tmp_path / kind)
    return tmp_path


def test_the_tables_have_every_query_of_lists_and_dev_sets_once(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["lengths", str(folder), "--systems", "good"])
    lengths.main()
    lines = capsys.readouterr().out.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("| words of a")]
    assert [lines[i].split(" | ")[0] for i in starts] == ["| words of a document", "| words of a query"]
    for part in (lines[2 : starts[1]], lines[starts[1] + 2 :]):
        assert sum(int(line.split("|")[2]) for line in part) == 16
        assert all(line.split("|")[4].strip() == "1.0000" for line in part)
    assert len(lines[starts[1] + 2 :]) == 2  # queries of one word, and of five


def test_a_system_without_scores_is_told(folder, monkeypatch):
    monkeypatch.setattr("sys.argv", ["lengths", str(folder), "--systems", "good", "other"])
    with pytest.raises(SystemExit, match="no list has stored scores of all of good, other"):
        lengths.main()
