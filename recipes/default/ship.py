"""Install a trained run as the package's default model, which `Reranker()` loads.

The old model is replaced only if the bf16 adapter is small enough and reproduces the run's scores within NOISE.

    python recipes/default/ship.py runs/default/score --card card.json
    python recipes/default/ship.py runs/default/score --card card.json --calibration runs/default/score/model/calibration.json

The run's adapter must have the base `smollm2-135m`. CARD is a JSON object with facts that the run folder lacks. Its tables are
lists of objects with the same keys:

    {"data": [{"set": "scifact train", "licence": "CC BY 4.0", "lists": 809}], "commands": ["prorank train …", "…"],
     "figures": [{"list": "dl19", "BM25": 0.506, "this model": 0.7}], "limits": ["More limits than those below."]}
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from prorank.checkpoints import default_model
from prorank.checkpoints.adapters import CONFIG
from prorank.checkpoints.calibration import FILE, Calibration
from prorank.checkpoints.card import HUB_BASE, about_calibration, card_head, card_table
from prorank.checkpoints.default_model import DEFAULT
from prorank.checkpoints.resolve import Resolved, prompt_of, resolve
from prorank.checkpoints.sources import BUILT_IN, built_in
from prorank.checkpoints.weight_hashes import weight_hash
from prorank.checkpoints.weights import ADAPTER
from prorank.errors import ConfigError, ModelError
from prorank.reranker import Reranker
from prorank.utils.config_files import read_values
from prorank.utils.files import atomic_folder
from prorank.utils.terminal import guarded

LIMIT = 10_000_000  # maximum size of the weights in bytes
NOISE = 0.1  # maximum change of log-odds by rounding the adapter to bf16
KEYS = {"data": list, "commands": list, "figures": list}
QUERY = "what is a cat"
DOCUMENTS = [
    "cats are pets", "bread", "The cat (Felis catus) is a small domesticated carnivorous mammal.", "Dogs came earlier.",
    "What is a cat? Ask at the shelter.", "Flour, water, salt and patience make bread. " * 20, "7", "Eine Katze ist ein Haustier.",
]  # fmt: skip
LIMITS = [
    "It is small: compare it with BM25 and with a bi-encoder on your own data (`prorank evaluate`).",
    "English only, like its training data and its prompt.",
    "Documents of more than `chunk_length` tokens (prompt.json) are read in overlapping chunks, of which the best counts.",
    "Probabilities are valid for candidates like those of its calibration data. For other collections (docs/evidence.md, table e),"
    " run `prorank calibrate` on your own labels.",
]
FOLDER_KEYS = ("stage", "base", "data", "dev", "out")  # settings that name local paths; the commands show them


def ship(run: Path, card: Path, calibration: Path | None = None) -> tuple[Path, int, float]:
    """Write the default model's folder from a run.

    Args:
        run: run folder, or its `model` subfolder.
        card: JSON file, see above.
        calibration: calibration.json that was fitted with the run's checkpoint.

    Returns:
        (folder, size of the weights in bytes, largest difference of a score).

    Raises:
        ModelError: there is no adapter, its base is another one, it is too large, or its scores differ. The old folder is kept.
        ConfigError: a key of the card is missing.
    """
    card_data, resolved = _read_card(card), resolve(run)
    sha256 = _base(resolved)
    with atomic_folder(default_model.MODELS / DEFAULT) as folder:
        size = _adapter(resolved.adapter, folder)
        shutil.copyfile(resolved.adapter / "prompt.json", folder / "prompt.json")
        _write(folder / "base.json", {"name": BUILT_IN, "sha256": sha256})
        theirs, ours = (Reranker(path, device="cpu", dtype="fp32") for path in (run, folder))
        changed = _compare(theirs, ours)
        fitted = _calibration(calibration, theirs, ours, folder) if calibration else None
        (folder / "README.md").write_text(_card(card_data, resolved, fitted), encoding="utf-8")
    return default_model.MODELS / DEFAULT, size, changed


def _read_card(card: Path) -> dict[str, Any]:
    """Read and check the card's JSON."""
    card_data = read_values(card, "card")  # JSON is a subset of YAML
    for key, kind in KEYS.items():
        if not isinstance(card_data.get(key), kind) or not card_data[key]:
            raise ConfigError(f"{card}: '{key}' must be a {kind.__name__} that is not empty")
    return card_data


