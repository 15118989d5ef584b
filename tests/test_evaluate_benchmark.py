"""Evaluate on the toy collection: candidates, reranking, run files, reuse, bad input."""

import json

import numpy as np
import pytest

from prorank.data.trec import read_run
from prorank.errors import ConfigError, DataError, ModelError
from prorank.evaluate import Scorer, evaluate
from prorank.evaluate.candidates import Options, prepare
from prorank.evaluate.system_names import short_name, slug
from tests.evaluate_toy import Fake, write_beir, write_run


@pytest.fixture
def toy(tmp_path):
    return write_beir(tmp_path / "toy")


def test_first_stage_alone(toy):
    result = evaluate([toy])
    (row,) = result.rows
    assert (row.system, row.kind, row.queries, row.p) == ("BM25", "first stage", 3, None)
    assert result.values["toy"]["BM25"]["MRR@10"] == {"q1": 0.5, "q2": 1.0, "q4": 1.0}
    assert result.skipped == {"toy": ["q3"]}
    notes = " ".join(result.notes["toy"])
    assert "1 queries skipped, no positive judgement: q3" in notes
    assert "2 judged documents have no text" in notes


def test_model_reorders_the_head_and_the_rest_follows(toy, tmp_path):
    run = write_run(tmp_path / "a.run", {"q1": ["d1", "gone", "d6", "d2", "d3", "d4"], "q2": ["d3", "d4"]})
    result = evaluate([toy], [Fake()], run=run, top_k=4, out=tmp_path / "out", sample=4)
    order = list(read_run(tmp_path / "out" / "toy.fake.run")["q1"])
    assert order == ["d2", "d1", "gone", "d6", "d3", "d4"]
    row = result.row("toy", "fake")
    assert (row.documents, row.without_text, row.cuts["documents"]) == (4, 2, 1)
    assert row.measures["nDCG@10"] > result.row("toy", "a.run").measures["nDCG@10"]
    assert result.values["toy"]["fake"]["nDCG@10"]["q4"] == 0.0  # absent from the run
    assert "1 judged queries are absent from the first stage and count 0: q4" in " ".join(result.notes["toy"])


def test_equal_scores_keep_first_stage_order_and_answers_row_stands_beside(toy):
    result = evaluate([toy], [Fake(word="nothing like it")], sample=2)
    systems = ["BM25", "fake", "fake, 0/1 only"]
    assert result.systems == systems
    values = [result.values["toy"][s] for s in systems]
    assert values[0] == values[1] == values[2]
    assert result.row("toy", "fake").p_holm == 1.0 and result.row("toy", "fake").tie_share == 0.8
    assert result.row("toy", "fake").format_rate == 0.5


def test_scorer_functions_and_lazy_models(toy):
    def lengths(queries, documents, progress=None):
        return [np.array([len(d) for d in texts], np.float32) for texts in documents]

    reports = []
    models = [Scorer("length", lengths), lambda: Fake(name="a/b/c/length"), Fake(name="length")]
    result = evaluate([toy], models, progress=lambda *state: reports.append(state), sample=0)
    assert [r.system for r in result.rows if r.kind == "model"] == ["length", "c/length", "length (2)"]
    assert [c.a for c in result.comparisons] == ["c/length", "length (2)", "length (2)"]
    assert reports[-1][1] == reports[-1][2] == 5 and result.row("toy", "length").format_rate is None


def test_pool_takes_the_judged_documents_only(toy):
    task = prepare(toy, Options(judged_only=True))
    assert {q: set(ids) for q, ids in task.ranking.items()} == {
        "q1": {"d1", "d2"}, "q2": {"d3", "d4", "d6", "gone"}, "q4": {"d5"},
    }  # fmt: skip
    assert task.ranking["q1"] == ["d1", "d2"] and task.ranking["q2"][-1] == "gone"
    assert task.first == "BM25 (judged only)"


def test_pool_order_among_equal_scores_does_not_follow_the_judgements(tmp_path):
    forth = {"q5": {"d3": 1, "d4": 0, "d5": 0, "d1": 0}, "q1": {"d2": 1}}
    back = {"q5": dict(reversed(forth["q5"].items())), "q1": {"d2": 1}}
    result = []
    for name, qrels in (("forth", forth), ("back", back)):
        folder = write_beir(tmp_path / name, qrels)
        with open(folder / "queries.jsonl", "a", encoding="utf-8") as handle:
            handle.write('{"_id": "q5", "text": "unseen words"}\n')
        result.append(prepare(folder, Options(judged_only=True)).ranking["q5"])
    assert result[0] == result[1]


