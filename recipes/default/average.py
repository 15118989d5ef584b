"""Average the adapters of several runs into one of the same rank ("model soup", arXiv 2203.05482).

    python -m recipes.default.average runs/default/a runs/default/b --out runs/default/average

The mean of the products B A has a higher rank than each of them; the best approximation of the runs' rank is kept. Runs that
began from the same adapter stay so close that little is lost; the lost share of the squared norm is printed.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from prorank.checkpoints.adapters import CONFIG
from prorank.checkpoints.resolve import resolve
from prorank.checkpoints.weights import ADAPTER
from prorank.errors import ModelError
from prorank.utils.files import atomic_folder
from prorank.utils.terminal import guarded

Weights = dict[str, torch.Tensor]


def mean_factors(
    first: Sequence[torch.Tensor], second: Sequence[torch.Tensor], rank: int
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return the factors of the mean of products, cut to a rank, and the lost share of the squared norm.

    Args:
        first: factors A [r, in] of each adapter.
        second: factors B [out, r] of each adapter.
        rank: of the result.

    Returns:
        (A [rank, in], B [out, rank], lost share 0 to 1).
    """
    joined_a, joined_b = torch.cat(list(first), 0), torch.cat(list(second), 1) / len(first)
    q_b, r_b = torch.linalg.qr(joined_b)
    q_a, r_a = torch.linalg.qr(joined_a.T)
    u, s, v = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)  # of a small matrix, whatever the layer's size
    root = s[:rank].sqrt()
    lost = float((s[rank:] ** 2).sum() / (s**2).sum().clamp(min=torch.finfo(s.dtype).tiny))
    return root[:, None] * (v[:rank] @ q_a.T), (q_b @ u[:, :rank]) * root, lost


def average(adapters: Sequence[Weights], rank: int) -> tuple[Weights, float]:
    """Return the mean adapter and the largest lost share of a layer. Raises ModelError if the adapters differ in their layers."""
    if any(one.keys() != adapters[0].keys() for one in adapters):
        raise ModelError("the adapters are of different layers")
    made: Weights = {}
    lost = 0.0
    for key in (key for key in adapters[0] if "lora_A" in key):
        other = key.replace("lora_A", "lora_B")
        a, b, share = mean_factors([one[key].float() for one in adapters], [one[other].float() for one in adapters], rank)
        made |= {key: a.contiguous(), other: b.contiguous()}
        lost = max(lost, share)
    return made, lost


def average_runs(runs: Sequence[Path], out: Path) -> float:
    """Write `<out>/model`, the first run's checkpoint with the mean adapter.

    Returns:
        The largest lost share of a layer.

    Raises:
        ModelError: a run has no adapter, or rank, scale, layers or base differ.
    """
    folders = [resolve(run).adapter for run in runs]
    if None in folders:
        raise ModelError(f"{runs[folders.index(None)]}: no adapter")
    configs = [json.loads((folder / CONFIG).read_text(encoding="utf-8")) for folder in folders if folder]
    for run, config in zip(runs, configs):
        differing = [key for key in ("r", "lora_alpha", "base_model_name_or_path") if config[key] != configs[0][key]]
        if differing:
            raise ModelError(f"{run}: {', '.join(differing)} of the adapter differ from those of {runs[0]}")
    made, lost = average([load_file(folder / ADAPTER) for folder in folders if folder], configs[0]["r"])
    with atomic_folder(out / "model") as folder:
        shutil.copytree(folders[0], folder, dirs_exist_ok=True)
        (folder / "calibration.json").unlink(missing_ok=True)  # it was fitted for other weights
        save_file(made, folder / ADAPTER, {"format": "pt"})
    return lost


def main(words: list[str] | None = None) -> None:
    """Average runs from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    options = parser.parse_args(words)
    with guarded():
        lost = average_runs(options.runs, options.out)
    print(f"{options.out}/model: mean of {len(options.runs)} adapters; {lost:.2%} of the squared norm of a layer is lost at most")


if __name__ == "__main__":
    main()
