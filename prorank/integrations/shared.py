"""What all integrations do alike: take a Reranker or make one.

One Reranker can serve several of them at once; its calls take turns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..reranker import Reranker

Model = str | Path | Reranker


def reranker_of(model: Model, options: dict[str, Any]) -> Reranker:
    """The Reranker itself, or the one of a checkpoint's name with these options. Raises ConfigError for options of a Reranker that
    is there already; what Reranker raises."""
    if not isinstance(model, Reranker):
        return Reranker(model, **options)
    if options:
        raise ConfigError(f"option '{next(iter(options))}' comes too late for a Reranker; give it where the Reranker is made")
    return model
