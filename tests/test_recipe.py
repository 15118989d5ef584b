"""The queue of trainings behind docs/evidence.md: claims, arms, resuming, sentence-transformers' own training.

The scripts run here from their command lines, on a tiny random model and toy collections.
"""

import json
import os
import shutil
import signal
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from benchmarks import common, jobs, protocol
from benchmarks.evidence import recipe, recipe_lists
from benchmarks.evidence.answers import COLUMNS
from benchmarks.experiments import order_gain
from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.data.examples import Group
from prorank.data.formats import read_groups
from prorank.errors import ConfigError
from prorank.prompts.prompt import Prompt
from prorank.reranker import Reranker
from prorank.train.run_folder import is_done
from prorank.train.settings.stage_settings import load_settings
from prorank.train.stages.score import ScoreStage
from tests.conftest import SETS


def test_a_claim_is_held_by_one_and_given_back(tmp_path):
    with jobs.claimed(tmp_path / "run") as mine:
        with jobs.claimed(tmp_path / "run") as other:
            assert mine and not other
        with jobs.claimed(tmp_path / "another") as other:
            assert other
    with jobs.claimed(tmp_path / "run") as mine:
        assert mine


def test_a_killed_process_leaves_no_claim(tmp_path):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        with jobs.claimed(tmp_path / "run") as mine:
            os.write(write, b"1" if mine else b"0")
            signal.pause()
    assert os.read(read, 1) == b"1"
    with jobs.claimed(tmp_path / "run") as mine:
        assert not mine
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with jobs.claimed(tmp_path / "run", wait=True) as mine:
        assert mine


def test_work_does_what_is_missing_and_leaves_what_is_claimed(tmp_path):
    did, done = [], {"a"}

    def job(name):
        return jobs.Job(tmp_path / name, lambda: name in done, lambda: (did.append(name), done.add(name)))

    failures = jobs.Failures()
    with jobs.claimed(tmp_path / "b"):
        assert jobs.work([job("a"), job("b"), job("c")], failures) == [tmp_path / "b"]
    assert did == ["c"]
    assert jobs.work([job("a"), job("b"), job("c")], failures) == [] and did == ["c", "b"]
    failures.finish()  # none


WRONG = [OSError("disk full"), ImportError("No module named 'trl'"), SystemExit("a\nit died"), ConfigError("key 'x' is unknown")]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: type(wrong).__name__)
def test_a_job_that_fails_is_told_and_the_others_are_done(tmp_path, wrong, capsys):
    """One arm that fails ends neither the queue nor in silence, and is begun again by the next call."""
    tries = []

    def fail():
        tries.append("a")
        if tries.count("a") == 1:
            raise wrong

    some = [jobs.Job(tmp_path / "a", lambda: False, fail), jobs.Job(tmp_path / "b", lambda: False, lambda: tries.append("b"))]
    failures = jobs.Failures()
    assert jobs.work(some, failures) == [] and tries == ["a", "b"]
    with pytest.raises(SystemExit) as end:
        failures.finish()
    told = capsys.readouterr().err
    assert end.value.code == 1 and f"1 failed:\n  {tmp_path / 'a'}: {type(wrong).__name__}: " in told
    assert ("Traceback" in told) == (type(wrong) in (OSError, ImportError))  # of what nobody foresaw
    assert jobs.work(some, jobs.Failures()) == [] and tries == ["a", "b", "a", "b"]


def test_ctrl_c_ends_the_queue(tmp_path):
    def stop():
        raise KeyboardInterrupt

    later = jobs.Job(tmp_path / "b", lambda: False, lambda: pytest.fail("went on"))
    with pytest.raises(KeyboardInterrupt):
        jobs.work([jobs.Job(tmp_path / "a", lambda: False, stop), later], jobs.Failures())


def test_scores_that_another_process_makes_are_left_to_it(collections, monkeypatch, tmp_path):
    monkeypatch.setenv("PRORANK_DATA", str(collections))
    task = protocol.task_of("toy")
    rise = lambda queries, documents, progress=None: [np.arange(len(some), dtype=float) for some in documents]  # noqa: E731
    model = Namespace(name="fake", score_lists=rise)
    with jobs.claimed(tmp_path / "scores" / "toy.fake.json"):
        assert protocol.scored(task, model, tmp_path, wait=False) is None
    found = protocol.scored(task, model, tmp_path)
    assert len(found.scores) == 8 and protocol.ndcg_of(task, found) != protocol.ndcg_of(task)
    queries, scores, labels = protocol.pairs_of(task, found)
    assert len(queries) == len(scores) == 56 and labels.sum() == 16


