"""Options of stage `reason` that keep groups alive: clip-higher, dynamic sampling, the balance term, and what is logged of them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.errors import ConfigError
from prorank.prompts.prompt import Prompt
from prorank.train.curves import read_metrics
from prorank.train.objectives.answer_balance import balance_loss, label_weights
from prorank.train.objectives.one_token_grpo import clipped_surrogate
from prorank.train.objectives.ppo_grpo import is_clipped
from prorank.train.run import train
from prorank.train.settings.stage_settings import load_settings, make_settings
from prorank.train.stages.reason import REASON, ReasonStage
from prorank.train.stages.rollouts import Episode
from tests.test_train_reason import groups, run, settings_of
from tests.tiny import save_tiny

CPU = torch.device("cpu")
NOTE = "configs/rerank-r0/stage_a.yaml"


@pytest.fixture
def made(tmp_path):
    """(stage, model) of a tiny Llama with settings."""

    def make(**more):
        resolved = resolve(save_tiny(tmp_path / "tiny", "llama"))
        model = load_model(resolved, torch.float32, CPU)
        bound = Prompt.preset("rerank-r0", max_length=300, system="Judge.").bind(load_tokenizer(resolved))
        s = settings_of(**{"algorithm": "grpo", "out": str(tmp_path), "beta": 0.0} | more)
        return ReasonStage(groups(), bound, s, model, [], False), model

    return make


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), low=st.floats(0.05, 0.5), wider=st.floats(0, 0.5))
def test_the_ratio_is_clipped_at_both_ends(seed, low, wider):
    rng = np.random.default_rng(seed)
    now, old, gains = torch.tensor(rng.normal(size=(3, 20)))
    high = low + wider
    for got, clipped, a, b, gain in zip(
        clipped_surrogate(now, old, gains, low, high), is_clipped(now, old, gains, low, high), now, old, gains
    ):
        ratio, gain = math.exp(a - b), float(gain)
        assert float(got) == pytest.approx(min(ratio * gain, min(max(ratio, 1 - low), 1 + high) * gain), rel=1e-6)
        assert bool(clipped) == ((ratio > 1 + high and gain > 0) or (ratio < 1 - low and gain < 0))


def test_the_options_are_off_in_the_notes_file():
    s = load_settings(NOTE, ["data=d", "out=o"])
    assert s.balance_weight == 0 and s.dynamic_rounds == 0 and s.epsilon_high == s.epsilon
    assert s.grpo.dynamic_sampling == 0 and s.grpo.epsilon_high is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"balance_weight": -1}, "balance_weight"),
        ({"grpo": {"epsilon_high": 0.1}}, "grpo.epsilon_high' must be at least grpo.epsilon"),
        ({"grpo": {"dynamic_sampling": -1}}, "grpo.dynamic_sampling"),
    ],
)
def test_values_are_checked(more, message):
    with pytest.raises(ConfigError, match=message):
        make_settings({"stage": "reason", "data": "d", "out": "o"} | more)


def test_the_balance_term_needs_a_prompt_of_one_document(tiny_llama_dir):
    tokenizer = load_tokenizer(resolve(tiny_llama_dir))
    s = make_settings({"stage": "reason", "data": "d", "out": "o", "balance_weight": 1.0})
    with pytest.raises(ConfigError, match="'balance_weight' is for prompts of one document, not rank-r1"):
        REASON.bind(Prompt.preset("rank-r1"), tokenizer, s)


def answered(stage, answers=((1, 1), (0, 1), (1, 0), (1, None))):
    """Episodes of two completions each with these answers; None for a completion without one."""
    episodes = []
    for key, row in enumerate(answers):
        example = stage.example(key)
        rows = [stage.encoder.completion(f"a thought {k}", 0 if answer is None else answer)[0] for k, answer in enumerate(row)]
        rows = [ids if answer is not None else ids[:3] for ids, answer in zip(rows, row)]
        drawn = [list(range(len(ids))) for ids in rows]
        episodes.append(Episode(example.prompt.ids, rows, drawn, [True] * 2, label=example.label))
    return episodes


def test_the_balance_terms_gradient_is_that_of_the_whole_batch_in_any_micro_batches(made):
    stage, model = made(balance_weight=1.0, grpo={"num_generations": 2})
    episodes, balance = answered(stage), stage.balance
    balance.begin_batch(model, episodes, stage._hidden_of_batch(model, episodes))
    # Directly: the answers' shares from plain forward passes, and the batch's term of them.
    shares, labels = [], []
    for episode in episodes:
        for ids in episode.rows:
            places = [i for i, token in enumerate(ids) if token in stage.encoder.answer_ids and len(ids) > 3]
            for i in places[-1:]:
                logits = model(torch.tensor([episode.prompt + ids[:i]])).logits[0, -1]
                shares.append(logits[list(stage.encoder.answer_ids)].softmax(-1))
                labels.append(episode.label)
    assert len(shares) == 7
    wanted = balance_loss(torch.stack(shares), label_weights(torch.tensor(labels)))
    assert balance.value == pytest.approx(wanted.item(), rel=1e-5)
    wanted.backward()
    direct = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    for part in (episodes[:1], episodes[1:3], episodes[3:]):
        hidden = stage.logits.hidden(model, stage._collated(part)[0])
        balance.loss(model, part, hidden).backward()
    assert max(float(g.abs().max()) for g in direct.values()) > 1e-4
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, direct[name], rtol=1e-3, atol=1e-6)


def test_only_sampled_answers_count(made):
    stage, _ = made(balance_weight=1.0)
    episode = answered(stage)[0]
    before = stage.balance.places([episode])
    assert [episode.rows[0][before[0]], len(before)] == [stage.encoder.answer_ids[1], 2]
    episode.drawn = [[i for i in range(len(row)) if row[i] not in stage.encoder.answer_ids] for row in episode.rows]
    assert stage.balance.places([episode]) == []


def test_prompts_whose_rewards_are_equal_are_replaced_by_others_of_their_label(made):
    stage, model = made(grpo={"num_generations": 3, "dynamic_sampling": 4})
    judged, stuck = stage.rollouts._judged, {stage.example(0).prompt.ids[-20:].__repr__()}

    def some_equal(example, rows):
        episode = judged(example, rows)
        verdict = type(episode.verdicts[0])
        equal = repr(example.prompt.ids[-20:]) in stuck
        episode.verdicts = [verdict(0.0 if equal else float(k), v.parts, None, 0) for k, v in enumerate(episode.verdicts)]
        return episode

    stage.rollouts._judged = some_equal
    _, figures = stage.loss(model, [stage.example(i) for i in range(4)])
    first = stage._batch[1][0]
    assert figures["prompts_replaced"] == 0.25 and figures["groups_with_variance"] == 1.0
    assert first.prompt != stage.example(0).prompt.ids and first.label == stage.example(0).label
    rows = [e.rows for e in stage._batch[1].values()]
    stage._batch = (-1, {})
    stage.loss(model, [stage.example(i) for i in range(4)])
    assert [e.rows for e in stage._batch[1].values()] == rows  # the same prompts and samples after a resume


def test_without_it_prompts_stay(made):
    stage, model = made()
    _, figures = stage.loss(model, [stage.example(i) for i in range(4)])
    assert "prompts_replaced" not in figures
    assert [e.prompt for e in stage._batch[1].values()] == [stage.example(i).prompt.ids for i in range(4)]


def test_a_run_logs_what_keeps_it_alive(tmp_path, tiny_llama_dir):
    grpo = {"num_generations": 2, "dynamic_sampling": 1, "epsilon_high": 0.28, "loss": "dapo"}
    train(run(tmp_path, "r", tiny_llama_dir, algorithm="grpo", steps=3, balance_weight=1.0, grpo=grpo))
    lines = [line for line in read_metrics(tmp_path / "r") if "loss" in line]
    wanted = {
        "accuracy_yes", "accuracy_no", "groups_with_variance", "entropy", "kl", "think_tokens", "thoughts_cut", "balance",
        "prompts_replaced", "loss_balance",
    }  # fmt: skip
    assert all(wanted <= line.keys() for line in lines) and len(lines) == 3
    assert all(0 <= line["thoughts_cut"] <= 1 and 0 <= line["groups_with_variance"] <= 1 for line in lines)
