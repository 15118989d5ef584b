"""Curves over the number of labels: what is read, what is refused, and that a picture is drawn."""

import numpy as np
import pytest

from benchmarks.evidence import few_labels
from benchmarks.evidence.few_labels import draw, report, values_of
from benchmarks.protocol import stored, task_of
from tests.stored_scores import store_scores
from tests.toy_data import write_collection

pytest.importorskip("matplotlib")


@pytest.fixture
def task(tmp_path, monkeypatch):
    write_collection(tmp_path / "data", "toy")
    monkeypatch.setenv("PRORANK_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(few_labels, "PROTOCOL", ("toy",))
    return task_of("toy", top_k=20)


def test_complete_runs_are_read_in_the_order_of_their_seeds(task, tmp_path):
    store_scores(task, "score only #0", tmp_path / "lists")
    store_scores(task, "score only #2", tmp_path / "lists", -1.0)
    rows = values_of(tmp_path, "score only", [task], 20)
    assert rows.shape == (2, len(task.queries)) and (rows[0] == 1).all() and (rows[1] < 1).all()
    assert not len(values_of(tmp_path, "two stages", [task], 20))


def test_scores_of_other_queries_are_refused(task, tmp_path):
    store_scores(task, "score only #0", tmp_path, queries=task.queries[:3])
    with pytest.raises(SystemExit, match=f"scores of 3 queries, but the task has {len(task.queries)}; see --limit"):
        stored(task, "score only #0", tmp_path)


def test_the_command_prints_a_line_per_number_and_draws_a_picture(task, tmp_path, monkeypatch, capsys):
    for labels in (64, 256):
        for arm, right in (("two stages", 1.0), ("score only", -1.0)):
            store_scores(task, f"{arm} #0", tmp_path / f"few-{labels}" / "lists", right)
    picture = tmp_path / "curves.png"
    words = [str(tmp_path / "few-256"), str(tmp_path / "few-64"), "--arms", "two stages", "score only", "--picture", str(picture)]
    monkeypatch.setattr("sys.argv", ["few_labels", *words])
    few_labels.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if "(1 runs)" in line] == ["64 labelled queries", "256 labelled queries"]
    assert "64 labelled queries: two stages 1.0000" in lines[1] and "two stages against score only: nDCG@10 +0." in lines[2]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_numbers_that_only_one_arm_has_are_drawn_but_not_compared(tmp_path, capsys):
    curves = {"a": {64: np.ones((1, 5)), 256: np.ones((1, 5))}, "b": {64: np.zeros((1, 5))}}
    report(curves, ["a", "b"])
    assert "256" not in capsys.readouterr().out
    draw(curves, 0.5, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000
