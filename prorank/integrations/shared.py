"""What all integrations share: they accept a Reranker or the name of a checkpoint.

Several integrations can share one Reranker; its calls take turns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..reranker import Reranker

ModelOrReranker = str | Path | Reranker


def as_reranker(model: ModelOrReranker, options: dict[str, Any]) -> Reranker:
    """Return a Reranker unchanged, or load a checkpoint as one.

    Args:
        model: a Reranker, or a checkpoint as Reranker accepts it.
        options: arguments of Reranker, for a checkpoint only.

    Raises:
        ConfigError: options for a Reranker that already exists.
        ModelError: the checkpoint cannot be loaded; see `Reranker`.
    """
    if not isinstance(model, Reranker):
        return Reranker(model, **options)
    if options:
        raise ConfigError(f"option '{next(iter(options))}' comes too late for a Reranker; give it where the Reranker is made")
    return model
