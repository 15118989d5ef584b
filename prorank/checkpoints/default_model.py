"""The default model, which comes with the package: a LoRA adapter over `smollm2-135m`, loaded by `Reranker()`.

Its folder contains the adapter only. Tokenizer and base are those of `smollm2-135m`, which is downloaded and converted once.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelError

DEFAULT = "prorank-smollm2-135m"
MODELS = Path(__file__).parent.parent / "models"
NEEDED = ("adapter_config.json", "adapter_model.safetensors", "base.json", "prompt.json")


def default_model() -> Path:
    """Return the folder of the default model's adapter. Raises ModelError if the installation lacks it."""
    folder = MODELS / DEFAULT
    missing = next((name for name in NEEDED if not (folder / name).is_file()), None)
    if missing:
        raise ModelError(
            f"{DEFAULT}: this installation of prorank lacks its default model ({folder / missing} is missing); install a release "
            f"that has it, or name a checkpoint, such as the one that prorank demo trains (runs/demo/score)"
        )
    return folder
