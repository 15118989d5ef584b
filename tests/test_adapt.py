"""`adapt`: held-out queries are never trained on, and the old model is kept unless the new one is better.

Both outcomes are forced by the held-out scores, so no test depends on whether a training succeeds.
"""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from prorank.adapt import AdaptationResult, adapt
from prorank.adapt import adaptation as module
from prorank.adapt.adaptation import PASSES
from prorank.adapt.adaptation_plan import RATES, choose_blend_weights
from prorank.adapt.adaptation_result import compare
from prorank.checkpoints.card import HUB_BASE, LIBRARIES, front_matter, section_of
from prorank.checkpoints.default_model import DEFAULT
from prorank.checkpoints.resolve import resolve
from prorank.cli import command_line as cli
from prorank.data.examples import Group
from prorank.data.formats import read_groups
from prorank.errors import ConfigError, DataError, ModelError
from prorank.prompts.prompt import Prompt
from prorank.reranker import Reranker
from prorank.utils.config_files import read_values
from tests.tiny import toy_lists, write_jsonl

SMALL = {"max_length": 400, "dtype": "fp32", "device": "cpu", "num_evaluations": 1}
SMALL |= {"list_size": 3, "batch_size": 2, "save_every": 0}


def lists(tmp_path, count=60):
    rows = [row | {"query": f"{row['query']} {i}"} for i, row in enumerate(toy_lists(count))]
    return write_jsonl(tmp_path / "labels.jsonl", rows)


def stand_in(base, share):
    """A stand-in for `scores_of`: noise plus .5 for relevant documents with `base`, or `share` times .5 with the trained model."""

    def scores(path, groups, prompt, **how):
        rng = np.random.default_rng(0)
        clear = 0.5 if path == base else 0.5 * share
        return [rng.normal(size=len(group.labels)) + clear * np.array(group.labels) for group in groups]

    return scores


def queries(path):
    return {g.query for g in read_groups(path)}


def test_a_model_is_adapted_and_judged_on_queries_it_has_not_seen(tmp_path, tiny_llama_dir):
    shares_reported = []
    data, out = lists(tmp_path), tmp_path / "out"
    options = {"report": lambda share, figures: shares_reported.append(share), "held_out": 12}
    result = adapt(data, str(tiny_llama_dir), out, minutes=0.03, **options, **SMALL)
    parts = {name: queries(out / f"{name}.jsonl") for name in ("train", "held-out")}
    assert sum(map(len, parts.values())) == 60 and len(set.union(*parts.values())) == 60
    assert (result.queries, result.trained_on, result.trainings) == (12, len(parts["train"]), 1) and shares_reported[-1] >= 1
    assert result.better == (result.likelihood > 0 and result.likelihood_p < 0.05) and 0 < result.p <= 1
    kept = json.loads((out / "adapted.json").read_text(encoding="utf-8"))
    assert AdaptationResult(**kept) == result and (out / "model").is_dir() == result.better
    deciding = read_groups(out / "held-out.jsonl")
    reranker = Reranker(out / "run", dtype="fp32")
    firsts = [g.labels[reranker.rank(g.query, list(g.documents))[0].index] for g in deciding]
    assert result.after >= sum(firsts) / len(firsts)  # the first place alone earns 1
    assert Prompt.load(out / "run" / "model").name == "echo" and not (out / "made").exists()
    ended = "already contains an adapted model" if result.better else "contains a run from .* without a significant gain"
    with pytest.raises(ConfigError, match=ended):
        adapt(data, str(tiny_llama_dir), out, minutes=0.03)


