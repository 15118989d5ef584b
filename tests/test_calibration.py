"""Probabilities: the three fits against known cases and sklearn, the measures, `prorank calibrate` up to the hits, the report.

The labels of the end-to-end tests are sampled from the tiny model's own scores, so the right calibration is known.
"""

import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank.calibrate import calibrate
from prorank.calibrate.calibration_data import assign_folds, binary_labels
from prorank.calibrate.fit import AUTO, METHODS, choose, fit, out_of_fold, pav
from prorank.checkpoints.calibration import FILE, Calibration, sigmoid
from prorank.checkpoints.default_model import DEFAULT
from prorank.checkpoints.saving import save_checkpoint
from prorank.cli.command_line import main
from prorank.data.examples import Group
from prorank.errors import ConfigError, DataError, ModelError
from prorank.evaluate import evaluate
from prorank.evaluate.reliability import bins, ece, figures
from prorank.prompts.prompt import Prompt
from prorank.reranker import Reranker
from tests.evaluate_toy import Fake, write_beir
from tests.tiny import WORDS, byte_tokenizer, tiny_llama, write_jsonl

floats = st.floats(-60, 60, width=32)


@st.composite
def labelled(draw):
    """(scores, labels) with both labels, ties likely."""
    pairs = draw(st.lists(st.tuples(st.one_of(floats, st.sampled_from([-1.0, 0.0, 2.0])), st.booleans()), min_size=2, max_size=30))
    scores, labels = (np.array(part, np.float64) for part in zip(*pairs))
    labels[0], labels[1] = 1, 0
    return scores, labels


