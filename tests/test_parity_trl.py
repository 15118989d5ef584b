"""The warm-up's gradient against that of TRL's GRPOTrainer, through both trainers whole (prompts, rewards, advantages, loss).

TRL estimates the KL from the drawn tokens while ours is exact, so single gradients are compared where the policy
still equals the reference (both KL gradients are 0 there); the last test covers the KL term in expectation.
"""

from pathlib import Path

import pytest
import torch

from prorank.checkpoints.loading import load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.prompts.prompt import Prompt
from prorank.train.objectives.one_token_grpo import exact_kl

pytest.importorskip("trl", reason="needs the extra [bench]")

from benchmarks.speed import warmup_vs_trl as bench  # noqa: E402


@pytest.fixture(params=["tiny_llama_dir", "tiny_qwen2_dir"])
def task(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bench.Task:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    resolved = resolve(request.getfixturevalue(request.param))
    bound = Prompt.preset("prorank", max_length=512).bind(load_tokenizer(resolved))
    groups = bench.make_groups(bound, 2, 260, seed=1)
    return bench.Task(resolved, bound, groups, num_generations=8, beta=0.02, batch=2)


def test_gradients_are_trls_for_the_same_samples(task: bench.Task, tmp_path: Path):
    found = bench.compare_gradients(task, tmp_path)
    assert found["norm"] > 1e-3
    assert found["relative"] < 1e-4
    assert found["worst_tensor"] < 1e-3


def test_other_samples_give_another_gradient(task: bench.Task, tmp_path: Path):
    no, yes = task.encoder.answer_ids
    some = {text: [yes] * 4 + [no] * 4 for text in task.texts}
    other = {text: [yes] * 4 + [no] * 3 + [yes + 1] for text in task.texts}  # one answer less
    first, second = (
        bench.train_trl(task, False, str(tmp_path / name), samples).gradients
        for name, samples in (("some", some), ("other", other))
    )
    apart = sum(float((first[n] - second[n]).norm() ** 2) for n in first) ** 0.5
    assert apart > 0.01 * sum(float(g.norm() ** 2) for g in first.values()) ** 0.5


def test_exact_kl_has_the_gradient_that_trls_estimate_has_on_average():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 6, generator=generator, requires_grad=True)
    reference = torch.randn(1, 6, generator=generator).log_softmax(-1)

    def estimate(corrected: bool) -> torch.Tensor:
        now = logits.log_softmax(-1)
        gap = reference - now
        k3 = gap.exp() - gap - 1  # GRPOTrainer's per-token KL
        ratio = (now - now.detach()).exp() if corrected else 1.0  # use_bias_correction_kl
        return (now.detach().exp() * ratio * k3).sum()  # over all tokens by their probability: the mean over samples

    wanted = torch.autograd.grad(exact_kl(logits, reference).sum(), logits)[0]
    corrected, plain = (torch.autograd.grad(estimate(flag), logits)[0] for flag in (True, False))
    torch.testing.assert_close(corrected, wanted, rtol=1e-4, atol=1e-5)
    assert (plain - wanted).norm() > 0.1 * wanted.norm()