def test_few_queries_are_cross_validated_and_the_mean_of_the_trainings_is_kept(tmp_path, tiny_llama_dir, monkeypatch):
    shares_reported, base = [], str(tiny_llama_dir)
    monkeypatch.setattr(module, "scores_of", stand_in(base, 4.0))
    out = tmp_path / "out"
    data = lists(tmp_path, 31)
    result = adapt(data, base, out, minutes=0.03, report=lambda share, figures: shares_reported.append(share), **SMALL)
    folds = sorted(out.glob("fold-*"))
    parts = [queries(fold / "held-out.jsonl") for fold in folds]
    assert [len(part) for part in parts] == [11, 10, 10] and len(set.union(*parts)) == 31
    assert all(queries(fold / "train.jsonl") == set.union(*parts) - part for fold, part in zip(folds, parts))
    assert (result.queries, result.trained_on, result.trainings) == (31, 31, 3)
    assert "on 31 queries, each held out in one of 3 trainings" in str(result)
    assert shares_reported == sorted(shares_reported) and shares_reported[-1] == 1 and not list(out.glob("**/made"))
    trained, kept = (
        [load_file(folder / "model.safetensors") for folder in folders]
        for folders in ([fold / "run" / "model" for fold in folds], [out / "model"])
    )
    assert any(not torch.equal(trained[0][key], trained[1][key]) for key in trained[0])
    for key, weight in kept[0].items():
        torch.testing.assert_close(weight, sum(one[key] for one in trained) / 3)
    card = (out / "model" / "README.md").read_text(encoding="utf-8")  # of the mean, not of the first training
    assert f'Reranker("{out}")' in card
    assert "the mean of 3 trainings, each with other held-out queries; without weights of the base" in card
    assert f"Data: {data} (31 queries)" in card and "fold-1" not in card.split("Command")[0]
    assert "31 queries, held out each in one of the 3 trainings" in card
    assert f"| {result.before:.4f} | {result.after:.4f} | {result.after - result.before:+.4f} | {result.p:.4f} |" in card
    assert "CrossEncoder" in section_of(card, LIBRARIES) and "Measures on the dev set" not in card


def test_an_interrupted_call_resumes_at_the_unfinished_training(tmp_path, tiny_llama_dir, monkeypatch):
    data, out = lists(tmp_path, 31), tmp_path / "out"
    real, begun = module.train, []

    def stopped(stage, **how):
        begun.append(stage.out)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return real(stage, **how)

    monkeypatch.setattr(module, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        adapt(data, str(tiny_llama_dir), out, minutes=0.03, **SMALL)
    assert not (out / "adapted.json").exists()
    result = adapt(data, str(tiny_llama_dir), out, minutes=0.03, **SMALL)
    runs = [str(out / f"fold-{i}" / "run") for i in (1, 2, 2, 3)]
    assert begun == runs and result.trainings == 3


@pytest.mark.parametrize(("share", "better"), [(4.0, True), (1.0, False), (0.0, False), (-1.0, False)])
def test_the_old_model_stays_unless_the_new_one_is_better(tmp_path, tiny_llama_dir, monkeypatch, share, better):
    base = str(tiny_llama_dir)
    monkeypatch.setattr(module, "scores_of", stand_in(base, share))
    result = adapt(lists(tmp_path), base, tmp_path / "out", minutes=0.01, held_out=12, **SMALL)
    assert result.better == better == (result.likelihood > 0 and result.likelihood_p < 0.05)
    assert result.model == (str(tmp_path / "out" / "model") if better else base)
    assert (tmp_path / "out" / "model" / "prompt.json").is_file() == better and not (tmp_path / "out" / "made").exists()
    assert ("kept: " in str(result)) == better and f"{result.likelihood:+.4f}" in str(result)
    assert better or (f"so the model is still {base}; label more queries" in str(result) and "--keep-anyway" in str(result))


def test_a_model_without_gain_is_kept_only_with_keep_anyway(tmp_path, tiny_llama_dir, monkeypatch, capsys):
    """The exit code is 0 if the old model is kept; --keep-anyway then uses the weights without another training."""
    base, out = str(tiny_llama_dir), tmp_path / "out"
    monkeypatch.setattr(module, "scores_of", stand_in(base, 1.0))
    monkeypatch.setattr(module, "choose_settings", lambda start, options, real=module.choose_settings: real(start, options | SMALL))
    words = ["prorank", "adapt", "--data", str(lists(tmp_path)), "-m", base, "--out", str(out)]
    words += ["--minutes", "0.01", "--held-out", "12"]

    def run(*more) -> int:
        monkeypatch.setattr("sys.argv", [*words, *more])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code

    assert run() == 0 and not (out / "model").exists()
    printed = capsys.readouterr().out
    assert "no significant gain (p 1.0000, needed below 0.05), so the model is still " + base in printed and "kept" not in printed
    assert run() == 2
    assert "without a significant gain; choose another folder, or keep its weights with" in capsys.readouterr().err
    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("trained again"))
    assert run("--keep-anyway") == 0
    assert f"no significant gain (p 1.0000, needed below 0.05); kept anyway: {out / 'model'}" in capsys.readouterr().out
    kept, trained = (load_file(folder / "model" / "model.safetensors") for folder in (out, out / "run"))
    assert all(torch.equal(kept[key], trained[key]) for key in trained)
    result = AdaptationResult(**json.loads((out / "adapted.json").read_text(encoding="utf-8")))
    assert result.kept_anyway and not result.better and result.model == str(out / "model")
    assert run("--keep-anyway") == 2 and "already contains an adapted model" in capsys.readouterr().err


