"""Probabilities for another share of relevant documents than that of the labels."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.calibrate import calibrate
from prorank.calibrate.fit import fit
from prorank.checkpoints.calibration import Calibration, shift, sigmoid
from prorank.cli.command_line import main
from prorank.errors import ConfigError, ModelError
from prorank.reranker import Reranker
from tests.tiny import write_jsonl

PLATT = Calibration("platt", {"slope": 0.8, "intercept": -1.0}, relevant=0.2)
shares = st.floats(0.01, 0.99)


def candidates(share: float, count: int = 40_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of candidates of which a share is relevant; the scores of either label do not depend on the share."""
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < share
    return rng.normal(np.where(labels, 1.5, -1.5), 2.0), labels.astype(float)


@given(share=shares, prior=shares, scores=st.lists(st.floats(-30, 30), min_size=2, max_size=20))
def test_odds_change_by_one_factor_and_the_order_stays(share, prior, scores):
    calibration, scores = replace(PLATT, relevant=share), np.sort(scores)
    before, after = calibration.apply(scores), calibration.apply(scores, prior)
    assert (np.diff(after) >= 0).all() and (after >= 0).all() and (after <= 1).all()
    np.testing.assert_allclose(calibration.apply(scores, share), before, atol=1e-12)
    np.testing.assert_allclose(shift(after, prior, share), before, atol=1e-6)
    assert (after >= before).all() if prior >= share else (after <= before).all()


@pytest.mark.parametrize("method", ["platt", "isotonic"])
@pytest.mark.parametrize("prior", [0.02, 0.5])
def test_a_fit_on_one_share_holds_for_another(method, prior):
    scores, labels = candidates(0.2)
    calibration = replace(fit(scores, labels, method), relevant=float(labels.mean()))
    others, their_labels = candidates(prior, seed=1)
    gap = lambda p: abs(p.mean() - their_labels.mean())  # noqa: E731
    assert gap(calibration.apply(others)) > 0.05
    assert gap(calibration.apply(others, prior)) < 0.006
    assert calibration.estimate_prior(others) == pytest.approx(prior, abs=0.02)  # without their labels


def test_one_score_is_enough_not_to_fail():
    assert 0 < PLATT.estimate_prior(np.array([-60.0])) < 0.01 and 0.99 < PLATT.estimate_prior(np.array([60.0])) < 1


def test_the_default_prior_is_that_of_the_labels_or_the_given_one():
    scores = np.array([-1.0, 0.0, 3.0])
    fixed = replace(PLATT, prior=0.01)
    np.testing.assert_array_equal(PLATT.apply(scores), sigmoid(0.8 * scores - 1.0))
    np.testing.assert_array_equal(fixed.apply(scores), PLATT.apply(scores, 0.01))
    np.testing.assert_array_equal(fixed.apply(scores, 0.2), PLATT.apply(scores, 0.2))


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.5, 2, float("nan"), "half"])
def test_a_prior_that_is_no_share_is_refused(prior):
    with pytest.raises(ConfigError, match="prior must be a share between 0 and 1"):
        PLATT.apply(np.zeros(2), prior)


def test_a_calibration_without_its_share_says_so():
    old = replace(PLATT, relevant=0.0)
    assert old.apply(np.zeros(1)) == sigmoid(np.array([-1.0]))
    with pytest.raises(ConfigError, match="does not record the share of relevant documents; run prorank calibrate again"):
        old.apply(np.zeros(1), 0.5)


def test_calibrate_writes_the_prior_and_hits_obey_it(calibrated_dir, tmp_path, capsys, monkeypatch):
    reranker = Reranker(calibrated_dir, device="cpu", dtype="fp32")
    texts = [f"a {word} {i}" for i in range(15) for word in ("garden", "river", "castle", "engine")]
    scores = reranker.score_lists(["garden"], [texts])[0]
    best = [texts[i] for i in np.argsort(-scores)]
    rows = [{"query": f"garden {i}", "pos": best[i : i + 2], "neg": best[::-1][i : i + 4]} for i in range(20)]
    data, copies = write_jsonl(tmp_path / "labels.jsonl", rows), [tmp_path / "plain", tmp_path / "rare"]
    for folder, prior in zip(copies, ("", "0.01")):
        words = f"calibrate {calibrated_dir} --data {data} --method platt --copy {folder} --dtype fp32 --device cpu"
        monkeypatch.setattr("sys.argv", ["prorank", *words.split(), *(["--prior", prior] if prior else [])])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    assert "probabilities are for candidates of which 1 % are relevant" in capsys.readouterr().out
    plain, rare = (Reranker(folder, device="cpu", dtype="fp32") for folder in copies)
    assert json.loads((copies[1] / "calibration.json").read_text())["prior"] == 0.01
    hits, fewer = plain.rank("garden", texts), rare.rank("garden", texts)
    assert all(a.probability > b.probability for a, b in zip(hits, fewer))
    scores = np.array([hit.score for hit in hits])
    assert plain.probabilities(scores, prior=0.01) == pytest.approx([hit.probability for hit in fewer])


def test_a_wrong_prior_is_refused_before_the_weights_are_read(calibrated_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("prorank.calibrate.calibration_run._score", lambda *_: pytest.fail("scored"))
    with pytest.raises(ConfigError, match="prior must be a share"):
        calibrate(calibrated_dir, tmp_path / "none.jsonl", prior=1.5, copy=tmp_path / "copy")


def test_a_damaged_prior_in_a_file_is_told(tmp_path):
    path = PLATT.save(tmp_path)
    path.write_text(path.read_text().replace('"prior": null', '"prior": 7'))
    with pytest.raises(ModelError, match="not a saved calibration"):
        Calibration.load(tmp_path)
