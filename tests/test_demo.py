"""The demo: its work is counted in documents, a stopwatch only shortens it, and it ends with one summary.

The walkthrough runs as it is, but for the task (invented pages), the models (a tiny Llama) and the amounts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from prorank.data.examples import Group
from prorank.data.formats import read_beir, read_groups
from prorank.demo import plan as plans
from prorank.demo import systems, walkthrough
from prorank.demo.django_docs import django_docs
from prorank.demo.plan import DemoPlan
from prorank.demo.task_files import TaskPaths
from prorank.demo.training_lists import write_blocks, write_warmup_lists
from prorank.train.micro_batches import total_steps
from prorank.train.settings.stage_settings import load_settings
from tests.test_django_docs import write_source

RECIPES = Path(__file__).parent.parent / "configs" / "prorank" / "smollm2-135m"


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> TaskPaths:
    folder = tmp_path_factory.mktemp("task")
    return django_docs(folder / "cache", write_source(folder / "source"))


def test_blocks_hold_each_query_once_with_its_own_document(paths: TaskPaths, tmp_path: Path) -> None:
    train = read_beir(paths.train, "train")
    for name in ("a", "b"):
        write_blocks(train, 4, 5, tmp_path / f"{name}.jsonl", seed=0, max_words=7)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    groups = read_groups(tmp_path / "a.jsonl", "train")
    assert len(groups) == 20 and len({group.query for group in groups}) == 20
    by_text = {query: train.corpus[next(iter(train.qrels[qid]))] for qid, query in train.queries.items()}
    for block in _in_fours(groups):
        assert len({frozenset(group.documents) for group in block}) == 1
        assert all(len(text.split()) == 7 for text in block[0].documents)
        for group in block:
            assert sum(group.labels) == 1.0
            assert by_text[group.query].startswith(group.documents[group.labels.index(1.0)])


def _in_fours(groups: list[Group]) -> Iterator[list[Group]]:
    return (groups[i : i + 4] for i in range(0, len(groups), 4))


def test_a_block_is_hard(paths: TaskPaths, tmp_path: Path) -> None:
    """The documents that BM25 ranks highest for a block's first query are in it, as long as their queries are unused."""
    from prorank.data.bm25 import Bm25

    train = read_beir(paths.train, "train")
    write_blocks(train, 4, 1, tmp_path / "one.jsonl", seed=0)
    block = read_groups(tmp_path / "one.jsonl", "train")
    first, query_of = next(iter(train.queries)), {doc: qid for qid, labels in train.qrels.items() for doc in labels}
    ranking = Bm25(train.corpus).search({first: train.queries[first]}, 50)[first]
    hard = [train.queries[query_of[doc]] for doc in ranking if doc in query_of and query_of[doc] != first][:3]
    assert block[0].query == train.queries[first] and [group.query for group in block[1 : 1 + len(hard)]] == hard


def test_too_few_queries_give_fewer_blocks(paths: TaskPaths, tmp_path: Path) -> None:
    train = read_beir(paths.train, "train")
    write_blocks(train, 4, 1000, tmp_path / "all.jsonl", seed=0)
    assert len(read_groups(tmp_path / "all.jsonl", "train")) == len(train.queries) // 4 * 4


