"""`recipes/default/ship.py`: what it writes, and that anything amiss leaves the model of before in its place.

The base here is a tiny one that lies where the pinned base is looked for.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open

from prorank.checkpoints import default_model
from prorank.checkpoints.calibration import Calibration
from prorank.checkpoints.default_model import DEFAULT
from prorank.checkpoints.resolve import resolve
from prorank.checkpoints.saving import save_checkpoint
from prorank.checkpoints.weight_hashes import weight_hash
from prorank.reranker import Reranker
from recipes.default import ship as module
from recipes.default.ship import main
from tests.tiny import save_adapter, save_tiny

PAIRS = [("what is a cat", "cats are pets"), ("what is a cat", "bread")]


@pytest.fixture
def place(standin, tmp_path, monkeypatch):
    """An empty place to ship to."""
    monkeypatch.setattr(default_model, "MODELS", tmp_path / "models")
    return standin


def fails(capsys, words: list, message: str) -> None:
    """The script ends with code 2 and one line, and nothing is default_model."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and message in said and len(said.strip().splitlines()) == 1, said
    assert not (default_model.MODELS / DEFAULT).exists() and not list(default_model.MODELS.glob(".*"))


def test_a_run_becomes_the_default_model(place, capsys):
    main([str(place.run), "--card", str(place.card)])
    folder = default_model.MODELS / DEFAULT
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "base.json", "prompt.json",
    }  # fmt: skip
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as weights:
        assert {weights.get_tensor(key).dtype for key in weights.keys()} == {torch.bfloat16}
    assert json.loads((folder / "base.json").read_text())["sha256"] == weight_hash(place.cache / "smollm2-135m")
    config = (folder / "adapter_config.json").read_text()
    assert json.loads(config)["base_model_name_or_path"] == "smollm2-135m" and str(place.cache) not in config
    assert (folder / "prompt.json").read_bytes() == (place.run / "model" / "prompt.json").read_bytes()
    size = (folder / "adapter_model.safetensors").stat().st_size
    assert f"{size:,} bytes of weights; scores differ by at most 0.0" in capsys.readouterr().out
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.iterdir())


def test_the_card_contains_its_json(place):
    told = json.loads(place.card.read_text()) | {"limits": ["Knows nothing of tea."]}
    place_card = default_model.MODELS.parent / "card.json"
    place_card.write_text(json.dumps(told))
    main([str(place.run), "--card", str(place_card)])
    text = (default_model.MODELS / DEFAULT / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\nlibrary_name: prorank\nbase_model: HuggingFaceTB/SmolLM2-135M-Instruct\nlicense: apache-2.0\n")
    for part in ("| toy | 0.5 |", "| toy | none |", "prorank train x.yaml", "list_size: 5", "- Knows nothing of tea."):
        assert part in text
    assert "lists.jsonl" not in text and "Hits have no probabilities." in text


def test_shipping_again_replaces_it_and_gives_the_same_bytes(place):
    def shipped_bytes():
        main([str(place.run), "--card", str(place.card)])
        return {path.name: path.read_bytes() for path in (default_model.MODELS / DEFAULT).iterdir()}

    assert shipped_bytes() == shipped_bytes()


def test_a_calibration_goes_along_and_holds_for_the_rounded_weights(place, tmp_path):
    run = shutil.copytree(place.run, tmp_path / "run")
    theirs = Reranker(run, dtype="fp32")
    fitted = Calibration(
        "platt",
        {"slope": 0.5, "intercept": -1.0},
        theirs.prompt_fingerprint,
        theirs.weight_hashes,
        before={"ece": 0.2},
        after={"ece": 0.05},
    )
    path = fitted.save(run / "model")
    main([str(run), "--card", str(place.card), "--calibration", str(path)])
    hits = Reranker(dtype="fp32").rank(PAIRS[0][0], [text for _, text in PAIRS])
    assert [hit.probability for hit in hits] == pytest.approx([fitted.apply(np.array(hit.score)) for hit in hits])
    text = (default_model.MODELS / DEFAULT / "README.md").read_text()
    assert "platt, slope 0.5, intercept -1; ECE on held-out queries 0.2000 before, 0.0500 after" in text


def test_calibrations_of_other_weights_are_refused(place, tmp_path, capsys):
    asked = Reranker(place.run, dtype="fp32").prompt_fingerprint
    path = Calibration("temperature", {"temperature": 2.0}, asked, ["other"]).save(tmp_path)
    words = [place.run, "--card", place.card, "--calibration"]
    fails(capsys, [*words, path], "was fitted for other weights or another prompt")
    fails(capsys, [*words, tmp_path / "none.json"], "no calibration.json; prorank calibrate")


def test_invalid_runs_are_not_shipped(place, tmp_path, capsys, monkeypatch):
    card = ["--card", place.card]
    fails(capsys, [place.cache / "smollm2-135m", *card], "no adapter; train it with lora")
    other = save_adapter(tmp_path / "other", save_tiny(tmp_path / "base", seed=3))
    fails(capsys, [other, *card], "whose weights are not those of smollm2-135m")
    lists = save_lists(tmp_path / "lists", place)
    fails(capsys, [lists, *card], "needs a saved prompt of kind binary, for one document")
    fails(capsys, [tmp_path / "none", *card], "no such folder or file")
    monkeypatch.setattr(module, "LIMIT", 1000)
    fails(capsys, [place.run, *card], "bytes in bf16, but at most 1,000 are allowed; train with a lower lora.r")


def save_lists(folder, place):
    """The run's adapter with a prompt of several documents."""
    from prorank.checkpoints.loading import load_model, load_tokenizer
    from prorank.prompts.prompt import Prompt

    found = resolve(place.run)
    model = load_model(found, torch.float32, torch.device("cpu"), train=True)
    bound = Prompt.preset("setwise").bind_list(load_tokenizer(found))
    return save_checkpoint(folder, model, bound, ("smollm2-135m", found.path))


def test_scores_that_change_too_much_prevent_shipping(place, capsys, monkeypatch):
    monkeypatch.setattr(module, "NOISE", -1.0)
    fails(capsys, [place.run, "--card", place.card], "in bf16 a score differs by 0.0")


@pytest.mark.parametrize("key", ["data", "commands", "figures"])
def test_a_card_that_lacks_something_is_named(place, tmp_path, capsys, key):
    told = json.loads(place.card.read_text())
    (tmp_path / "card.json").write_text(json.dumps(told | {key: []}))
    fails(capsys, [place.run, "--card", tmp_path / "card.json"], f"card.json: '{key}' must be a list that is not empty")
    fails(capsys, [place.run, "--card", tmp_path / "none.json"], "none.json: no such card file")