@pytest.mark.parametrize("few", [11, 31])
def test_keep_anyway_in_the_first_call(tmp_path, tiny_llama_dir, monkeypatch, few):
    """With one training, and with the mean of three."""
    base, out = str(tiny_llama_dir), tmp_path / "out"
    monkeypatch.setattr(module, "scores_of", stand_in(base, 1.0))
    options = {"held_out": 12} if few == 11 else {}
    result = adapt(lists(tmp_path, 60 if options else few), base, out, minutes=0.01, keep_anyway=True, **options, **SMALL)
    assert result.kept_anyway and not result.better and result.model == str(out / "model") and resolve(result.model)
    assert result.trainings == (1 if options else 3)


def test_training_and_evaluation_use_the_requested_device(tmp_path, tiny_llama_dir, monkeypatch):
    """`device` reaches the training and every Reranker, even if the machine's best device is another one."""
    made, real = [], Reranker

    def loaded(*arguments, **how):
        made.append(how)
        return real(*arguments, **how)

    monkeypatch.setattr(module, "Reranker", loaded)
    monkeypatch.setattr("prorank.checkpoints.loading.pick_device", lambda device: torch.device(device or "meta"))
    monkeypatch.setattr("prorank.rank.load_reranker.pick_device", lambda device: torch.device(device or "meta"))
    adapt(lists(tmp_path), str(tiny_llama_dir), tmp_path / "out", minutes=0.01, held_out=12, **SMALL)
    assert [(how["device"], how["dtype"], how["compile"]) for how in made] == 3 * [("cpu", "fp32", "auto")]
    assert read_values(tmp_path / "out" / "run" / "config.yaml")["device"] == "cpu"


def verdict(before, after, labels=(1.0, 0.0, 0.0)):
    groups = [Group(f"q{i}", ("a", "b", "c"), labels) for i in range(len(before))]
    return compare(groups, before, after, ("old", "new"), trained_on=1)


@pytest.mark.parametrize(("gain", "worth"), [("linear", 3), ("exponential", 7)])
def test_the_decision_uses_the_requested_gain(gain, worth):
    """A grade of 3 is ranked after one of 1, then before it."""
    groups = [Group(f"q{i}", ("a", "b", "c"), (3.0, 1.0, 0.0)) for i in range(12)]
    result = compare(groups, [[1.0, 2.0, 0.0]] * 12, [[2.0, 1.0, 0.0]] * 12, ("old", "new"), gain, trained_on=1)
    second = 1 / np.log2(3)
    assert result.before == pytest.approx((1 + worth * second) / (worth + second)) and result.after == 1 and result.gain == gain
    assert ("gains 2^label - 1" in str(result)) == (gain == "exponential")