def test_seeds_are_averaged_before_the_test(capsys):
    values = {"x": {n: {"nDCG@10": v} for n, v in
                    {"a #0": {"q": 0.2, "r": 0.4}, "a #1": {"q": 0.4, "r": 0.8}, "b": {"q": 0.1, "r": 0.1}}.items()}}  # fmt: skip
    rows = common.per_query(values, ["a #0", "a #1", "b"])
    assert list(rows) == ["a", "b"] and rows["a"] == pytest.approx([0.3, 0.6])
    (found,) = common.compare(rows, [("a", "b")])
    assert found["gain"] == pytest.approx(0.35) and found["p"] == 0.5  # two differences of one sign: 2 of 4 patterns
    common.means_table(values, ["a #0", "a #1", "b"])
    out = capsys.readouterr().out
    assert "| a | 0.4500 | 0.4500 | 2 |" in out and "first stage" not in out
    common.means_table(values, ["a #1", "b"])  # the system before them is the first stage
    assert "| first stage | 0.3000 | 0.3000 | 1 |" in capsys.readouterr().out


def test_p_values_are_corrected_within_the_family(capsys):
    rng = np.random.default_rng(0)
    rows = {"a": rng.normal(0.1, 0.1, 12), "b": rng.normal(0, 0.1, 12), "c": rng.normal(0.05, 0.1, 12)}
    alone = [common.compare(rows, [pair])[0]["p"] for pair in (("a", "b"), ("a", "c"))]
    both = [one["p"] for one in common.compare(rows, [("a", "b"), ("a", "c")])]
    assert min(both) == pytest.approx(2 * min(alone)) and max(both) == pytest.approx(max(max(alone), 2 * min(alone)))


def test_sft_is_the_cross_entropy_of_the_answer_over_the_vocabulary(tiny_llama_dir):
    given = [f"{key}={value}" for key, value in recipe.LOSSES["SFT"].items()]
    settings = load_settings(recipe.RECIPE / "score.yaml", ["data=d", "out=o", "batch_size=1", "dtype=fp32", *given])
    resolved = resolve(tiny_llama_dir)
    bound = Prompt.preset("echo").bind(load_tokenizer(resolved))
    model = load_model(resolved, torch.float32, torch.device("cpu"))
    stage = ScoreStage([Group("bread", ("a bread", "a river", "a castle", "a horse"), (1.0, 0.0, 0.0, 0.0))], bound, settings, None)
    example = stage.example(0)
    prompts = [p.ids for p in bound.encode_many("bread", list(stage._group(0).documents))]
    with torch.no_grad():
        loss, _ = stage.loss(model, [example])
        logits = torch.stack([model(torch.tensor([ids])).logits[0, -1] for ids in prompts])
    answers = torch.tensor([bound.answer_ids[int(grade)] for grade in example.lists[0].labels])
    assert float(loss) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, answers)), rel=1e-4)


@pytest.mark.parametrize("arm", ["two stages, 50 %", "two stages, no balance"])
def test_another_warm_up_is_part_of_the_queue(arm, script, tmp_path):
    script(recipe, "--base", script.base, "--documents", 96, "--out", tmp_path, "--seeds", 0, "--arms", arm, *SETS)
    run, (share, settings) = recipe.folder(tmp_path, arm, 0), recipe.WARMUPS[arm]
    first, second = (json.loads((folder / "done.json").read_text())["step"] for folder in (Path(f"{run}-warmup"), run))
    assert (first, second) == ((3, 3) if share == 0.5 else (1, 5))
    told = yaml.safe_load((Path(f"{run}-warmup") / "config.yaml").read_text())
    assert all(told[key] == value for key, value in settings.items())


def test_settings_of_the_command_line_reach_a_stage(script, tmp_path):
    words = ["--documents", 32, "--step", 8, "--prompt", "echo", "--warmup", "learning_rate=3e-4", "entropy_weight=0.5"]
    script(recipe, "--base", script.base, "--out", tmp_path, "--seeds", 0, "--arms", "warm-up only", *words, *SETS)
    told = yaml.safe_load((tmp_path / "warm-up-only-0" / "config.yaml").read_text())
    assert (told["learning_rate"], told["entropy_weight"], told["batch_size"], told["prompt"]) == (3e-4, 0.5, 8, "echo")
    assert json.loads((tmp_path / "warm-up-only-0" / "done.json").read_text())["step"] == 4


def test_few_labels_are_a_part_of_all(collections, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe_lists, "TRAIN", {"toy": 8})
    monkeypatch.setattr(recipe_lists, "JUDGED", ())
    monkeypatch.setattr(recipe_lists, "DEV", ("toy",))
    every, few = (read_groups(recipe_lists.lists(collections, tmp_path / str(n), 0, n)[0]) for n in (None, 3))
    assert len(few) == 3 < len(every) and few == every[:3]


