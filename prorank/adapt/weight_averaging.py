"""Interpolate weights between a checkpoint and trainings that started from it, which reduces forgetting.

For adapters, the factors are averaged and not their products. For small changes both agree to first order, and the adapter keeps
its rank.

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


def interpolate_weights(start: Resolved, trained: Path | Sequence[Path], out: Path, share: float, card: str | None = None) -> Path:
    """Write (1 - share) * start + share * trained into a folder, atomically.

    Args:
        start: the checkpoint that was trained.
        trained: folder of the trained adapter or weights, in safetensors. The weights of several folders, which differ in their
            weights only, are averaged.
        out: folder to write, replaced if it exists.
        share: share of the trained weights, 0 to 1; 1 copies `trained`, or the mean.
        card: text of README.md. The card of `trained` describes other weights and is not copied.

    Returns:
        `out`.

    Raises:
        ModelError: `trained` has weights that `start` lacks.
    """
    first, *others = [trained] if isinstance(trained, Path) else trained
    with atomic_folder(out) as folder:
        copy_folder(first, folder)
        libraries = section_of(read_card(folder), LIBRARIES)
        (folder / CARD).unlink(missing_ok=True)
        if card:
            write_card(folder, with_section(card, LIBRARIES, libraries))
        files = sorted(folder.glob("*.safetensors"))
        for count, other in enumerate(others, start=1):  # a running mean: `count` folders so far, and one more
            for file in files:
                _interpolate_file(file, load_file(other / file.name), count / (count + 1))
        if share < 1:
            before = _start_weights(start, (first / "adapter_config.json").is_file())
            for file in files:
                _interpolate_file(file, before, share)
    return out


def _start_weights(start: Resolved, adapter: bool) -> dict[str, torch.Tensor]:
    """Return the start's weights by name.

    Args:
        start: the checkpoint that was trained.
        adapter: whether an adapter was trained, not all weights.

    Returns:
        The adapter's weights, empty if it was trained from scratch; or all weights, with the start's adapter merged into them.
    """
    if start.adapter and not adapter:
        return load_model(start, torch.float32, torch.device("cpu")).state_dict()
    if adapter and not start.adapter:
        return {}
    return {key: value for file in sorted(start.folder.glob("*.safetensors")) for key, value in load_file(file).items()}


def _interpolate_file(file: Path, before: dict[str, torch.Tensor], share: float) -> None:
    """Rewrite a safetensors file as (1 - share) * before + share * file.

    Without `before`, the file is an adapter trained from scratch, whose product was 0 at the start. Scaling one factor scales the
    product.
    """
    after = load_file(file)
    if before and (unknown := sorted(after.keys() - before.keys())):
        raise ModelError(f"{file}: {unknown[0]} is not a weight of the checkpoint that it was trained from; use --blend 1")
    for key, weight in after.items():
        if before:
            after[key] = torch.lerp(before[key].float(), weight.float(), share).to(weight.dtype)
        elif "lora_B" in key:
            after[key] = weight * share
    save_file(after, file, {"format": "pt"})