def test_work_is_counted_in_documents(paths: TaskPaths, tmp_path: Path) -> None:
    """More minutes change nothing but the stopwatch, and the steps are those that the demo tells."""
    steps = []
    for minutes in (15.0, 90.0):
        warmup, score = DemoPlan(tmp_path, minutes, 0, paths).stages()
        prompts = 2 * plans.WARMUP_QUERIES  # as many relevant as others
        steps.append((total_steps(warmup, prompts, 1), total_steps(score, plans.SCORE_BLOCKS, 1)))
        assert warmup.minutes == minutes * plans.STOPWATCH["warmup"] and score.minutes == minutes * plans.STOPWATCH["score"]
    assert steps == [(prompts // plans.WARMUP_BATCH, plans.SCORE_BLOCKS // plans.SCORE_BATCH)] * 2
    assert sum(plans.STOPWATCH.values()) < 1  # the rest is for measuring
    assert plans.ADAPT_BLOCKS * plans.BLOCK_SIZE >= 4 * plans.ADAPT_HELD_OUT  # `adapt` holds out a quarter at most


def test_the_objectives_are_those_of_the_shipped_recipes(paths: TaskPaths, tmp_path: Path) -> None:
    """What a user learns from the demo holds for the recipes: only amounts, places, lengths and `WARMUP_OBJECTIVE` differ."""
    own = {
        "base", "data", "dev", "dev_queries", "out", "max_length", "train_length", "minutes", "steps", "epochs",
        "max_epochs", "batch_size", "list_size", "learning_rate", "beta", "dtype", "compile", "num_evaluations", "save_every",
        "log_every", *plans.WARMUP_OBJECTIVE,
    }  # fmt: skip
    for used in DemoPlan(tmp_path, 15.0, 0, paths).stages():
        recipe = load_settings(RECIPES / f"{used.stage}.yaml")
        for field in {f.name for f in fields(recipe)} - own:
            assert getattr(used, field) == getattr(recipe, field), field


def test_warmup_lists_have_one_of_each_kind(paths: TaskPaths, tmp_path: Path) -> None:
    write_warmup_lists(read_beir(paths.train, "train"), 6, tmp_path / "warmup.jsonl", seed=0)
    groups = read_groups(tmp_path / "warmup.jsonl", "train")
    assert len(groups) == 6 and all(group.labels == (1.0, 0.0) for group in groups)


@pytest.fixture
def small(paths: TaskPaths, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo with a tiny model for both the base and the default model, and with little to do."""
    tiny = str(tiny_llama_dir)
    monkeypatch.setattr(walkthrough, "django_docs", lambda: paths)
    monkeypatch.setattr(walkthrough, "BUILT_IN", tiny)
    monkeypatch.setattr(plans, "BUILT_IN", tiny)
    monkeypatch.setattr(systems, "BUILT_IN", tiny)
    monkeypatch.setattr(systems, "DEFAULT", tiny)
    monkeypatch.setattr(systems, "READING", {"dtype": "fp32", "compile": False})
    monkeypatch.setattr(systems, "DEFAULT_LENGTH", 128)  # the tiny tokenizer writes the prompt's own words in many tokens
    monkeypatch.setattr(plans, "DEFAULT", tiny)
    amounts = {"WARMUP_QUERIES": 8, "WARMUP_BATCH": 4, "BLOCK_SIZE": 3, "SCORE_BLOCKS": 4, "ADAPT_BLOCKS": 14, "ADAPT_HELD_OUT": 10}
    for name, value in amounts.items():
        monkeypatch.setattr(plans, name, value)


def test_the_walkthrough(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert walkthrough.run_demo(30.0, out, restart=False, seed=0) == out / "report"
    printed = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert [row["system"] for row in summary["rows"]] == ["BM25", *systems.SYSTEMS]
    assert all(0 <= row["ndcg@10"] <= 1 for row in summary["rows"]) and summary["shortened"] == []
    formats = {row["system"]: row["format"] for row in summary["rows"]}
    assert formats["BM25"] is None and formats[systems.LIKELIHOOD] is None and 0 <= formats[systems.STAGE_2] <= 1
    assert all(row["p_holm"] >= row["p"] for row in summary["rows"][1:])
    for path in ("report/report.html", "summary.json", "warmup/train_curves.png", "score/train_curves.png", "adapted/model"):
        assert (out / path).exists() and str(out / path) in printed, path
    assert "Next:" in printed and "stopwatch" not in printed
    before = (out / "summary.json").read_bytes()
    walkthrough.run_demo(0.001, out, restart=False, seed=0)  # all is there and is used; this stopwatch was not set when it was made
    assert (out / "summary.json").read_bytes() == before


def test_the_stopwatch_says_what_it_cut(small: None, paths: TaskPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = DemoPlan(tmp_path, 0.0001, 0, paths)
    plan.write_lists()
    walkthrough._run_stage(plan.stages()[0])
    for _ in range(2):  # as well when the demo is resumed
        (line,) = walkthrough._cut_short(tmp_path / "warmup", "stage 1", print)
        assert re.fullmatch(r"stage 1 was cut short by the stopwatch after 1 steps, 1.4e-05 minutes; --minutes sets it", line)
        assert line in capsys.readouterr().out