def test_budgets_are_equal_in_documents():
    options = Namespace(documents=16000, minutes=20, step=16)
    for share, _ in recipe.WARMUPS.values():
        assert recipe.budget(options, share)["steps"] + recipe.budget(options, 1 - share)["steps"] == 1000
    assert recipe.budget(options)["steps"] == 1000
    assert recipe.budget(Namespace(documents=None, minutes=20, step=16), 0.9) == {"minutes": 18.0, "steps": None}


def test_the_queue_trains_what_is_missing_and_the_tables_follow(script, tmp_path, monkeypatch, capsys):
    words = ["--base", script.base, "--documents", 32, "--out", tmp_path, "--seeds", 0, "--arms", "two stages", "SFT", *SETS]
    with jobs.claimed(recipe.folder(tmp_path, "SFT", 0)):  # another process is at it
        script(recipe, *words)
    assert "1 of 2 runs are complete" in capsys.readouterr().out
    assert is_done(tmp_path / "two-stages-0") and is_done(tmp_path / "two-stages-0-warmup") and not is_done(tmp_path / "SFT-0")
    script(recipe, *words)
    assert is_done(tmp_path / "SFT-0")
    monkeypatch.setattr(recipe, "train", lambda *_, **__: pytest.fail("a complete run was trained again"))
    script(recipe, *words)
    capsys.readouterr()
    script(recipe, *words, "--evaluate")
    out = capsys.readouterr().out
    assert "two stages against zero-shot" in out and "two stages against SFT" in out
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| ") and len(line.split(" | ")) == 1 + len(COLUMNS)]
    arms = ["system", "two stages", "SFT", "two stages: warm-up", "zero-shot", "query likelihood"]
    assert [row[0].removeprefix("| ") for row in rows] == 2 * arms
    assert rows[-1][1] == "–" and rows[-2][1] != "–"  # likelihood has no answers
    assert "two stages against two stages: warm-up" not in out
    shutil.rmtree(tmp_path / "SFT-0")  # stored scores need no checkpoint
    script(recipe, *words, "--stored")
    assert capsys.readouterr().out == out


def test_an_arm_without_its_library_is_told_and_the_rest_is_trained_and_measured(script, tmp_path, monkeypatch, capsys):
    """The peer's library is missing, and a system's checkpoint is damaged."""
    monkeypatch.setitem(sys.modules, "benchmarks.evidence.peer_training", None)  # importing it raises ImportError
    arms = ["sentence-transformers", "SFT"]
    words = ["--base", script.base, "--documents", 32, "--out", tmp_path, "--seeds", 0, "--arms", *arms, *SETS]
    with pytest.raises(SystemExit) as end:
        script(recipe, *words)
    out, err = capsys.readouterr()
    assert end.value.code == 1 and is_done(tmp_path / "SFT-0") and "1 of 2 runs are complete" in out
    assert "1 failed:" in err and "sentence-transformers-0: ModuleNotFoundError" in err
    broken = shutil.copytree(tmp_path / "SFT-0", tmp_path / "score-only-0")
    (broken / "model" / "model.safetensors").unlink()
    with pytest.raises(SystemExit) as end:
        script(recipe, *words[: -len(SETS)], "score only", *SETS, "--evaluate")
    out, err = capsys.readouterr()
    assert end.value.code == 1 and "SFT against zero-shot" in out and "1 failed:" in err and "score only #0: " in err


def test_order_gain_trains_its_arms_once_and_compares_them(script, tmp_path, monkeypatch, capsys):
    words = ["--base", script.base, "--minutes", 1e-4, "--out", tmp_path, "--seeds", 0, "--lists", "toy"]
    script(order_gain, *words)
    monkeypatch.setattr(order_gain, "train", lambda *_, **__: pytest.fail("a complete run was trained again"))
    monkeypatch.setattr(order_gain, "DEV", ())
    script(order_gain, *words)
    capsys.readouterr()
    script(order_gain, *words, "--evaluate")
    told = [line for line in capsys.readouterr().out.splitlines() if " against " in line]
    assert [line.partition(":")[0] for line in told] == [
        "score 2e-05 against start", "order 2e-05 against start", "start against score 2e-05", "order 2e-05 against score 2e-05",
    ]  # fmt: skip


@pytest.fixture
def peer():
    pytest.importorskip("datasets")
    pytest.importorskip("sentence_transformers")
    from benchmarks.evidence import peer_training

    return peer_training


def test_the_peer_starts_from_our_scores(peer, tiny_llama_dir):
    prompt = Prompt.preset("echo", max_length=256)
    bound = prompt.bind(load_tokenizer(resolve(tiny_llama_dir)))
    model = peer.model_of(peer.Peer(str(tiny_llama_dir), "d", "o", device="cpu"), bound)
    pairs = [("old castle", "we saw the castle today"), ("bread", "there is a bread, and it is long")]
    ours = Reranker(tiny_llama_dir, prompt=prompt, dtype="fp32", device="cpu").score(pairs)
    assert model.predict(pairs, activation_fn=torch.nn.Identity()) == pytest.approx(ours, abs=1e-4)


