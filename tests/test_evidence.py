"""The tables of docs/evidence.md: each script runs from its command line, and its own arithmetic and groups are right.

Models are tiny and random and collections toys, so only what a script does with figures is tested, not the figures.
"""

import json
import math
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.evidence import calibration, curves, loss_groups, losses, methods
from benchmarks.evidence.recipe_lists import pool_groups
from benchmarks.experiments import adapt_gain
from benchmarks.protocol import accuracy
from prorank.adapt.adaptation_result import AdaptationResult as Adapted
from prorank.data.beir import read_beir
from prorank.data.formats import read_groups
from tests.conftest import SETS


def test_accuracy_counts_relevant_and_other_alike():
    scores, labels = np.array([1.0, 1.0, 1.0, -1.0]), np.array([1.0, 0.0, 0.0, 0.0])
    assert accuracy(scores, labels) == pytest.approx((1 + 1 / 3) / 2)
    assert math.isnan(accuracy(scores, np.zeros(4)))


def test_systems_may_think_or_be_asked_at_once(monkeypatch):
    seen = []
    monkeypatch.setattr(methods, "loader", lambda *given, **how: seen.append((*given, how)))
    options = Namespace(length=None, prompt="setwise-echo")
    for text in ("a=f", "b=f@no-think", "c=f@thoughts:4", "e=f@think-top:10", "d=f@setwise:k=5"):
        methods.system(text, options)
    setwise = {"prompt": "setwise-echo", "method": "setwise", "k": 5}
    assert [how for *_, how in seen] == [{}, {"think": False}, {"samples": 4}, {"think_top": 10}, setwise]
    assert [name for name, *_ in seen] == list("abced")


def test_quality_and_cost_stand_side_by_side(script, tmp_path, capsys):
    systems = [f"one={script.base}", f"other={script.base}@listwise:window=4,step=2"]
    script(methods, *systems, "--data", "toy", "--top-k", 4, "--length", 512, "--out", tmp_path)
    out = capsys.readouterr().out
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| toy | o")]
    assert [row[1] for row in rows] == ["one", "other"] and [row[3] for row in rows] == ["4.0", "1.0"]  # prompts a query
    assert "one against protocol list: nDCG@10" in out and "one against other: nDCG@10" in out


def test_a_larger_number_of_labels_holds_the_smaller(collections):
    groups = pool_groups(read_beir(collections / "toy", "train"))
    judged = read_beir(collections / "toy", "train").qrels
    few, many = (curves.drawn(groups, judged, size, 1) for size in (14, 30))
    assert few[1] == 14 and many[1] == 35 and many[0][: len(few[0])] == few[0]
    assert curves.drawn(groups, judged, 10_000, 1)[1] == sum(map(len, judged.values()))
    assert curves.drawn(groups, judged, 14, 2)[0] != few[0]


def test_curves_are_drawn_and_gone_on_with(script, tmp_path, monkeypatch, capsys):
    words = ["--data", "toy", "--split", "train", "--judged-only", "--held-out", 2, "--bases", f"tiny={script.base}@1e-3",
             "--sizes", 7, 14, "--min-steps", 1, "--epochs", 1, "--out", tmp_path]  # fmt: skip
    script(curves, *words)
    assert (tmp_path / "toy" / "curves.png").is_file()
    held = json.loads((tmp_path / "toy" / "held-out.json").read_text())
    trained = {g.query_id for g in read_groups(tmp_path / "toy" / "tiny-14-0" / "labels.jsonl")}
    assert len(held) == 2 and len(trained) == 2 and not trained & set(held)
    capsys.readouterr()
    monkeypatch.setattr(curves, "train", lambda *_, **__: pytest.fail("a complete run was trained again"))
    script(curves, *words)
    out = capsys.readouterr().out
    assert "tiny, 14 labels against tiny: nDCG@10" in out and "| tiny, 7 labels | 7 | 1 | 1 |" in out


def test_bases_are_read():
    assert curves.Base.read("a=runs/x@1e-4") == curves.Base("a", "runs/x", 1e-4)
    assert curves.Base.read("a=runs/x").rate == 3e-5


def test_folds_keep_a_query_together():
    queries = [f"q{i % 11}" for i in range(60)]
    folds = calibration.folds_of(queries)
    assert set(folds) == set(range(5))
    assert all(len(set(folds[[q == name for q in queries]])) == 1 for name in set(queries))


def test_calibration_is_measured_list_by_list(script, tmp_path, capsys):
    script(calibration, "--model", script.base, "--out", tmp_path, *SETS)
    out, found = capsys.readouterr().out, json.loads((tmp_path / "results.json").read_text())["lists"]
    assert "| toy | 56 | 28.6 % | left out |" in out and "| bare | 56 | 28.6 % | not relevant |" in out
    assert found["toy"]["before"]["ece"] != found["toy"]["folds"]["ece"] and "own" not in found["toy"]
    assert (tmp_path / "reliability.png").is_file()