def test_an_unknown_gain_is_refused_before_any_work(tmp_path, tiny_llama_dir):
    with pytest.raises(ConfigError, match="gain must be linear or exponential, not 'log'"):
        adapt(tmp_path / "nowhere.jsonl", str(tiny_llama_dir), tmp_path / "out", gain="log")


def test_the_likelihood_decides_and_not_few_changes_of_rank():
    before = [[1.0, 0.9, 0.0]] * 18 + [[0.0, 1.0, 0.0]] * 2
    worse_once = [[3.0, 0.0, 0.0]] * 17 + [[0.9, 1.0, 0.0]] + [[0.4, 1.0, 0.0]] * 2
    result = verdict(before, worse_once)
    second = 1 / np.log2(3)  # nDCG of the second place
    assert (result.before, result.after) == pytest.approx(((18 + 2 * second) / 20, (17 + 3 * second) / 20))
    assert result.after < result.before and result.p >= 0.05 and result.likelihood > 0 and result.better and result.model == "new"


def test_an_insignificant_gain_is_not_better():
    """nDCG of .9725 before and after, and a likelihood that rose by chance (p .64)."""
    before = [[1.0, 0.0, 0.0]] * 20
    result = verdict(before, [[1.2, 0.0, 0.0]] * 11 + [[0.8, 0.0, 0.0]] * 9)
    assert result.after == result.before == 1 and result.p == 1 and result.likelihood_p > 0.05
    assert not result.better and result.model == "old" and "no significant gain" in str(result)


@given(st.integers(0, 10_000), st.floats(-0.5, 0.5), st.integers(10, 40))
def test_better_requires_a_significant_paired_test(seed, lift, queries):
    """For any scores, no model is kept without a significant gain, or with a significant loss of nDCG."""
    rng = np.random.default_rng(seed)
    before = rng.normal(size=(queries, 3))
    result = verdict(before.tolist(), (before + rng.normal(size=before.shape) + [lift, 0, 0]).tolist())
    assert result.better == (result.model == "new")
    gained, lost = result.likelihood > 0 and result.likelihood_p < 0.05, result.after < result.before and result.p < 0.05
    assert result.better == (gained and not lost)
    assert ("nDCG@10 fell significantly" in str(result)) == lost
    assert ("no significant gain" in str(result)) == (not gained and not lost)


def test_a_significant_loss_of_ndcg_is_not_kept():
    before = [[1.0, 0.99, -3.0]] * 10 + [[-9.0, 0.0, 0.0]] * 10
    lost = [[0.99, 1.0, -30.0]] * 10 + [[-0.1, 0.0, 0.0]] * 10
    result = verdict(before, lost)
    assert (
        result.likelihood > 0 and result.after < result.before and result.p < 0.05 and not result.better and result.model == "old"
    )