def drawn(count: int = 20_000, temperature: float = 2.5, intercept: float = 0.0, seed: int = 0):
    """Scores, and labels that are true with p = sigmoid(score / temperature + intercept)."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(-1, 3, count)
    return scores, (rng.random(count) < sigmoid(scores / temperature + intercept)).astype(float)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=80)
@given(data=labelled(), more_scores=st.lists(floats, min_size=1, max_size=30))
def test_probabilities_rise_with_the_scores_and_stay_in_range(method, data, more_scores):
    p = fit(*data, method).apply(np.sort(np.array([*more_scores, *data[0]])))
    assert (np.diff(p) >= -1e-12).all() and (p >= 0).all() and (p <= 1).all()


@pytest.mark.parametrize("method", ["temperature", "platt"])
@settings(max_examples=50)
@given(data=labelled())
def test_no_labels_give_a_negative_slope(method, data):
    numbers = fit(*data, method).numbers
    assert 0 < numbers.get("temperature", numbers.get("slope")) < np.inf


@settings(max_examples=80)
@given(data=labelled(), more_scores=st.lists(floats, min_size=1, max_size=20))
def test_isotonic_regression_equals_sklearn(data, more_scores):
    isotonic = pytest.importorskip("sklearn.isotonic").IsotonicRegression(out_of_bounds="clip")
    scores, labels = data[0].round(3), data[1]  # sklearn takes scores that hardly differ as one
    at = np.concatenate([scores, more_scores])
    ours = np.interp(at, *pav(scores, labels))
    np.testing.assert_allclose(ours, isotonic.fit(scores, labels).predict(at), atol=1e-9)
    assert ours[: len(scores)].sum() == pytest.approx(labels.sum())  # the mean is kept


def test_known_maps_are_recovered():
    assert fit(*drawn(), "temperature").numbers["temperature"] == pytest.approx(2.5, rel=0.03)
    numbers = fit(*drawn(temperature=0.5, intercept=-1.0), "platt").numbers
    assert numbers["slope"] == pytest.approx(2.0, rel=0.05) and numbers["intercept"] == pytest.approx(-1.0, abs=0.06)
    scores, labels = drawn()
    for shift in (1e-3, 1e3):  # the scale of the scores does not matter to the fit
        assert fit(scores * shift, labels, "temperature").numbers["temperature"] == pytest.approx(2.5 * shift, rel=0.03)


@pytest.mark.parametrize("method", METHODS)
def test_error_falls_on_held_out_queries_and_the_order_stays(method):
    scores, labels = drawn(4000, temperature=4.0)
    before, after = figures(sigmoid(scores), labels), figures(out_of_fold(scores, labels, np.arange(4000) % 5, method), labels)
    assert all(after[name] < before[name] for name in before) and after["ece"] < 0.03 < before["ece"]
    p = fit(scores, labels, method).apply(scores)
    assert (np.diff(p[np.argsort(scores)]) >= 0).all()
    assert method == "isotonic" or len(np.unique(p)) == len(np.unique(scores))


@pytest.mark.parametrize("method", [AUTO, *METHODS])
def test_probabilities_of_a_fold_do_not_depend_on_its_labels(method):
    scores, labels = drawn(600)
    folds = np.arange(600) % 3
    before = out_of_fold(scores, labels, folds, method)
    turned = np.where(folds == 0, 1 - labels, labels)
    np.testing.assert_array_equal(out_of_fold(scores, turned, folds, method)[folds == 0], before[folds == 0])
    assert (out_of_fold(scores, turned, folds, method)[folds == 1] != before[folds == 1]).any()


def test_auto_chooses_the_method_that_fits_the_labels():
    scores, labels = drawn(4000, intercept=-1.5)  # no temperature moves where .5 lies
    folds = np.arange(4000) % 5
    assert choose(scores, labels, folds) == "platt"
    np.testing.assert_array_equal(out_of_fold(scores, labels, folds, AUTO), out_of_fold(scores, labels, folds, "platt"))
    assert out_of_fold(scores, labels, np.arange(4000) % 2, AUTO).shape == (4000,)


@pytest.mark.parametrize("method", METHODS)
def test_few_separable_labels_give_no_probability_of_0_or_1(method):
    p = fit(np.array([-3.0, -2.0, 1.0, 2.0]), np.array([0, 0, 1, 1]), method).apply(np.array([-3.0, 2.0]))
    assert 0.01 < p[0] < 0.5 < p[1] < 0.99


def test_invalid_input_of_fits_is_named():
    with pytest.raises(ConfigError, match="'plat' is not known; did you mean 'platt'"):
        fit(np.zeros(2), np.array([0, 1]), "plat")
    cases = (([0, 1], [1, 1], "both labels"), ([0, 1, 2], [0, 1], "one label per score"), ([0, np.nan], [0, 1], "finite"))
    for scores, labels, message in cases:
        with pytest.raises(DataError, match=message):
            fit(np.array(scores, float), np.array(labels), "platt")


def test_ece_by_hand():
    p, y = [0.1, 0.12, 0.95, 1.0], [0, 1, 1, 1]
    assert bins(p, y) == [(pytest.approx(0.11), 0.5, 2), (pytest.approx(0.975), 1.0, 2)]
    assert ece(bins(p, y)) == pytest.approx((2 * 0.39 + 2 * 0.025) / 4)
    assert ece(bins(p, y, equal_count=True)) == pytest.approx((0.1 + 0.88 + 0.05 + 0.0) / 4)
    assert figures([0.0, 1.0], [0, 1]) == {"ece": 0, "ece_equal_count": 0, "brier": 0, "log_loss": pytest.approx(0, abs=1e-12)}
    with pytest.raises(DataError, match="at least one"):
        bins([], [])


@settings(max_examples=50)
@given(data=labelled(), seed=st.integers(0, 99))
def test_measures_do_not_depend_on_the_order_of_pairs(data, seed):
    p, order = sigmoid(data[0]), np.random.default_rng(seed).permutation(len(data[0]))
    assert figures(p, data[1]) == pytest.approx(figures(p[order], data[1][order]))


@settings(max_examples=50)
@given(kinds=st.lists(st.sampled_from([(1.0,), (0.0,), (1.0, 0.0)]), max_size=20), folds=st.integers(2, 6), seed=st.integers(0, 9))
def test_folds_keep_equal_queries_together_and_leave_both_labels_to_each_fit(kinds, folds, seed):
    kinds = [(1.0,), (0.0,)] * 10 + kinds
    groups = [Group(f"{'Q' if i % 2 else 'q'} {i // 2}!", tuple("ab"[: len(kind)]), kind) for i, kind in enumerate(kinds)]
    fold, labels = assign_folds(groups, None, folds, seed, "data"), binary_labels(groups, None, "data")
    of_query = {}
    for group, folds_of in zip(groups, np.split(fold, np.cumsum([len(g.documents) for g in groups])[:-1])):
        of_query.setdefault(group.query.lower(), set()).update(folds_of.tolist())
    assert all(len(queries) == 1 for queries in of_query.values())
    assert all(set(labels[fold != one]) == {0.0, 1.0} for one in range(folds))


def lists_of(folder, slope: float, queries: int = 24, documents: int = 8, seed: int = 0) -> list[dict]:
    """Pairs whose labels are drawn with p = sigmoid(slope * (score - mean)) from the scores of the checkpoint in `folder`."""
    rng = np.random.default_rng(seed)
    questions = [f"where is the {WORDS[i % 12]} {i}?" for i in range(queries)]
    texts = [[" ".join(rng.choice(WORDS, 5)) for _ in range(documents)] for _ in questions]
    rows = Reranker(folder, dtype="fp32").score_lists(questions, texts)
    middle = np.mean(np.concatenate(rows))
    return [
        {"query": query, "document": text, "label": int(rng.random() < sigmoid(slope * (score - middle)))}
        for query, documents_of, row in zip(questions, texts, rows)
        for text, score in zip(documents_of, row)
    ]


@pytest.fixture(scope="module")
def calibrated(tiny_llama_dir, tmp_path_factory):
    """(a checkpoint, its labelled data), calibrated once."""
    folder = tmp_path_factory.mktemp("calibrated") / "model"
    shutil.copytree(tiny_llama_dir, folder)
    data = write_jsonl(folder.parent / "dev.jsonl", lists_of(folder, 8.0))
    calibrate(folder, data, dtype="fp32", method="platt")
    return folder, data


@pytest.fixture
def copied(calibrated, tmp_path):
    """A copy of the calibrated checkpoint, to be changed."""
    return shutil.copytree(calibrated[0], tmp_path / "copy")


def run(monkeypatch, capsys, *words) -> tuple[int, str, str]:
    """`prorank WORDS` in this process: (exit code, stdout, stderr)."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    monkeypatch.setattr("sys.argv", ["prorank", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    return ended.value.code or 0, printed.out, printed.err


