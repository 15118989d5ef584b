"""Weights between a checkpoint and what trainings made of it: what was learned stays in good part, and so does what was known.

Of an adapter the factors are averaged, not their products; where training moved them little that is the same to first
order, and the adapter keeps its rank.

Source: Wortsman et al., Robust fine-tuning of zero-shot models (2022); for retrieval Xiao et al., LM-Cocktail (arXiv 2311.13534).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..checkpoints.card import FILE as CARD
from ..checkpoints.card import LIBRARIES, read_card, section_of, with_section, write_card
from ..checkpoints.loading import load_model
from ..checkpoints.resolve import Resolved
from ..errors import ModelError
from ..utils.files import atomic_folder, copy_folder


def blend(start: Resolved, trained: Path | Sequence[Path], out: Path, share: float, card: str | None = None) -> Path:
    """Copy the folder `trained` to `out`, with `share` of its weights and the rest those of `start`; whole or not at all.

    Args:
        start: the checkpoint that was trained.
        trained: folder of what came of it: an adapter, or all weights, in safetensors; of several, alike but for their weights,
            the mean is taken.
        out: folder to write, replaced if it exists.
        share: 0..1; 1 is a plain copy, or the mean.
        card: text of README.md; that of `trained` tells of other weights and stays behind.

    Raises:
        ModelError: `trained` has weights that `start` lacks.
    """
    first, *others = [trained] if isinstance(trained, Path) else trained
    with atomic_folder(out) as folder:
        copy_folder(first, folder)
        about = section_of(read_card(folder), LIBRARIES)
        (folder / CARD).unlink(missing_ok=True)
        if card:
            write_card(folder, with_section(card, LIBRARIES, about))
        files = sorted(folder.glob("*.safetensors"))
        for count, other in enumerate(others, start=1):  # the mean of `count` folders, and one more
            for file in files:
                _blend(file, load_file(other / file.name), count / (count + 1))
        if share < 1:
            before = _before(start, (first / "adapter_config.json").is_file())
            for file in files:
                _blend(file, before, share)
    return out


def _before(start: Resolved, adapter: bool) -> dict[str, torch.Tensor]:
    """The start's weights by name: an adapter's (none where a fresh one was trained), or all, an adapter merged into them."""
    if start.adapter and not adapter:
        return load_model(start, torch.float32, torch.device("cpu")).state_dict()
    if adapter and not start.adapter:
        return {}
    return {key: value for file in sorted(start.folder.glob("*.safetensors")) for key, value in load_file(file).items()}


def _blend(file: Path, before: dict[str, torch.Tensor], share: float) -> None:
    """Rewrite a file of weights. A fresh adapter began as nothing: scaling one of its factors scales its product."""
    after = load_file(file)
    if before and (unknown := sorted(after.keys() - before.keys())):
        raise ModelError(f"{file}: {unknown[0]} is not among the weights of the checkpoint it was trained from; blend nothing (1)")
    for key, weight in after.items():
        if before:
            after[key] = torch.lerp(before[key].float(), weight.float(), share).to(weight.dtype)
        elif "lora_B" in key:
            after[key] = weight * share
    save_file(after, file, {"format": "pt"})
