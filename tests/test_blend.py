"""Interpolated weights: the ends are the two checkpoints, the middle lies between, for full weights, adapters and fresh adapters.

Scores are compared, so weights that were not interpolated would be detected.
"""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from prorank.adapt.weight_averaging import interpolate_weights
from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.checkpoints.saving import save_checkpoint
from prorank.checkpoints.weight_hashes import weight_hash
from prorank.errors import ModelError
from prorank.prompts.prompt import Prompt
from prorank.reranker import Reranker
from tests.tiny import byte_tokenizer, save_adapter, save_tiny, tiny_llama

PAIRS = [("where is the garden", text) for text in ("near the river", "bread", "the old doctor 42")]
CPU = torch.device("cpu")


def scores(folder) -> np.ndarray:
    return Reranker(folder, dtype="fp32", max_length=192).score(PAIRS)


def moved(start, out, train: bool, step: float = 0.02):
    """A checkpoint near `start`: with changed weights of the adapter (`train`), or of all weights, merged."""
    resolved = resolve(start)
    model = load_model(resolved, torch.float32, CPU, train=train)
    torch.manual_seed(1)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += step * torch.randn_like(weight)
    encoder = Prompt.preset("prorank", max_length=192).bind(load_tokenizer(resolved))
    return save_checkpoint(out, model, encoder, (resolved.base or str(start), resolved.path))


@pytest.fixture(params=["weights", "adapter", "merged"])
def two(request, tmp_path):
    """(start, trained checkpoint)."""
    base = save_tiny(tmp_path / "base")
    start = base if request.param == "weights" else save_adapter(tmp_path / "start", base)
    return start, moved(start, tmp_path / "trained", train=request.param == "adapter")


def test_the_ends_are_the_two_checkpoints(two, tmp_path):
    start, trained = two
    assert np.abs(scores(start) - scores(trained)).max() > 0.05
    np.testing.assert_allclose(scores(interpolate_weights(resolve(start), trained, tmp_path / "0", 0.0)), scores(start), atol=1e-3)
    assert weight_hash(interpolate_weights(resolve(start), trained, tmp_path / "1", 1.0)) == weight_hash(trained)


def test_between_them_scores_lie_between(two, tmp_path):
    start, trained = two
    half = interpolate_weights(resolve(start), trained, tmp_path / "half", 0.5)
    a, b, c = scores(start), scores(half), scores(trained)
    middle = np.abs(b - (a + c) / 2).max()
    assert middle < 0.5 * np.abs(a - c).max() and np.abs(b - a).max() > 0.01 and np.abs(b - c).max() > 0.01
    assert {path.name for path in half.iterdir()} == {path.name for path in trained.iterdir()}


def test_the_card_of_the_trained_checkpoint_is_not_copied(tmp_path):
    """It describes other weights."""
    start = save_tiny(tmp_path / "base")
    trained = moved(start, tmp_path / "trained", False)
    (trained / "README.md").write_text("# trained\n\n## Other libraries\n\nnone\n")
    assert not (interpolate_weights(resolve(start), trained, tmp_path / "bare", 0.5) / "README.md").exists()
    card = interpolate_weights(resolve(start), trained, tmp_path / "told", 0.5, "# mine\n") / "README.md"
    assert card.read_text() == "# mine\n\n## Other libraries\n\nnone\n"


def test_a_new_adapter_starts_from_zero(tmp_path):
    base = save_tiny(tmp_path / "base")
    trained = save_adapter(tmp_path / "fresh", base)
    np.testing.assert_allclose(scores(interpolate_weights(resolve(base), trained, tmp_path / "0", 0.0)), scores(base), atol=1e-4)
    half = interpolate_weights(resolve(base), trained, tmp_path / "half", 0.5)
    model = load_model(resolve(trained), torch.float32, CPU)
    plain, got = (load_model(resolve(path), torch.float32, CPU) for path in (base, half))
    for a, b, c in zip(plain.parameters(), got.parameters(), model.parameters()):
        torch.testing.assert_close(b, (a + c) / 2, atol=1e-5, rtol=1e-4)


def test_weights_that_the_start_lacks_are_refused_and_nothing_is_left(tmp_path):
    start = save_adapter(tmp_path / "start", save_tiny(tmp_path / "base"))
    tokenizer = byte_tokenizer()
    wide = get_peft_model(tiny_llama(tokenizer), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    other = save_checkpoint(tmp_path / "other", wide, Prompt.preset("prorank").bind(tokenizer), (str(tmp_path / "base"), start))
    with pytest.raises(ModelError, match="is not a weight of the checkpoint that it was trained from"):
        interpolate_weights(resolve(start), other, tmp_path / "out", 0.5)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_several_trainings_are_averaged(tmp_path):
    start = save_adapter(tmp_path / "start", save_tiny(tmp_path / "base"))
    several = [moved(start, tmp_path / f"trained{step}", True, step) for step in (0.01, 0.03, 0.05)]
    mean = interpolate_weights(resolve(start), several, tmp_path / "mean", 0.5)
    before, *trained, resolved = (load_file(folder / "adapter_model.safetensors") for folder in (start, *several, mean))
    for key, weight in resolved.items():
        torch.testing.assert_close(weight, (before[key] + sum(one[key] for one in trained) / 3) / 2)
