"""`think_top`: a direct pass over all documents, then thoughts about the best of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from prorank.cli.command_line import app
from prorank.errors import ConfigError
from prorank.prompts.prompt import Prompt
from prorank.rank.thinking_head import merged
from prorank.reranker import Reranker
from prorank.serve.workloads import make_workload
from tests.tiny import WORDS, save_tiny, write_jsonl

DOCUMENTS = [f"the old {word} is near the river" for word in WORDS[:8]]
FINITE = st.floats(-50, 50, width=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("thinking"), "llama")
    Prompt.preset("rerank-r0", max_length=300, system="Judge.", max_think_tokens=6).save(folder)
    return folder


def reranker_of(folder, **options):
    return Reranker(folder, device="cpu", dtype="fp32", **options)


def test_the_head_is_scored_behind_thoughts_and_the_rest_directly(folder):
    both = reranker_of(folder, think_top=3)
    hits = both.rank("coffee", DOCUMENTS)
    direct = reranker_of(folder, think=False).score_lists(["coffee"], [DOCUMENTS])[0]
    thought = reranker_of(folder).score_lists(["coffee"], [DOCUMENTS])[0]
    order = np.argsort(-direct, kind="stable")
    assert {hit.index for hit in hits[:3]} == set(order[:3].tolist())
    assert [hit.score for hit in hits[:3]] == pytest.approx(sorted(thought[order[:3]], reverse=True), abs=1e-4)
    assert [hit.index for hit in hits[3:]] == order[3:].tolist()
    assert [hit.thought is not None for hit in hits] == [True] * 3 + [False] * 5
    assert hits[2].score > hits[3].score


def test_cost_and_truncation_are_counted(folder):
    both, every, none = (reranker_of(folder, **options) for options in ({"think_top": 3}, {}, {"think": False}))
    for reranker in (both, every, none):
        reranker.score_lists(["coffee"], [[*DOCUMENTS, "long " * 400]])
    assert none.cost.generated_tokens == 0 < both.cost.generated_tokens < every.cost.generated_tokens
    assert both.cost.calls == 9 + 3 and every.cost.calls == 9
    assert both.cuts.documents == every.cuts.documents == 1  # the second reading is not another truncation


def test_short_lists_are_thought_about_whole(folder):
    both, every = reranker_of(folder, think_top=9), reranker_of(folder)
    lists = [DOCUMENTS, DOCUMENTS[:1], []]
    rows = zip(both.score_lists(["bread"] * 3, lists), every.score_lists(["bread"] * 3, lists))
    assert all(np.allclose(a, b, atol=1e-4) for a, b in rows)


def test_settings_change_the_fingerprints(folder):
    prints = [(r.fingerprint, r.prompt_fingerprint) for r in (reranker_of(folder, think_top=n) for n in (2, 3, None))]
    assert len({a for a, _ in prints}) == len({b for _, b in prints}) == 3


@given(rows=st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=12), head=st.integers(1, 14))
def test_the_rest_is_below_the_head_and_keeps_its_order(rows, head):
    direct, thought = (np.array(column, np.float32) for column in zip(*rows))
    order = np.argsort(-direct, kind="stable")
    scores = merged(direct, order[:head], thought[order[:head]])
    rest = scores[order[head:]]
    assert (scores[order[:head]] == thought[order[:head]]).all() and (np.diff(rest) <= 0).all()
    assert not len(rest) or rest.max() < scores[order[:head]].min()
    if len(rest) and direct[order[head]] < thought[order[:head]].min():
        assert (rest == direct[order[head:]]).all()


@pytest.mark.parametrize(
    ("options", "message"), [({"think": False}, "answers at once"), ({"prompt": "prorank"}, "answers at once")]
)
def test_models_that_do_not_think_are_refused(folder, options, message):
    with pytest.raises(ConfigError, match=f"think_top is for models that think .* {message}"):
        reranker_of(folder, think_top=2, **options)
    with pytest.raises(ConfigError, match="think_top must be at least 1, not 0"):
        reranker_of(folder, think_top=0)


def test_a_server_refuses_it(folder):
    with pytest.raises(ConfigError, match="think_top is not for servers"):
        make_workload(reranker_of(folder, think_top=2))


def test_the_commands_take_it(folder, tmp_path):
    documents = write_jsonl(tmp_path / "d.jsonl", [{"text": text} for text in DOCUMENTS])
    arguments = ["rerank", str(documents), "coffee", "-m", str(folder), "--think-top", "2", "--json", "--show-thoughts"]
    done = CliRunner().invoke(app, [*arguments, "--device", "cpu", "--dtype", "fp32"])
    assert done.exit_code == 0, done.output
    assert done.stdout.count('"thought": "') == 2
    assert "cost: 10 prompts" in done.output