def test_from_data_to_hits_by_the_command_line(tiny_llama_dir, calibrated, tmp_path, monkeypatch, capsys):
    model, report = shutil.copytree(tiny_llama_dir, tmp_path / "model"), tmp_path / "report"
    options = ["--data", calibrated[1], "--out", report, "--dtype", "fp32"]
    code, out, err = run(monkeypatch, capsys, "calibrate", model, *options)
    assert code == 0, err
    before, after = map(float, re.search(r"^ECE +([.\d]+) +([.\d]+)$", out, re.M).groups())
    assert after < before
    assert (report / "reliability.png").read_bytes().startswith(b"\x89PNG") and not (model / "reliability.png").exists()
    assert f"calibration: {model / FILE}" in out and "192 pairs of 24 queries" in out
    saved = json.loads((model / FILE).read_text())
    assert saved["data"] == "dev.jsonl" and saved["method"] in METHODS and saved["after"]["ece"] == pytest.approx(after, abs=1e-4)
    (tmp_path / "docs.txt").write_text("the garden\nan old horse\na castle\n")
    words = ["rerank", tmp_path / "docs.txt", "-q", "garden", "--dtype", "fp32", "--model"]
    shown = [run(monkeypatch, capsys, *words, one, "--json")[1].splitlines() for one in (tiny_llama_dir, model)]
    plain, fitted = ([json.loads(line) for line in lines] for lines in shown)
    assert [row.pop("probability") for row in fitted] == pytest.approx(
        Calibration.load(model).apply([row["score"] for row in plain])
    )
    assert fitted == plain  # nothing else changes
    assert "probability" in run(monkeypatch, capsys, *words, model)[1]
    assert "probability" not in run(monkeypatch, capsys, *words, tiny_llama_dir)[1]


def test_hits_keep_the_order_of_scores_and_carry_probabilities(tiny_llama_dir, calibrated):
    documents = [f"the {word} and the {other}" for word in WORDS[:6] for other in WORDS[6:]] * 2
    plain, fitted = (Reranker(folder, dtype="fp32").rank("horse", documents) for folder in (tiny_llama_dir, calibrated[0]))
    assert [(hit.index, hit.score) for hit in fitted] == [(hit.index, hit.score) for hit in plain]
    assert all(hit.probability is None for hit in plain)
    assert all(0 <= b.probability <= a.probability <= 1 for a, b in zip(fitted, fitted[1:]))


