"""The balance term: its gradient, its sampled form, and what it needs of a micro-batch."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.data.examples import Group
from prorank.errors import ConfigError
from prorank.prompts.prompt import Prompt
from prorank.train.micro_batches import labels_in_turn
from prorank.train.objectives.answer_balance import answer_entropy, answer_shares, balance_advantages, balance_loss, label_weights
from prorank.train.settings.stage_settings import Warmup, load_settings
from prorank.train.stages.warmup import WarmupStage

RECIPE = Path(__file__).parents[1] / "configs/prorank/smollm2-135m/warmup.yaml"
ANSWERS = [3, 5]  # ids of "0" and "1" in a vocabulary of 7
LABELS = torch.tensor([0, 1, 1, 0])


def balance(logits: torch.Tensor, labels: torch.Tensor = LABELS) -> torch.Tensor:
    return balance_loss(answer_shares(logits, ANSWERS), label_weights(labels))


def gradient(logits: torch.Tensor, labels: torch.Tensor = LABELS) -> torch.Tensor:
    logits = logits.clone().requires_grad_()
    balance(logits, labels).backward()
    return logits.grad


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([[0, 1, 1, 0], [1, 0, 0, 0]]))
def test_sampled_advantages_have_the_exact_gradient_in_expectation(seed, labels):
    """The sum of p(t) * advantage(t) * grad log p(t) over ALL tokens t, averaged over prompts, is the gradient of -balance_loss."""
    logits, labels = 3 * torch.randn(4, 7, generator=torch.Generator().manual_seed(seed)), torch.tensor(labels)
    tokens = torch.arange(7).expand(4, 7)  # every token once
    gains = balance_advantages(tokens, logits, ANSWERS, label_weights(labels))
    free = logits.clone().requires_grad_()
    log_p = free.log_softmax(-1)
    (log_p.exp().detach() * gains * log_p).sum(1).mean().backward()
    torch.testing.assert_close(free.grad, -gradient(logits, labels), rtol=1e-3, atol=1e-5)


def test_equal_answers_are_the_minimum():
    logits = torch.zeros(4, 7)
    logits[:, 5] = torch.tensor([8.0, -8.0, 8.0, -8.0])  # certain answers, as many of each
    assert gradient(logits).abs().max() < 1e-6
    assert float(balance(logits)) == pytest.approx(0.6931472, abs=1e-5)


def test_a_model_that_always_answers_alike_is_pushed_back():
    """The gradient does not vanish where that of the expected reward, p(1 - p), has."""
    logits = torch.zeros(4, 7)
    logits[:, 5] = 12.0  # p = .999994
    pushed = gradient(logits)
    assert (pushed[:, 5] > 0.1).all() and (pushed[:, 3] < -0.1).all()  # a step down the gradient lowers answer "1", raises "0"


def test_no_label_of_a_single_prompt_is_read():
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(1))
    values = {float(balance(logits, labels=torch.tensor(row))) for row in ([0, 1, 1, 0], [1, 0, 0, 1])}
    assert len(values) == 1


def test_labels_in_unequal_numbers_weigh_the_same():
    weights = label_weights(torch.tensor([1, 0, 0, 0]))
    assert weights.tolist() == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6])
    assert label_weights(torch.tensor([1, 0, 0, 1])).tolist() == [0.25] * 4


Example = namedtuple("Example", "label length")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 99), min_size=8, max_size=8), st.permutations([0, 1] * 4))
def test_micro_batches_of_a_balanced_batch_are_balanced(lengths, labels):
    arranged = labels_in_turn([Example(label, length) for label, length in zip(labels, lengths)])
    assert sorted(arranged) == sorted(Example(label, length) for label, length in zip(labels, lengths))
    for size in (2, 4, 8):
        for start in range(0, 8, size):
            assert sum(example.label for example in arranged[start : start + size]) == size // 2
    for side in (0, 1):
        kept = [example.length for example in arranged if example.label == side]
        assert kept == sorted(kept)


def test_micro_batches_of_one_are_refused_with_the_term_only():
    with pytest.raises(ConfigError, match="micro_batch.*above 1.*balance_weight"):
        Warmup(data="x", out="y", micro_batch=1).check()
    Warmup(data="x", out="y", micro_batch=1, balance_weight=0.0).check()


@pytest.mark.parametrize("relevant", [0.1, 0.5, 0.8])
def test_entropy_keeps_the_log_odds_graded(relevant):
    """Reward and entropy together are largest at log-odds R (2 r - 1) / tau; the reward alone has no finite maximum."""
    reward, tau = 1.0, 0.25
    logits = torch.zeros(1, 7, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        shares = answer_shares(logits, ANSWERS)
        expected = (shares * torch.tensor([1 - relevant, relevant])).sum(-1).mean() * reward
        loss = -expected - tau * answer_entropy(logits, ANSWERS)
        loss.backward()
        return loss

    optimiser.step(closure)
    log_odds = float(logits.detach()[0, ANSWERS[1]] - logits.detach()[0, ANSWERS[0]])
    assert log_odds == pytest.approx(reward * (2 * relevant - 1) / tau, abs=0.02)


def test_the_entropy_of_a_certain_answer_has_a_finite_gradient():
    logits = torch.zeros(2, 7)
    logits[:, ANSWERS[1]] = torch.tensor([500.0, -500.0])  # the other answer's probability is 0 in fp32
    logits.requires_grad_()
    answer_entropy(logits, ANSWERS).backward()
    assert torch.isfinite(logits.grad).all()


def test_the_stage_subtracts_the_weighted_entropy(tiny_llama_dir):
    resolved = resolve(tiny_llama_dir)
    encoder = Prompt.preset("plain").bind(load_tokenizer(resolved))
    model = load_model(resolved, torch.float32, torch.device("cpu"))
    groups = [Group("bread", ("a bread", "a river"), (1.0, 0.0))]
    losses, figures = [], {}
    for weight in (0.0, 0.5):
        settings = load_settings(
            RECIPE, ["data=d", "out=o", "base=b", "prompt=plain", "batch_size=2", "dtype=fp32", f"entropy_weight={weight}"]
        )
        stage = WarmupStage(groups, encoder, settings, model, None, bf16=False)
        loss, figures = stage.loss(model, [stage.example(0), stage.example(1)])
        losses.append(float(loss.detach()))
    assert losses[0] - losses[1] == pytest.approx(0.5 * figures["answer_entropy"], rel=1e-4)
    assert 0 < figures["answer_entropy"] <= 0.6931472