def test_exclude_drops_pairs_from_candidates_and_judgements(toy):
    (toy / "qrels" / "exclude.txt").write_text("query-id\tcorpus-id\nq1\td1\n", encoding="utf-8")
    assert "exclude.txt exists and was not used" in " ".join(evaluate([toy]).notes["toy"])
    result = evaluate([toy], exclude="qrels/exclude.txt")
    assert result.values["toy"]["BM25"]["MRR@10"]["q1"] == 1.0


def test_protocol_fixes_queries_judgements_and_exclusions(toy):
    write_run(toy / "protocol.run.txt", {"q2": ["d4", "d3"]})
    (toy / "qrels" / "full.txt").write_text("q1 0 d2 1\nq2 0 d3 1\nq2 0 d4 1\n", encoding="utf-8")
    (toy / "qrels" / "exclude.txt").write_text("q2\td4\n", encoding="utf-8")
    result = evaluate([toy], run="protocol")
    assert result.values["toy"] == {"protocol list": {k: {"q2": 1.0} for k in ("nDCG@10", "MRR@10", "MAP", "R@10", "R@100")}}
    by_path = evaluate([toy], run=toy / "protocol.run.txt")
    assert by_path.rows[0].queries == 1 and "full.txt exists and was not used" in " ".join(by_path.notes["toy"])


def test_only_run_queries_restricts_any_run(toy, tmp_path):
    run = write_run(tmp_path / "x.run", {"q1": ["d2"], "unknown": ["d1"]})
    assert evaluate([toy], run=run).rows[0].measures["MRR@10"] == pytest.approx(1 / 3)
    assert evaluate([toy], run=run, only_run_queries=True).rows[0].measures["MRR@10"] == 1.0


def test_query_that_is_a_document_is_not_its_own_candidate(tmp_path):
    folder = write_beir(tmp_path / "self", {"q1": {"d2": 1}})
    with open(folder / "corpus.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"_id": "q1", "title": "", "text": "bread"}\n{"_id": "q4", "text": "other bread"}\n')
    assert set(prepare(folder, Options()).ranking["q1"]) == {"d1", "d2", "q4"}


def test_limit_is_the_same_for_one_seed(toy):
    first, again, other = (evaluate([toy], limit=1, seed=s).queries["toy"] for s in (0, 0, 5))
    assert len(first) == len(other) == 1 and first == again
    assert {tuple(evaluate([toy], limit=1, seed=s).queries["toy"]) for s in range(12)} == {("q1",), ("q2",), ("q4",)}


def test_means_weigh_each_set_the_same(toy, tmp_path):
    other = write_beir(tmp_path / "other" / "toy", {"q1": {"d2": 1}})
    result = evaluate([toy, other], [Fake()], sample=0)
    assert result.datasets == ["toy", "toy (2)"]
    each = [result.row(d, "fake").measures["MRR@10"] for d in result.datasets]
    assert result.mean("fake")["MRR@10"] == pytest.approx(np.mean(each)) and result.to_dict()["means"]["fake"]


def test_scores_are_used_again_only_for_the_same_model_and_texts(toy, tmp_path):
    def call(fingerprint, **arguments):
        model = Fake()
        model.fingerprint = fingerprint
        result = evaluate([toy], [model], out=tmp_path / "out", **arguments)
        return model.calls, result.row("toy", "fake")

    (calls, first), (again, reused) = call("one"), call("one")
    assert calls == 2 and again == 0 and reused.reused and not first.reused  # scoring and diagnosis
    assert (reused.measures, reused.findings, reused.seconds) == (first.measures, first.findings, first.seconds)
    calls, bare = call("one", sample=0)  # without a look at the answers the scores are enough, with another one they are not
    assert calls == 0 and bare.measures == first.measures and not bare.findings
    assert call("one", sample=2)[0] == 2
    assert call("two")[0] == 2 and call("two", top_k=1)[0] == 2 and call(None)[0] == 2


def test_run_files_fall_strictly(toy, tmp_path):
    evaluate([toy], [Fake(word="none")], out=tmp_path / "out", sample=0)
    for path in (tmp_path / "out").glob("*.run"):
        rows = [line.split() for line in path.read_text().splitlines()]
        for a, b in zip(rows, rows[1:]):
            assert a[0] != b[0] or float(a[4]) > float(b[4])
    assert json.loads((tmp_path / "out" / "results.json").read_text())["rows"][0]["queries"] == 3
    assert not [p for p in (tmp_path / "out").rglob("*.tmp")]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"datasets": []}, ConfigError, "name at least one dataset"),
        ({"datasets": ["nowhere"]}, DataError, "nowhere: no such folder"),
        ({"top_k": 0}, ConfigError, "--top-k must be at least 1, not 0"),
        ({"min_rel": 0}, ConfigError, "--min-rel must be at least 1"),
        ({"limit": 0}, ConfigError, "--limit must be at least 1"),
        ({"run": "protocol", "judged_only": True}, ConfigError, "exclude each other"),
        ({"only_run_queries": True}, ConfigError, "needs --run"),
        ({"run": "missing.run"}, DataError, "--run missing.run: no such file"),
        ({"qrels": "missing.txt"}, DataError, "--qrels missing.txt: no such file"),
        ({"split": "train"}, DataError, "train"),
    ],
)
def test_bad_input_fails_before_a_model_is_made(toy, arguments, error, message):
    def never():
        raise AssertionError("the model was loaded before the input was checked")

    with pytest.raises(error, match=message):
        evaluate(**({"datasets": [toy], "models": [never]} | arguments))


