"""The gradient of a ranking against enumeration of all orders and against ir-measures.

Three documents have 6 orders and 216 groups of three, so the estimator's expectation can be summed out.
"""

import math
from itertools import permutations, product

import ir_measures
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank.evaluate.gains import GAINS
from prorank.train.objectives.plackett_luce import (
    REWARDS,
    expected_reward,
    order_kl,
    order_log_probs,
    placed_rewards,
    policy_weights,
    sample_orders,
)  # fmt: skip

SCORES = st.lists(st.floats(-3, 3), min_size=2, max_size=5)


def orders_of(n):
    return torch.tensor(list(permutations(range(n))))


def scores_of(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def measured(grades, order, reward, depth, gain="linear"):
    """The measure by ir-measures, which knows orders by their scores."""
    qrels = {"q": {str(i): int(grade) for i, grade in enumerate(grades)}}
    run = {"q": {str(i): float(-place) for place, i in enumerate(order)}}
    gains = {grade: 2**grade - 1 if gain == "exponential" else grade for grade in range(5)}
    measure = {"ndcg": ir_measures.nDCG(gains=gains) @ depth, "rr": ir_measures.RR @ depth, "ap": ir_measures.AP @ depth}[reward]
    return ir_measures.calc_aggregate([measure], qrels, run)[measure]


@settings(max_examples=40)
@given(grades=st.lists(st.integers(0, 3), min_size=2, max_size=7), depth=st.integers(1, 8), data=st.data())
@pytest.mark.parametrize("gain", GAINS)
@pytest.mark.parametrize("reward", REWARDS)
def test_rewards_are_those_of_ir_measures(reward, gain, grades, depth, data):
    order = data.draw(st.permutations(range(len(grades))))
    ours = float(placed_rewards(torch.tensor(grades).float(), torch.tensor([order]), reward, depth, gain).sum())
    if not any(grades):
        assert ours == 0
        return
    theirs = measured(grades, order, "ndcg" if reward == "rearank" else reward, depth, gain)
    if reward == "rearank":  # 0.8 (nDCG - first) / (best - first), but for its constants
        first = measured(grades, range(len(grades)), "ndcg", depth, gain)
        theirs *= 0.8 / (1 - first) if first < 1 - 1e-9 else 1
    if reward == "ap":  # theirs divides by all relevant documents, though no more than `depth` can be found
        relevant = sum(grade > 0 for grade in grades)
        theirs *= relevant / min(relevant, depth)
    assert ours == pytest.approx(theirs, abs=1e-6 * max(1, theirs))


@settings(max_examples=30)
@given(values=SCORES)
def test_the_chances_of_all_orders_add_to_one(values):
    scores = torch.tensor(values, dtype=torch.float64)
    orders = orders_of(len(values))
    chances = order_log_probs(scores, orders).sum(-1).exp()
    assert float(chances.sum()) == pytest.approx(1, abs=1e-9)
    by_hand = math.prod(
        math.exp(values[i]) / sum(math.exp(values[j]) for j in orders[-1].tolist()[at:]) for at, i in enumerate(orders[-1].tolist())
    )
    assert float(chances[-1]) == pytest.approx(by_hand, abs=1e-9)


@pytest.mark.parametrize("gain", GAINS)
@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("reward", REWARDS)
def test_the_expectation_over_sets_is_that_over_orders(reward, depth, gain):
    scores, grades, orders = scores_of(5), torch.tensor([0.0, 2.0, 0.5, 0.0, 1.0]), orders_of(5)
    chances = order_log_probs(scores, orders).sum(-1).exp()
    wanted = (chances * placed_rewards(grades, orders, reward, depth, gain).sum(-1)).sum()
    found = expected_reward(scores, grades, reward, depth, gain)
    assert float(found) == pytest.approx(float(wanted), abs=1e-7)
    ours, theirs = (torch.autograd.grad(value, scores, retain_graph=True)[0] for value in (found, wanted))
    assert torch.allclose(ours, theirs, atol=1e-7) and float(ours.abs().max()) > 1e-3


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("reward", REWARDS)
def test_leave_one_out_sums_to_the_gradient(reward, size):
    """Over every group of orders, with its chance."""
    scores, grades, orders = scores_of(3), torch.tensor([0.0, 2.0, 1.0]), orders_of(3)
    logs = order_log_probs(scores, orders)
    chances = logs.sum(-1).exp().detach()
    rewards = placed_rewards(grades, orders, reward, 2)
    total = torch.zeros(3, dtype=torch.float64)
    for group in product(range(len(orders)), repeat=size):
        rows = list(group)
        weights = policy_weights(rewards[rows], "leave-one-out")
        surrogate = (weights * logs[rows][:, :2]).sum() / size
        total += chances[rows].prod() * torch.autograd.grad(surrogate, scores, retain_graph=True)[0]
    wanted = torch.autograd.grad(expected_reward(scores, grades, reward, 2), scores)[0]
    assert torch.allclose(total, wanted, atol=1e-5)


@pytest.mark.parametrize("advantage", ["leave-one-out", "group"])
def test_sampled_means_lie_around_the_gradient(advantage):
    scores, grades = scores_of(6, 3), torch.tensor([0.0, 0.0, 3.0, 1.0, 0.0, 0.0])
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(400):
        orders = sample_orders(scores, 8, generator)
        weights = policy_weights(placed_rewards(grades, orders, "ndcg", 4), advantage)
        surrogate = (weights * order_log_probs(scores, orders, 4)).sum() / 8
        found.append(torch.autograd.grad(surrogate, scores)[0])
    rows = torch.stack(found)
    wanted = torch.autograd.grad(expected_reward(scores, grades, "ndcg", 4), scores)[0]
    error = rows.std(0) / len(rows) ** 0.5
    if advantage == "leave-one-out":
        assert ((rows.mean(0) - wanted).abs() < 4 * error).all()
    else:  # scaled, so the direction alone is the gradient's
        assert float(torch.nn.functional.cosine_similarity(rows.mean(0), wanted, dim=0)) > 0.98


def test_the_sampler_draws_orders_with_their_chances():
    scores, orders = scores_of(3, 5), orders_of(3)
    drawn = sample_orders(scores, 20000, torch.Generator().manual_seed(1))
    chances = order_log_probs(scores, orders).sum(-1).exp()
    for order, chance in zip(orders, chances.tolist()):
        share = float((drawn == order).all(-1).float().mean())
        assert abs(share - chance) < 4 * (chance * (1 - chance) / 20000) ** 0.5


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_the_divergence_is_that_over_orders(depth):
    scores, before, orders = scores_of(5), scores_of(5, 9).detach(), orders_of(5)
    now, then = (order_log_probs(values, orders) for values in (scores, before))
    wanted = (now.sum(-1).exp() * (now[:, :depth] - then[:, :depth]).sum(-1)).sum()
    assert float(order_kl(scores, before, depth)) == pytest.approx(float(wanted), abs=1e-9)
    assert float(order_kl(scores, scores.detach(), depth)) == pytest.approx(0, abs=1e-12)
    many = scores_of(20)
    first = order_kl(many, scores_of(20, 1).detach(), depth)
    assert float(first) > 0 and torch.isfinite(torch.autograd.grad(first, many)[0]).all()


def test_lists_that_say_nothing_have_no_gradient():
    for grades in (torch.zeros(4), torch.ones(4)):
        scores = scores_of(4)
        assert float(torch.autograd.grad(expected_reward(scores, grades, "ndcg", 10), scores)[0].abs().max()) < 1e-9
        orders = sample_orders(scores, 6, torch.Generator().manual_seed(0))
        assert torch.isfinite(policy_weights(placed_rewards(grades, orders, "ap", 10), "group")).all()


def test_far_scores_stay_finite():
    scores = torch.tensor([400.0, -400.0, 0.0, 399.0], requires_grad=True)
    value = expected_reward(scores, torch.tensor([0.0, 1.0, 0.0, 0.0]), "ndcg", 10)
    assert torch.isfinite(torch.autograd.grad(value, scores)[0]).all() and 0 < float(value) < 1