def test_documents_are_cut_where_the_prompt_cuts_them(peer, tiny_llama_dir):
    bound = Prompt.preset("echo", max_length=144).bind(load_tokenizer(resolve(tiny_llama_dir)))
    long = "the old castle is near the river and " * 40
    short, whole = peer.cut(bound, "castle", [long, "a castle"])
    one, other = bound.encode("castle", long), bound.encode("castle", short)
    assert one.document_cut and not other.document_cut and long.startswith(short) and whole == "a castle"
    assert len(one.ids) - len(other.ids) in (0, 1)  # a token may end otherwise where its text ends


@pytest.mark.parametrize("loss", ["bce", "lambda"])
def test_the_peer_trains_and_goes_on_after_a_kill(peer, loss, tiny_llama_dir, toy_file, tmp_path, monkeypatch):
    settings = peer.Peer(
        str(tiny_llama_dir), str(toy_file), str(tmp_path), steps=2, loss=loss, lists=2, save_every=1, dtype="fp32", device="cpu",
        learning_rate=1e-2,
    )  # fmt: skip
    save, began = peer.PeerTrainer._save_checkpoint, []

    def killed(self, *given, **named):
        save(self, *given, **named)
        began.append(self.state.global_step)
        if len(began) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(peer.PeerTrainer, "_save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        peer.train_peer(settings)
    assert not is_done(tmp_path)
    assert peer.train_peer(settings) == tmp_path / "model" and began == [1, 2] and is_done(tmp_path)
    pairs = [("bread", "there is a bread"), ("bread", "the river")]
    trained, before = (Reranker(f, prompt=p, dtype="fp32", device="cpu") for f, p in ((tmp_path, None), (tiny_llama_dir, "echo")))
    assert trained.prompt.name == "echo" and trained.score(pairs) != pytest.approx(before.score(pairs), abs=1e-6)
    with pytest.raises(peer.ConfigError, match="settings differ"):
        peer.train_peer(peer.Peer(str(tiny_llama_dir), str(toy_file), str(tmp_path), steps=3))


def test_the_peer_pads_with_our_token_where_the_base_names_none(peer, tiny_llama_dir, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny_llama_dir, base)
    config = base / "tokenizer_config.json"
    values = json.loads(config.read_text())
    assert values.pop("pad_token")
    config.write_text(json.dumps(values))
    encoder = Prompt.preset("echo").bind(load_tokenizer(resolve(base)))
    model = peer.model_of(peer.Peer(str(base), "unread", str(tmp_path / "run"), device="cpu"), encoder)
    assert model.tokenizer.pad_token == encoder.tokenizer.pad_token
    assert len(model.predict([("bread", "there is a bread"), ("bread", "river")], batch_size=2)) == 2


def test_the_peers_learning_rate_follows_the_clock(peer):
    now = [0.0]
    trainer = object.__new__(peer.PeerTrainer)
    trainer.clock, trainer.optimizer = Namespace(budget=20.0, minutes=lambda: now[0]), torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule, rates = trainer.create_scheduler(1000), []
    for now[0] in (1.0, 2.0, 11.0, 20.0, 21.0):
        trainer.optimizer.step()
        schedule.step()
        rates += schedule.get_last_lr()
    assert rates == pytest.approx([0.5, 1.0, 0.5, 0.0, 0.0])


def test_the_peer_stops_when_its_minutes_are_spent(peer, tiny_llama_dir, toy_file, tmp_path):
    settings = peer.Peer(str(tiny_llama_dir), str(toy_file), str(tmp_path), minutes=1e-5, dtype="fp32", device="cpu")
    peer.train_peer(settings)
    assert json.loads((tmp_path / "done.json").read_text())["step"] == 1


def test_the_peer_sees_the_lists_of_stage_score(peer, tiny_llama_dir, toy_file):
    bound = Prompt.preset("echo", max_length=144).bind(load_tokenizer(resolve(tiny_llama_dir)))
    groups = read_groups(toy_file)
    rows = peer.rows_of(groups, bound, peer.Peer("b", "d", "o", list_size=3, seed=5))
    settings = load_settings(recipe.RECIPE / "score.yaml", ["data=d", "out=o", "seed=5", "list_size=3"])
    stage = ScoreStage(groups, bound, settings, None)
    drawn = [stage._group(i) for i in range(peer.DRAWS * len(groups))]
    ours = [(g.query, document, label) for g in drawn for document, label in zip(g.documents, g.labels)]
    assert [(row["query"], row["document"], row["label"]) for row in rows] == ours
    assert sum(row["label"] for row in rows) * 3 == len(rows)