def test_runs_that_do_not_fit(toy, tmp_path):
    with pytest.raises(DataError, match="none of its 1 queries is judged in toy; is it a run of another dataset"):
        evaluate([toy], run=write_run(tmp_path / "x.run", {"zz": ["d1"]}))
    other = write_beir(tmp_path / "other")
    with pytest.raises(DataError, match="one file cannot be used for several datasets"):
        evaluate([toy, other], run=tmp_path / "x.run")
    with pytest.raises(ConfigError, match="is a file, expected a folder"):
        evaluate([toy], out=tmp_path / "x.run")


@pytest.mark.parametrize("row, message", [([np.nan], "not finite"), ([1.0, 2.0], "one score per document")])
def test_wrong_scores_are_refused(toy, row, message):
    with pytest.raises(ModelError, match=message):
        evaluate([toy], [Scorer("bad", lambda q, d, progress=None: [np.array(row)] * len(q))], exclude=None, top_k=1)


def test_names_for_files_and_tables():
    assert slug("runs/a b: c") == "runs-a-b-c" and slug("//") == "system"
    assert short_name("/home/me/runs/demo/best/") == "demo/best" and short_name("org/model") == "org/model"


def test_models_are_freed_before_the_next_is_loaded(toy):
    import weakref

    alive = []

    def make():
        assert not any(ref() for ref in alive)
        model = Fake()
        alive.append(weakref.ref(model))
        return model

    evaluate([toy], [make, make, make], sample=0)
    assert len(alive) == 3


class Named:
    """A model that scores by length, under a name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def score_lists(self, queries, documents, progress=None):
        return [np.array([len(text) for text in texts], np.float32) for texts in documents]


def test_rows_are_found_by_full_names_and_unknown_names_are_errors(toy):
    """Tables contain shortened names; lookups also accept full names."""
    names = ["runs/demo/score", "runs/other/score", "elsewhere/demo/score", "plain"]
    result = evaluate([toy], [Named(name) for name in names])
    rows = [result.row("toy", name) for name in names]
    assert [row.system for row in rows] == ["demo/score", "other/score", "demo/score (2)", "plain"]
    assert result.row(toy, "demo/score") is rows[0] is result.row(str(toy), names[0])
    assert result.mean(names[0]) == result.mean("demo/score") == rows[0].measures and "demo/score" in result.means()
    for call in (lambda: result.row("toy", "runs/nothing"), lambda: result.mean("runs/nothing")):
        with pytest.raises(ConfigError, match="system 'runs/nothing' is not in this evaluation; known: .*demo/score, other/score"):
            call()
    with pytest.raises(ConfigError, match="dataset 'tpy' is not in this evaluation; known: toy"):
        result.row("tpy", "plain")
    assert result.find("toy", "runs/nothing") is None


def test_an_ambiguous_full_name_is_an_error(toy):
    """The same checkpoint twice, with other options."""
    result = evaluate([toy], [Named("runs/demo/score"), Named("runs/demo/score")])
    with pytest.raises(ConfigError, match=r"stands for 2 systems; name one of: demo/score, demo/score \(2\)"):
        result.row("toy", "runs/demo/score")
    assert result.row("toy", "demo/score (2)").system == "demo/score (2)"
