"""The closed-form group gradient against sampling, against the sum over compositions, and against the analytic gradient.

The toy policy is a softmax over six tokens, so every expectation here can be enumerated.
"""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank.errors import ConfigError
from prorank.train.objectives import one_token_grpo as policy

ANSWERS, NEAR = (0, 1), [2]
REWARDS = policy.Rewards()


def toy(seed: int) -> torch.Tensor:
    return torch.randn(1, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def exact_gradient(logits: torch.Tensor, label: int, size: int, scaling: str) -> torch.Tensor:
    log_p = policy.class_log_probs(logits, torch.tensor([label]), ANSWERS, NEAR)
    weights = policy.expected_weights(log_p, REWARDS.of_classes(), size, scaling).double()
    return torch.autograd.grad((weights * log_p).sum(), logits)[0][0]


def group_gradient(logits: torch.Tensor, tokens: torch.Tensor, label: int, scaling: str) -> torch.Tensor:
    """What a general GRPO trainer computes for one drawn group [G]."""
    rewards = policy.rewards_of_tokens(tokens[None], torch.tensor([label]), ANSWERS, NEAR, REWARDS.of_classes())
    gains = policy.advantages(rewards.double(), scaling)
    now = logits.log_softmax(-1).gather(1, tokens[None])
    return torch.autograd.grad(policy.clipped_surrogate(now, now.detach(), gains, 0.2).mean(), logits)[0][0]


def analytic_policy_gradient(logits: torch.Tensor, label: int) -> torch.Tensor:
    """d E[r] / d logits of a softmax policy: p * (r - E[r])."""
    tokens = torch.arange(6)[None]
    r = policy.rewards_of_tokens(tokens, torch.tensor([label]), ANSWERS, NEAR, REWARDS.of_classes())[0].double()
    p = logits.softmax(-1)[0].detach()
    return p * (r - (p * r).sum())


@pytest.mark.parametrize("size", [2, 5, 8])
@given(seed=st.integers(0, 10_000), label=st.integers(0, 1))
@settings(max_examples=25)
def test_leave_one_out_is_the_policy_gradient(size, seed, label):
    logits = toy(seed)
    expected = analytic_policy_gradient(logits, label)
    torch.testing.assert_close(exact_gradient(logits, label, size, "leave-one-out"), expected, atol=1e-6, rtol=1e-5)


@given(seed=st.integers(0, 10_000), label=st.integers(0, 1))
@settings(max_examples=8, derandomize=True)
def test_sampled_mean_is_exact_within_four_standard_errors(seed, label):
    logits, generator = toy(seed), torch.Generator().manual_seed(seed)
    draws = 4000
    tokens = torch.stack([policy.sample_tokens(logits[0], 4, generator, ANSWERS, 0.0) for _ in range(draws)])
    rewards = policy.rewards_of_tokens(tokens, torch.full((draws,), label), ANSWERS, NEAR, REWARDS.of_classes())
    gains = policy.advantages(rewards.double(), "leave-one-out")
    # d log p(a) / d logits = onehot(a) - p, so the gradients of all groups at once are:
    onehot = torch.nn.functional.one_hot(tokens, 6).double() - logits.softmax(-1).detach()
    gradients = (gains[..., None] * onehot).mean(1)  # [draws, 6]
    error = gradients.std(0) / draws**0.5
    assert ((gradients.mean(0) - exact_gradient(logits, label, 4, "leave-one-out")).abs() <= 4 * error + 1e-9).all()


@pytest.mark.parametrize("scaling", ["group", "none", "leave-one-out"])
@given(seed=st.integers(0, 10_000), label=st.integers(0, 1))
@settings(max_examples=5)
def test_exact_is_the_sum_over_all_groups(scaling, seed, label):
    logits, size = toy(seed), 3
    p = logits.softmax(-1)[0].detach()
    total = torch.zeros(6, dtype=torch.float64)
    for group in product(range(6), repeat=size):
        tokens = torch.tensor(group)
        total += p[tokens].prod() * group_gradient(logits, tokens, label, scaling)
    torch.testing.assert_close(exact_gradient(logits, label, size, scaling), total, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("scaling", ["group", "none", "leave-one-out"])
def test_closed_form_is_the_limit_of_large_groups(scaling):
    logits = toy(3)
    limit = exact_gradient(logits, 1, 0, scaling)
    gaps = [(exact_gradient(logits, 1, size, scaling) - limit).abs().max() for size in (4, 16, 64)]
    assert gaps[-1] <= 0.05 * limit.abs().max()
    assert gaps == sorted(gaps, reverse=True) or gaps[0] < 1e-6  # without scaling leave-one-out is the limit at every G


def test_kl_gradient_is_exact():
    logits, reference = toy(1), toy(2).detach()
    p, q = logits.softmax(-1), reference.softmax(-1)
    by_hand = (p * (p / q).log()).sum()
    torch.testing.assert_close(policy.exact_kl(logits, reference)[0], by_hand)
    assert policy.exact_kl(reference, reference).abs().max() < 1e-12


def test_forced_answers_give_a_silent_model_a_gradient():
    logits = torch.tensor([[-40.0, -40.0, -40.0, 5.0, 0.0, 0.0]], dtype=torch.float64).requires_grad_()
    log_p = policy.class_log_probs(logits, torch.tensor([1]), ANSWERS, NEAR)
    gradients = []
    for force in (0.0, 0.25):
        weights = policy.expected_weights(policy.exploration_policy(log_p, force), REWARDS.of_classes(), 8, "group").double()
        gradients.append(torch.autograd.grad((weights * log_p).sum(), logits, retain_graph=True)[0].norm())
    assert gradients[0] < 1e-6 < 0.01 < gradients[1]


def test_clip_stops_the_gradient_of_a_ratio_that_went_too_far():
    old = torch.tensor([0.0])
    for now, weight, moves in ((0.5, 1.0, False), (0.5, -1.0, True), (-0.5, -1.0, False), (0.0, 1.0, True)):
        value = torch.tensor([now], requires_grad=True)
        gradient = torch.autograd.grad(policy.clipped_surrogate(value, old, torch.tensor([weight]), 0.2).sum(), value)[0]
        assert bool(gradient.abs() > 0) == moves


def test_unknown_scaling_is_named():
    with pytest.raises(ConfigError, match="scale_rewards 'median' is not known; valid: group, batch, none, leave-one-out"):
        policy.advantages(torch.ones(2, 4), "median")


@pytest.mark.parametrize("scaling", ["group", "none", "leave-one-out"])
def test_labels_of_several_documents_have_the_exact_gradient_too(scaling):
    """Five answers, of which this prompt has three: the closed form is the mean over all groups of two tokens."""
    ids, near, label, size = [1, 2, 3, 4, 5], [6], torch.tensor([2]), 2
    logits = torch.randn(1, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64).requires_grad_()
    counts, values = torch.tensor([3]), REWARDS.of_classes()
    log_p = policy.class_log_probs(logits, label, ids, near, counts)
    assert torch.allclose(log_p.exp().sum(1), torch.ones(1, dtype=torch.float64))
    weights = policy.expected_weights(log_p, values, size, scaling)
    exact = torch.autograd.grad((weights * log_p).sum(), logits)[0]
    logs, total = logits.log_softmax(-1)[0], torch.zeros(1, 8, dtype=torch.float64)
    for tokens in product(range(8), repeat=size):
        group = torch.tensor([tokens])
        rewards = policy.rewards_of_tokens(group, label, ids, near, values, counts)
        gains = policy.advantages(rewards, scaling)[0]
        chance = logs[list(tokens)].sum().exp().detach()
        total += chance * torch.autograd.grad((gains * logs[list(tokens)]).mean(), logits, retain_graph=True)[0]
    assert torch.allclose(exact, total, atol=1e-6)
    right = policy.rewards_of_tokens(torch.tensor([[3, 1, 4, 6, 0]]), label, ids, near, values, counts)[0]
    assert right.tolist() == [values[0], values[1], values[3], values[2], values[3]]


def test_forced_draws_are_spread_over_the_answers_of_each_prompt():
    log_p = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]]).log()
    found = policy.exploration_policy(log_p, 1.0 - 1e-9, torch.tensor([5, 2])).exp()
    assert torch.allclose(found[:, :2], torch.tensor([[0.2, 0.8], [0.5, 0.5]]), atol=1e-6)
