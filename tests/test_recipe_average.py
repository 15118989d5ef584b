"""The mean of adapters: exact where the rank suffices, the best of its rank elsewhere, and refused where adapters differ."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prorank.reranker import Reranker
from recipes.default import average as recipe
from recipes.default.average import ADAPTER, CONFIG, average, average_runs, mean_factors
from tests.tiny import save_adapter

PAIRS = [("bread", "there is a bread"), ("bread", "the river"), ("river", "another river and then")]


def factors(count: int, rank: int, shared: bool = False) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    draw = torch.Generator().manual_seed(0)
    first = [torch.randn(rank, 30, generator=draw) for _ in range(1 if shared else count)]
    return first * (count if shared else 1), [torch.randn(20, rank, generator=draw) for _ in range(count)]


def test_the_mean_is_exact_if_the_rank_suffices():
    for a, b in (factors(3, 4, shared=True), factors(1, 4)):
        mean = sum(y @ x for x, y in zip(a, b)) / len(a)
        first, second, lost = mean_factors(a, b, 4)
        assert first.shape == (4, 30) and second.shape == (20, 4)
        torch.testing.assert_close(second @ first, mean, atol=1e-4, rtol=1e-4)
        assert lost < 1e-9


def test_otherwise_it_is_the_best_of_its_rank_and_the_loss_is_told():
    a, b = factors(3, 4)
    mean = sum(y @ x for x, y in zip(a, b)) / 3
    first, second, lost = mean_factors(a, b, 4)
    u, s, v = torch.linalg.svd(mean, full_matrices=False)
    torch.testing.assert_close(second @ first, (u[:, :4] * s[:4]) @ v[:4], atol=1e-4, rtol=1e-4)
    assert lost == pytest.approx(float((s[4:] ** 2).sum() / (s**2).sum()), rel=1e-3) and lost > 0.1


def test_other_layers_are_refused():
    with pytest.raises(recipe.ModelError, match="different layers"):
        average([{"x.lora_A": torch.ones(1, 1)}, {"y.lora_A": torch.ones(1, 1)}], 1)


@pytest.fixture
def runs(tiny_llama_dir, tmp_path):
    for seed in (0, 1):
        save_adapter(tmp_path / f"run{seed}" / "model", tiny_llama_dir, seed=seed)
    return [tmp_path / "run0", tmp_path / "run1"]


def test_the_command_writes_a_checkpoint_that_ranks(runs, tmp_path, capsys):
    recipe.main([*map(str, runs), "--out", str(tmp_path / "mean")])
    assert "mean of 2 adapters; " in capsys.readouterr().out
    scores = [Reranker(folder, dtype="fp32", device="cpu").score(PAIRS) for folder in (*runs, tmp_path / "mean")]
    assert np.isfinite(scores[2]).all() and not np.allclose(scores[2], scores[0], atol=1e-3)
    recipe.main([str(runs[0]), "--out", str(tmp_path / "same")])
    np.testing.assert_allclose(Reranker(tmp_path / "same", dtype="fp32", device="cpu").score(PAIRS), scores[0], atol=1e-3)
    assert load_file(tmp_path / "mean" / "model" / ADAPTER).keys() == load_file(runs[0] / "model" / ADAPTER).keys()


def test_runs_of_another_rank_and_runs_without_an_adapter_are_refused(runs, tiny_llama_dir, tmp_path, capsys):
    config = runs[1] / "model" / CONFIG
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 8}))
    with pytest.raises(recipe.ModelError, match="run1: r of the adapter differ"):
        average_runs(runs, tmp_path / "mean")
    with pytest.raises(SystemExit):
        recipe.main([str(runs[0]), str(tiny_llama_dir), "--out", str(tmp_path / "mean")])
    assert "no adapter" in capsys.readouterr().err and not (tmp_path / "mean").exists()