def _base(resolved: Resolved) -> str:
    """Hash of the base's weights. Raises ModelError unless the checkpoint is a pointwise adapter with the pinned base."""
    if resolved.adapter is None:
        raise ModelError(f"{resolved.name}: no adapter; train it with lora, as only adapters are small enough to ship")
    sha256 = weight_hash(resolved.path)
    if sha256 != weight_hash(built_in()):
        raise ModelError(f"{resolved.name}: its base is {resolved.base}, whose weights are not those of {BUILT_IN}")
    if not (resolved.adapter / "prompt.json").is_file() or prompt_of(resolved).kind != "binary":
        raise ModelError(f"{resolved.name}: needs a saved prompt of kind binary, for one document")
    return sha256


def _adapter(source: Path, folder: Path) -> int:
    """Write the adapter in bf16 with the name of its base; returns the size of the weights in bytes."""
    weights = {key: weight.to(torch.bfloat16).contiguous() for key, weight in load_file(source / ADAPTER).items()}
    save_file(weights, folder / ADAPTER, {"format": "pt"})
    (folder / ADAPTER).chmod(0o644)  # safetensors makes files private, and a wheel would keep that mode
    config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()  # peft writes a set in arbitrary order
    _write(folder / CONFIG, config | {"base_model_name_or_path": BUILT_IN, "inference_mode": True})
    size = (folder / ADAPTER).stat().st_size
    if size > LIMIT:
        raise ModelError(f"{source}: {size:,} bytes in bf16, but at most {LIMIT:,} are allowed; train with a lower lora.r")
    return size


def _compare(theirs: Reranker, ours: Reranker) -> float:
    """Return the largest difference of a score. Raises ModelError if rounding cannot explain it."""
    pairs = [(QUERY, document) for document in DOCUMENTS]
    changed = float(np.abs(ours.score(pairs) - theirs.score(pairs)).max())
    if changed > NOISE:
        raise ModelError(f"{theirs.name}: in bf16 a score differs by {changed:.3f}, more than by rounding ({NOISE})")
    return changed


def _calibration(path: Path, theirs: Reranker, ours: Reranker, folder: Path) -> Calibration:
    """Copy the run's calibration for the bf16 adapter, whose scores differ only by rounding."""
    fitted = Calibration.load(path.parent) if path.name == FILE else None
    if fitted is None:
        raise ConfigError(f"{path}: no {FILE}; prorank calibrate {theirs.name} --data D writes one")
    if (fitted.prompt_id, fitted.weights) != (theirs.prompt_fingerprint, theirs.weight_hashes):
        raise ModelError(f"{path}: was fitted for other weights or another prompt than those of {theirs.name}")
    fitted = replace(fitted, weights=ours.weight_hashes)
    fitted.save(folder)
    return fitted


def _card(card_data: dict[str, Any], resolved: Resolved, fitted: Calibration | None) -> str:
    """README.md of the default model."""
    parts = [
        card_head(DEFAULT, HUB_BASE, "apache-2.0").rstrip("\n"),
        f"The default model of ProRank: a LoRA adapter over `{BUILT_IN}` (SmolLM2-135M-Instruct, Apache-2.0), trained with "
        "ProRank's own stages.",
        '```python\nfrom prorank import Reranker\n\nhits = Reranker().rank("a query", ["a document", "another document"])\n```',
        "Scores are raw log-odds of the answer tokens.",
        f"## Figures\n\nnDCG@10.\n\n{card_table(card_data['figures'])}",
        f"## Data\n\n{card_table(card_data['data'])}",
        "## Training\n\n```bash\n" + "\n".join(card_data["commands"]) + "\n```",
    ]
    parts += [f"Settings of the last stage:\n\n```yaml\n{settings}\n```"] if (settings := _settings(resolved)) else []
    parts.append("## Limits\n\n" + "\n".join(f"- {line}" for line in [*LIMITS, *card_data.get("limits", [])]))
    parts.append(f"## Calibration\n\n{_calibration_text(fitted)}")
    return "\n\n".join(parts) + "\n"


def _calibration_text(fitted: Calibration | None) -> str:
    """The card's text on probabilities."""
    return "Hits have no probabilities." if fitted is None else about_calibration(fitted)


def _settings(resolved: Resolved) -> str:
    """The run's settings without local paths, "" if the checkpoint is not in a run folder."""
    path = resolved.adapter.parent / "config.yaml"
    values = read_values(path) if path.is_file() else {}
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in values.items() if key not in FOLDER_KEYS)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main(words: list[str] | None = None) -> None:
    """Install a run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder with a LoRA adapter in its model/")
    parser.add_argument("--card", type=Path, required=True, help="JSON: data, commands, figures, limits")
    parser.add_argument("--calibration", type=Path, help="calibration.json of the run's checkpoint")
    options = parser.parse_args(words)
    with guarded():
        folder, size, changed = ship(options.run, options.card, options.calibration)
    print(f"{folder}: {size:,} bytes of weights; scores differ by at most {changed:.4f} from the run's")


if __name__ == "__main__":
    main()