@settings(deadline=None)  # the first call imports
@given(st.permutations(range(6)), st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_wherever_a_list_loses_there_is_a_pair(order, labels):
    first, now = [str(i) for i in range(6)], [str(i) for i in order]
    grades = {str(i): label for i, label in enumerate(labels) if label}
    pair = loss_groups.pair_of_loss(first, now, grades)
    fell = sum(loss_groups.gain_lost(first, now, d, label) for d, label in grades.items())
    if fell > 1e-12:
        assert pair
    if pair:
        lost, passed = pair
        assert first.index(lost) < first.index(passed) and now.index(passed) < now.index(lost)
        assert grades[lost] > grades.get(passed, 0)


def facts(query, lost="", passed="", seen=None, spread=None, **more):
    texts = (query, lost, passed, lost if seen is None else seen)
    return loss_groups.Facts(
        query, terms=losses.terms_of(texts), spread=spread or {}, lost=lost, passed=passed, seen=texts[3],
        **{"before": 0.5, "lead": 1.0, **more},
    )  # fmt: skip


@pytest.mark.parametrize(
    "case, inside, outside",
    [
        (facts("what is a castle", "castle walls", "a river", label=0), ["question", "passed by one with fewer terms"],
         ["lead below .5"]),
        (facts("castle of 1210", "castle, 1210", "castle, 1910"), ["number in the query", "passed without the number"],
         ["question"]),
        (facts("Old Castle", "castle", "castle", before=0.9), ["first stage at .9 or above", "name in the query"], ["statement"]),
        (facts("old castles", "a castle long ago, old", "castles", seen="a castle"),
         ["lost document cut", "match behind the cut", "passed by an unjudged one"], ["lost document shares no term"]),
        (facts("a castle is old.", "castle old", "old", spread={"castl": 1, "old": 9}),
         ["statement", "passed without the rarest term"], ["passed by one with more terms"]),
        (facts("bread", "a river", "bread", label=1, lead=0.1),
         ["passed by one with more terms", "passed by a less relevant one", "lead below .5", "lost document shares no term"],
         ["passed without the rarest term", "passed by an unjudged one"]),
    ],
)  # fmt: skip
def test_groups(case, inside, outside):
    found = loss_groups.groups_of(case)
    assert set(inside) <= set(found) and not set(outside) & set(found)


def test_counts_stand_beside_those_of_all_lists():
    found = loss_groups.counts([(["question", "lost document cut"], True), (["question"], False)])
    assert found["question"] == 2 and found["lost document cut"] == 1 and (found["lists"], found["pairs"]) == (2, 1)


def test_losses_are_listed_without_texts(script, tmp_path, capsys):
    words = ["--model", script.base, "--out", tmp_path, "--count", 3, *SETS]
    script(losses, *words)
    out, found = capsys.readouterr().out, json.loads((tmp_path / "losses.json").read_text())
    assert found["lists"] == 16 and 1 <= len(found["losses"]) <= 3
    assert all(one["model"] < one["first"] and one["pair"] for one in found["losses"])
    assert "| lost document cut |" in out and "number" not in out.replace("number in the query", "").replace("the number", "")
    kept = Path(tmp_path / "lists" / "scores" / "toy.model.json").stat().st_mtime_ns
    script(losses, *words, "--show")
    assert Path(tmp_path / "lists" / "scores" / "toy.model.json").stat().st_mtime_ns == kept  # scored once
    assert "number" in capsys.readouterr().out


def test_labels_drawn_for_adapt_are_not_measured(collections):
    groups = pool_groups(read_beir(collections / "toy", "train"))
    few, others = adapt_gain.drawn(groups, 14, 3, 1)
    assert sum(len(group.documents) for group in few) >= 14 > sum(len(group.documents) for group in few[:-1])
    assert len(others) == 3 and not {group.query for group in few} & {group.query for group in others}


@pytest.mark.parametrize(("better", "after"), [(True, "0.7500"), (False, "0.5000")])
def test_what_adapt_did_not_keep_is_no_gain(script, collections, tmp_path, monkeypatch, capsys, better, after):
    def adapt(data, model, out, **how):
        found = Adapted(0.5, 0.6, 0.04, 0.1, 0.03, 12, 12, better, "new" if better else model)
        (out / "adapted.json").write_text(json.dumps(asdict(found)), encoding="utf-8")

    monkeypatch.setattr(adapt_gain, "adapt", adapt)
    monkeypatch.setattr(adapt_gain, "scores_of", lambda model, groups, prompt: 0.75 if model == "new" else 0.5)
    monkeypatch.setattr(adapt_gain, "ndcg_of", lambda groups, value: np.full(len(groups), value))
    words = ("--data", "toy", "--split", "train", "--labels", 14, "--elsewhere", "bare", "--seeds", 0, 1, "--model", "old")
    for _ in range(2):  # the second time what was trained is there
        script(adapt_gain, *words, "--out", tmp_path)
        rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| 0 |", "| 1 |"))]
        said = "| 0.5000 to 0.6000 (p 0.040) | " + ("yes" if better else "no")
        assert len(rows) == 2 and all(said in row and row.count(f"0.5000 to {after}") == 2 for row in rows)
        monkeypatch.setattr(adapt_gain, "adapt", None)
    kept = json.loads((tmp_path / "toy-14.json").read_text(encoding="utf-8"))
    assert set(kept["values"]) == {"0", "1"} and set(kept["values"]["0"]) == {"others", "bare"}