def test_no_probability_for_another_prompt_or_other_weights(calibrated, copied, caplog):
    def probability(**how) -> float | None:
        return Reranker(copied, dtype="fp32", **how).rank("horse", ["a horse"])[0].probability

    assert probability() is not None and "fitted for" not in caplog.text
    assert probability(max_length=100) is None and "fitted for another prompt, so hits have no probabilities" in caplog.text
    caplog.clear()
    assert Reranker(copied).rank("horse", ["a horse"], instruction="find animals")[0].probability is None
    tiny_llama(byte_tokenizer("smollm"), seed=5).save_pretrained(copied)
    assert probability() is None and "fitted for other weights" in caplog.text


def test_saving_over_a_checkpoint_removes_its_calibration(copied):
    tokenizer = byte_tokenizer("smollm")
    save_checkpoint(copied, tiny_llama(tokenizer), Prompt.preset("prorank").bind(tokenizer))
    assert not (copied / FILE).exists() and Reranker(copied).calibration is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"method": "platt"}',
        '{"method": "cubic", "numbers": {}}',
        '{"method": "temperature", "numbers": {"temperature": "x"}}',
        '{"method": "temperature", "numbers": {"temperature": 1}, "more": 1}',
        '{"method": "platt", "numbers": {"slope": -1, "intercept": 0}}',
        '{"method": "isotonic", "numbers": {"scores": [0, 1], "probabilities": [1, 0]}}',
    ],
)
def test_a_damaged_file_is_named(text, tmp_path):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ModelError, match=r"calibration\.json: not a saved calibration .* run prorank calibrate again"):
        Calibration.load(tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_saving_and_loading_round_trip(method, tmp_path):
    made = fit(*drawn(200), method)
    assert Calibration.load(made.save(tmp_path).parent) == made and Calibration.load(tmp_path / "none") is None


def pairs(queries: int, labels=(1, 0)) -> list[dict]:
    return [{"query": f"q {i}", "document": f"d {n}", "label": n} for i in range(queries) for n in labels]


@pytest.mark.parametrize(
    "rows, changes, kind, message",
    [
        (pairs(20, (1,)), {}, DataError, "all documents are labelled relevant; a calibration needs both kinds"),
        (pairs(20), {"min_rel": 2}, DataError, "no documents are labelled relevant"),
        (pairs(9), {}, DataError, "9 queries have a relevant document; a calibration in 5 folds needs at least 10"),
        (
            pairs(20, (1,)) + pairs(3), {"folds": 12}, DataError,
            "3 queries have one that is not relevant; a calibration in 12 folds",
        ),
        (pairs(20), {"method": "isotonix"}, ConfigError, "'isotonix' is not known; did you mean 'isotonic'"),
        (pairs(20), {"folds": 1}, ConfigError, "folds must be at least 2, not 1"),
        (pairs(20), {"out": "dev.jsonl"}, ConfigError, "is a file, expected a folder"),
        (pairs(20), {"prompt": "setwise"}, ConfigError, "shows several documents and gives no log-odds"),
        (pairs(20), {"model": "./none"}, ModelError, "./none: no such folder or file"),
        (pairs(20), {"copy": "."}, ConfigError, ".: already exists; calibrate it (MODEL .), or name another folder with"),
    ],
)  # fmt: skip
def test_invalid_arguments_are_refused_before_weights_are_read(rows, changes, kind, message, tiny_llama_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("prorank.rank.load_reranker.load_ranking_model", lambda *_, **__: pytest.fail("weights were read"))
    write_jsonl(tmp_path / "dev.jsonl", rows)
    with pytest.raises(kind, match=re.escape(message)):
        calibrate(**{"model": tiny_llama_dir, "data": "dev.jsonl"} | changes)
    assert not (tiny_llama_dir / FILE).exists()


def test_a_folder_that_cannot_be_written_is_named(tiny_llama_dir, calibrated, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ModelError, match="cannot be written, but calibrate writes into it; name another folder with --copy"):
        calibrate(tiny_llama_dir, calibrated[1])


def test_the_default_model_is_copied(standin, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = write_jsonl(tmp_path / "dev.jsonl", lists_of(standin.run, 8.0))
    before = sorted(path.name for path in (standin.models / DEFAULT).iterdir())
    monkeypatch.setattr("sys.argv", ["prorank", "calibrate", "--data", str(data), "--dtype", "fp32"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code and "calibration: runs/calibrated/calibration.json" in capsys.readouterr().out
    assert (tmp_path / "runs" / "calibrated" / "reliability.png").is_file()
    assert sorted(path.name for path in (standin.models / DEFAULT).iterdir()) == before
    plain, fitted = (Reranker(*name, dtype="fp32").rank("garden", ["the garden", "bread"]) for name in ((), ("runs/calibrated",)))
    assert [(hit.index, hit.score) for hit in fitted] == [(hit.index, hit.score) for hit in plain]
    assert all(hit.probability is None for hit in plain) and all(0 < hit.probability < 1 for hit in fitted)
    with pytest.raises(ConfigError, match="already exists"):
        calibrate(DEFAULT, data, dtype="fp32")
    assert calibrate("runs/calibrated", data, dtype="fp32", method="platt", copy="other")[1] == Path("other/calibration.json")
    first, second = (Path(folder, "README.md").read_text(encoding="utf-8") for folder in ("runs/calibrated", "other"))
    for card, folder in ((first, "runs/calibrated"), (second, "other")):  # of this folder, by its own calibration
        assert f'hits = Reranker("{folder}").rank(' in card and f"\n# {Path(folder).name}\n" in card
        assert card.count("## Calibration") == card.count("Hits carry a probability") == 1 and "of `dev.jsonl`" in card
        assert f"({Calibration.load(folder)}; ECE" in card and "Hits have no probabilities" not in card
    assert "platt" in second and (standin.models / DEFAULT / "README.md").read_text().count("Reranker().rank") == 1


def test_scores_that_fall_with_relevance_are_refused(copied, tmp_path):
    data = write_jsonl(tmp_path / "wrong.jsonl", lists_of(copied, -8.0))
    (copied / FILE).unlink()
    with pytest.raises(DataError, match="relevant documents score no higher than the others"):
        calibrate(copied, data, dtype="fp32")
    assert not (copied / FILE).exists()


def test_calibrating_on_training_data_warns(calibrated, copied, tmp_path, caplog):
    (tmp_path / "run").mkdir()
    model = shutil.move(copied, tmp_path / "run" / "model")
    (tmp_path / "run" / "config.yaml").write_text(json.dumps({"data": str(calibrated[1])}))
    result, path, _ = calibrate(tmp_path / "run", calibrated[1], dtype="fp32", method="temperature")
    assert "was trained on these data" in caplog.text
    assert path == model / FILE and Reranker(tmp_path / "run", dtype="fp32").calibration == result


def test_the_report_shows_probabilities_of_calibrated_models(tmp_path):
    fitted, plain = Fake(name="sure"), Fake(word="river", name="plain")
    fitted.calibration = Calibration("temperature", {"temperature": 2.0})
    out = tmp_path / "out"
    result = evaluate([write_beir(tmp_path / "toy")], [fitted, plain], out=out, min_rel=3, sample=0, command="prorank evaluate toy")
    assert result.row("toy", "plain").probabilities is None
    row = json.loads((out / "results.json").read_text())["rows"]
    shown = next(r for r in row if r["system"] == "sure")["probabilities"]
    assert shown["pairs"] == sum(n for *_, n in shown["bins_after"]) and shown["before"]["ece"] != shown["after"]["ece"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<h2>Probabilities</h2>" in page and page.count("<circle") == 2 + len(shown["bins_before"]) + len(shown["bins_after"])
    assert any(note.startswith("sure: calibrated (temperature), on ") for note in result.notes["toy"])
    assert "<h2>Probabilities</h2>" not in plain_page(tmp_path)


def plain_page(tmp_path) -> str:
    evaluate([tmp_path / "toy"], [Fake()], out=tmp_path / "plain", min_rel=3, sample=0, command="x")
    return (tmp_path / "plain" / "report.html").read_text(encoding="utf-8")
