"""Messages of a run: a warning of a small dev set, figures before and after, curves of single points, its last lines."""

import itertools
import json
import logging
from types import SimpleNamespace

import pytest

from prorank.train import schedule as course
from prorank.train.curves import plot, read_metrics
from prorank.train.run import train
from prorank.train.settings.stage_settings import make_settings
from prorank.train.summary import FEW_QUERIES, summary
from tests.tiny import toy_lists, write_jsonl

COMMON = {"stage": "score", "dtype": "fp32", "device": "cpu", "max_length": 96, "batch_size": 2, "list_size": 3}


@pytest.fixture
def trained(tmp_path, tiny_llama_dir):
    """A function that trains on so many lists and returns the run."""

    def run(lists: int, **changes):
        rows = [row | {"query": f"{row['query']} {i}"} for i, row in enumerate(toy_lists(lists, negatives=2))]
        data, out = write_jsonl(tmp_path / "data.jsonl", rows), tmp_path / "run"
        train(make_settings(COMMON | {"base": str(tiny_llama_dir), "data": str(data), "out": str(out), "steps": 2} | changes))
        return out

    return run


CASES = [
    (9, {}, "the dev set has only 1 query, so its figures are unreliable"),
    (30, {}, "the dev set has only 6 queries, so its figures are unreliable"),
    (4, {}, "there is no dev set, as the data have too few queries; the last weights are saved unevaluated"),
    (30, {"dev_queries": 0}, ""), (30, {"num_evaluations": 0}, ""), (5 * FEW_QUERIES, {"dev_queries": FEW_QUERIES}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("lists", "changes", "wanted"), CASES)
def test_a_small_dev_set_is_warned_of_before_training(lists, changes, wanted, trained, monkeypatch, caplog):
    monkeypatch.setattr("prorank.train.run.plot", lambda run: None)
    with caplog.at_level(logging.WARNING, "prorank"):
        trained(lists, **changes)
    said = [record.getMessage() for record in caplog.records if "dev set" in record.getMessage()]
    assert [line.split("; label more")[0].split(", and so is")[0] for line in said] == ([wanted] if wanted else [])


def test_the_last_lines_contain_measures_steps_documents_and_path(trained):
    """A run that is shorter than `log_every`, whose figures come to the log at its end."""
    out = trained(30, num_evaluations=1, log_every=50)
    lines, done = read_metrics(out), json.loads((out / "done.json").read_text())
    before, after = (line for line in lines if "dev_ndcg@10" in line)
    (trained_line,) = (line for line in lines if "loss" in line)
    assert before["step"] == 0 and after["step"] == trained_line["step"] == 2 and trained_line["documents"] == 3
    told = summary(out).splitlines()
    assert told[0] == f"checkpoint: {out / 'model'}" and told[-1] == f"curves: {out / 'train_curves.png'}"
    assert told[1].startswith("dev, 6 queries, before -> after (step 2): ndcg@10 ")
    assert f"{before['dev_ndcg@10']:.4f} -> {after['dev_ndcg@10']:.4f}" in told[1]
    assert ("not better than before training" in told[1]) == (after["dev_score"] <= before["dev_score"])
    assert told[2].startswith("trained 2 steps on 12 documents in ") and done["documents"] == 12


def test_a_short_run_by_minutes_has_a_line_of_figures(trained, monkeypatch):
    """It ends before `log_every` steps, and nobody knew beforehand."""
    ticks = itertools.count()
    monkeypatch.setattr(course, "time", SimpleNamespace(monotonic=lambda: 5.0 * next(ticks)))
    monkeypatch.setattr("prorank.train.run.plot", lambda run: None)
    out = trained(30, steps=None, minutes=1, log_every=500, num_evaluations=0)
    lines = [line for line in read_metrics(out) if "loss" in line]
    assert len(lines) == 1 and lines[0]["step"] == json.loads((out / "done.json").read_text())["step"] < 500
    assert "dev: not evaluated" in summary(out)


def test_single_points_are_marks(tmp_path, monkeypatch):
    """Curves of one point are seen, beside others that have more."""
    from matplotlib.axes import Axes

    drawn, real = [], Axes.plot

    def record(self, x, y, *form, **how):
        drawn.append((len(x), how.get("marker") == "o" or "o" in "".join(form)))
        return real(self, x, y, *form, **how)

    monkeypatch.setattr(Axes, "plot", record)
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "dev_ndcg@10": 0.5}]
    lines.append({"step": 2, "top1": 0.5, "kl": None})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert plot(tmp_path).read_bytes().startswith(b"\x89PNG")
    assert sorted(drawn) == [(1, True), (1, True), (2, True)]  # dev nDCG, top1, loss; a null is no point
