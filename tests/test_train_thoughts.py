"""Scores after a model's own thoughts: training and ranking have the same prompts; thoughts are cached and refreshed.

The reference is the Reranker of the same checkpoint, which thinks about every document.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.data.formats import read_groups
from prorank.engine.flat_attention import is_flat
from prorank.engine.packing import collate
from prorank.errors import ConfigError, ModelError
from prorank.prompts.prompt import Prompt
from prorank.rank.thinking import generate_batches
from prorank.reranker import Reranker
from prorank.train.curves import read_metrics
from prorank.train.run import train
from prorank.train.settings.stage_settings import make_settings
from prorank.train.stages.score import ScoreStage
from prorank.train.stages.thought_cache import FILE, ThoughtCache
from tests.test_train_run import process, same
from tests.tiny import save_tiny, toy_lists, write_jsonl

THINKS = {"max_length": 300, "system": "Judge.", "max_think_tokens": 9}
RUN = {
    "stage": "score", "thoughts": True, "dtype": "fp32", "device": "cpu", "seed": 3, "list_size": 3, "batch_size": 2,
    "log_every": 1,
}  # fmt: skip


@pytest.fixture(scope="module", params=["llama", "llama4"])  # by the engine, and by a model's own layers
def thinking(request, tmp_path_factory) -> Path:
    """A tiny checkpoint with a thinking prompt."""
    return checkpoint(tmp_path_factory.mktemp("thinking"), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def lists(tmp_path_factory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("lists") / "lists.jsonl", toy_lists(8, negatives=4))


def checkpoint(folder: Path, kind: str) -> Path:
    Prompt.preset("rerank-r0", **THINKS).save(save_tiny(folder, kind))
    return folder


def values(base: Path, data: Path, out: Path, **changes) -> dict:
    return {"base": str(base), "data": str(data), "out": str(out), "dev_queries": 0, **RUN, **changes}


def stage_of(base: Path, data: Path, out: Path, **changes) -> tuple[ScoreStage, torch.nn.Module]:
    """The stage as a run makes it, and its model."""
    settings, resolved = make_settings(values(base, data, out, **changes)), resolve(base)
    out.mkdir(exist_ok=True)
    model = load_model(resolved, torch.float32, torch.device("cpu"))
    bound = Prompt.load(resolved.folder).bind(load_tokenizer(resolved))
    thoughts = ThoughtCache(model, bound, settings, bf16=False)
    return ScoreStage(read_groups(data), bound, settings, None, thoughts=thoughts), model


def kept(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / FILE).read_text(encoding="utf-8").split("\n") if line]


def shapeless(lines: list[dict]) -> dict:
    return {(row["round"], row["query"], row["document"]): tuple(row["ids"]) for row in lines}


def test_prompts_in_training_are_what_the_thinker_reads(thinking, lists, tmp_path):
    stage, _ = stage_of(thinking, lists, tmp_path / "run")
    thinker = Reranker(thinking, device="cpu", dtype="fp32").strategy
    for index in range(4):
        group, example = stage._group(index), stage.example(index)
        prompts = thinker.encoder.encode_many(group.query, list(group.documents))
        parts = generate_batches(thinker.sampler, [(prompts, list(group.documents))])
        rows = {at: completions[0] for part in parts for _, at, completions in part}
        (pack,) = example.packs
        begins = [pack.prefix_length, *pack.ends]
        for at, prompt in enumerate(prompts):
            read = pack.ids[: pack.prefix_length] + pack.ids[begins[at] : begins[at + 1]]
            assert read == prompt.ids + thinker.encoder.opener + rows[at].ids
            assert example.thoughts[at].cut == rows[at].thought_truncated
        assert pack.prefix_length == prompts[0].document_start > 0  # the query is read once for all


@pytest.mark.parametrize("plain", [False, True])
def test_scores_in_training_are_those_of_ranking(thinking, lists, tmp_path, plain):
    stage, model = stage_of(thinking, lists, tmp_path / "run", baseline_step=plain)
    examples = [stage.example(i) for i in range(3)]
    batch = collate([p for u in examples for p in u.packs], stage.encoder.tokenizer.pad_token_id, is_flat(model) and not plain)
    with torch.no_grad():
        got = stage.scores(stage.logits(model, batch), examples)
    lists = [(stage._group(i).query, list(stage._group(i).documents)) for i in range(3)]
    want, at_once = (
        Reranker(thinking, device="cpu", dtype="fp32", think=think).score_lists(*map(list, zip(*lists))) for think in (True, False)
    )
    for a, b, c in zip(got, want, at_once):
        np.testing.assert_allclose(a.numpy(), b, atol=2e-4)
        assert np.abs(b - c).max() > 1e-2  # a thought makes a difference


def test_thoughts_are_generated_together_within_the_budget_and_reused(llama, lists, tmp_path, monkeypatch):
    run = tmp_path / "run"
    stage, _ = stage_of(llama, lists, run, steps=2)
    first = stage.example(0)
    drawn = {(stage._group(i).query, d) for i in range(4) for d in stage._group(i).documents}
    assert {(row["query"], row["document"]) for row in kept(run)} == drawn and len(kept(run)) == 12  # two steps of two lists
    monkeypatch.setattr(ThoughtCache, "_rows", None)  # nothing more is written
    assert [stage.example(i).key for i in range(4)] == [0, 1, 2, 3]
    with open(run / FILE, "ab") as handle:
        handle.write('{"round": 0, "query": "é'.encode()[:-1])  # a kill within a write
    again, _ = stage_of(llama, lists, run, steps=2)
    assert again.example(0) == first and len(kept(run)) == 12


def test_thoughts_of_other_weights_or_another_prompt_are_not_used(llama, lists, tmp_path):
    run = tmp_path / "run"
    stage_of(llama, lists, run)[0].example(0)
    other = tmp_path / "other"
    Prompt.preset("rerank-r0", **THINKS).save(save_tiny(other, "llama", seed=5))
    changed = tmp_path / "changed"
    Prompt.preset("rerank-r0", **THINKS | {"system": "Judge well."}).save(save_tiny(changed, "llama"))
    for base in (other, changed):
        assert kept(run)
        assert not stage_of(base, lists, run)[0].thoughts.known and not kept(run)
        stage_of(llama, lists, run)[0].example(0)


def test_thoughts_are_refreshed_with_the_current_weights(llama, lists, tmp_path):
    once = train(make_settings(values(llama, lists, tmp_path / "once", epochs=2, learning_rate=1e-2))).parent
    anew = train(make_settings(values(llama, lists, tmp_path / "anew", epochs=2, learning_rate=1e-2, refresh_thoughts=1))).parent
    assert {row["round"] for row in kept(once)} == {0} and {row["round"] for row in kept(anew)} == {0, 1}
    for run in (once, anew):
        assert len(shapeless(kept(run))) == len(kept(run))  # nothing twice
    old, new = ({(q, d): ids for (n, q, d), ids in shapeless(kept(anew)).items() if n == number} for number in (0, 1))
    assert any(old[pair] != new[pair] for pair in old.keys() & new.keys())
    before = Reranker(llama, device="cpu", dtype="fp32")
    said = {(row["query"], row["document"]): row["thought"] for row in kept(anew) if row["round"] == 0}
    for query, document in list(said)[:3]:
        assert before.rank(query, [document])[0].thought == said[query, document]


def test_killed_and_resumed_equals_uninterrupted_and_writes_nothing_twice(llama, lists, tmp_path):
    given = {"steps": 9, "save_every": 2, "learning_rate": 1e-2, "refresh_thoughts": 1, "list_size": 4}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert process(values(llama, lists, whole, **given), "never") == 0
    assert process(values(llama, lists, cut, **given), "5") < 0
    before = (cut / FILE).read_text(encoding="utf-8")
    assert before and process(values(llama, lists, cut, **given), "never") == 0
    after = (cut / FILE).read_text(encoding="utf-8")
    assert after.startswith(before) and len(after) > len(before)
    assert shapeless(kept(cut)) == shapeless(kept(whole)) and len(kept(cut)) == len(kept(whole))
    assert same(whole / "model", cut / "model")


@pytest.mark.parametrize("stage", ["score", "order"])
def test_a_run_learns_behind_thoughts_and_is_measured_as_in_use(llama, lists, tmp_path, stage):
    given = values(llama, lists, tmp_path / "run", steps=6, stage=stage, learning_rate=3e-3, num_evaluations=1, dev_queries=2)
    folder = train(make_settings(given | {"lora": {"r": 4, "alpha": 8}}))
    lines = read_metrics(tmp_path / "run")
    trained, dev = (next(line for line in lines if key in line and line["step"]) for key in ("loss", "dev_ndcg@10"))
    assert 0 < trained["think_tokens"] and 0 <= trained["thoughts_cut"] <= 1 and "dev_thoughts_cut" in dev
    reranker = Reranker(folder, device="cpu", dtype="fp32")
    assert reranker.thinks and Prompt.load(folder).max_think_tokens == THINKS["max_think_tokens"]
    from prorank.train.dev_set import DevSet
    from prorank.train.training_data import read_ranking_data

    again = DevSet(read_ranking_data(make_settings(given))[1], Prompt.load(folder), reranker.tokenizer, False)
    seen = reranker.score_lists([g.query for g in again.groups], [list(g.documents) for g in again.groups])
    assert again._ndcg(np.concatenate(seen)) == pytest.approx(dev["dev_ndcg@10"])
    assert again._accuracy(np.concatenate(seen) > 0) == pytest.approx(dev["dev_accuracy"])


@pytest.mark.parametrize("thinks", [True, False])
def test_a_checkpoint_teaches_its_own_scores(llama, tiny_llama_dir, lists, tmp_path, thinks):
    teacher = llama if thinks else tiny_llama_dir
    given = {"thoughts": False, "loss": {"kl": 0.5, "margin-mse": 0.5}, "teacher": f"reranker:{teacher}", "steps": 2}
    folder = train(make_settings(values(llama, lists, tmp_path / "run", **given)))
    groups = read_groups(lists)
    stored = json.loads((tmp_path / "run" / "teacher.json").read_text())["scores"]
    queries, documents = [g.query for g in groups], [list(g.documents) for g in groups]
    for row, want in zip(stored, Reranker(teacher, device="cpu").score_lists(queries, documents), strict=True):
        np.testing.assert_allclose(row, want, atol=1e-4)
    assert not Reranker(folder, device="cpu").thinks  # taught to answer at once


def test_invalid_settings_are_refused_before_weights_are_read(llama, tiny_llama_dir, lists, tmp_path, monkeypatch):
    monkeypatch.setattr("prorank.train.run.load_model", None)
    for prompt in ("prorank", "setwise"):
        given = values(tiny_llama_dir, lists, tmp_path / "run", prompt=prompt)
        with pytest.raises(ConfigError, match=f"stage score with thoughts needs a prompt of kind thinking.*{prompt} is"):
            train(make_settings(given))
    taught = {"thoughts": False, "loss": {"kl": 1.0}, "teacher": f"reranker:{tmp_path / 'none'}"}
    with pytest.raises(ModelError, match="no such folder"):
        train(make_settings(values(llama, lists, tmp_path / "run", **taught)))
    assert not (tmp_path / "run").exists()