def test_bad_input_is_refused_before_training(tmp_path, tiny_llama_dir):
    with pytest.raises(DataError, match="9 of 9 queries can be held out, but at least 10 are needed"):
        adapt(lists(tmp_path, 9), str(tiny_llama_dir), tmp_path / "out")
    with pytest.raises(DataError, match="5 of 60 queries can be held out, but at least 10 are needed"):
        adapt(lists(tmp_path), str(tiny_llama_dir), tmp_path / "out", held_out=5)
    with pytest.raises(ModelError):
        adapt(lists(tmp_path), str(tmp_path / "nothing"), tmp_path / "out")
    with pytest.raises(ConfigError, match="blend must be above 0 and at most 1, not 0"):
        adapt(lists(tmp_path), str(tiny_llama_dir), tmp_path / "out", blend_weight=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("options", "message"), [
    ({"lerning_rate": 1e-4}, "adapt: unknown key 'lerning_rate'; did you mean 'learning_rate'?"),
    ({"batch_size": "many"}, "adapt: key 'batch_size' is 'many'; expected int"),
    ({"lora": {"rank": 8}}, "adapt: unknown key 'lora.rank'"),
    ({"loss": {"lamdarank": 1.0}}, "adapt: key 'loss.lamdarank' is not a known loss; did you mean 'lambdarank'?"),
    ({"steps": 5}, "adapt: key 'minutes' and steps exclude each other"),
    ({"minutes": 0}, "adapt: key 'minutes' must be above 0"),
    ({"base": "smollm2-135m"}, "adapt: key 'base' is set by adapt"),
])  # fmt: skip
def test_wrong_settings_are_refused_before_labels_are_read(tmp_path, tiny_llama_dir, options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        adapt(tmp_path / "missing.jsonl", str(tiny_llama_dir), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_prompt_of_several_documents_is_refused_before_training(tmp_path, tiny_llama_dir):
    several = "shows several documents, but adapt trains models that score single documents"
    with pytest.raises(ConfigError, match=several):
        adapt(lists(tmp_path), str(tiny_llama_dir), tmp_path / "out", prompt="setwise")
    shown = shutil.copytree(tiny_llama_dir, tmp_path / "shown")
    Prompt.preset("setwise").save(shown)
    with pytest.raises(ConfigError, match=several):
        adapt(lists(tmp_path), str(shown), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_default_model_stays_an_adapter_and_keeps_half_of_what_it_was(tmp_path, standin, monkeypatch):
    monkeypatch.setattr(module, "scores_of", stand_in(DEFAULT, 4.0))
    result = adapt(lists(tmp_path), out=tmp_path / "out", minutes=0.03, held_out=12, **SMALL | {"max_length": 192})
    start, run, kept = (resolve(path) for path in (DEFAULT, tmp_path / "out" / "run", result.model))
    assert (kept.path, kept.base) == (start.path, "smollm2-135m") and kept.adapter == tmp_path / "out" / "model"
    before, after, got = (load_file(one.adapter / "adapter_model.safetensors") for one in (start, run, kept))
    assert any(not torch.equal(before[key].float(), after[key]) for key in before)
    for key in before:
        torch.testing.assert_close(got[key], (before[key].float() + after[key]) / 2)
    assert Prompt.load(kept.adapter) == Prompt.load(start.adapter)
    card = (kept.adapter / "README.md").read_text(encoding="utf-8")
    assert "share of the trained weights 0.5, the rest from `prorank-smollm2-135m`" in card
    assert "This is a LoRA adapter" in card and front_matter(card)["base_model"] == HUB_BASE
    assert "12 queries, held out from that training" in card
    config = read_values(tmp_path / "out" / "run" / "config.yaml")
    assert config["base"] == DEFAULT and config["lora"] and config["learning_rate"] == RATES["adapter"]
    assert config["max_epochs"] == pytest.approx(PASSES * 4 / 3) and not config["dev"]  # three documents drawn of four


SHARES = [(True, None, (0.5, 0.75)), (False, None, (1.0, 1.0)), (True, 0.9, (0.9, 0.9))]


@pytest.mark.parametrize(("own", "blend_weight", "shares"), SHARES)
def test_an_untrained_start_is_not_blended_in(tmp_path, tiny_llama_dir, own, blend_weight, shares):
    folder = shutil.copytree(tiny_llama_dir, tmp_path / "start")
    if own:
        Prompt.preset("echo").save(folder)
    assert choose_blend_weights(resolve(folder), blend_weight) == shares


def test_an_unwritable_folder_is_refused_before_data_are_read(tmp_path, tiny_llama_dir, monkeypatch):
    out = tmp_path / "run"
    out.symlink_to("/proc/self/fd")
    monkeypatch.setattr(module, "read_labelled_lists", None)
    monkeypatch.setattr(module, "resolve", None)
    with pytest.raises(OSError) as error:
        adapt(tmp_path / "labels.jsonl", str(tiny_llama_dir), out)
    assert str(out) in str(error.value) and "\n" not in str(error.value)
