"""Check that a model has an embedding for every token of its tokenizer."""

from __future__ import annotations

import logging
from pathlib import Path

from ..errors import ModelError
from .weights import read_json

log = logging.getLogger("prorank")


def check_vocabulary(rows: int, folder: Path) -> None:
    """Compare a tokenizer's ids with a model's number of embeddings.

    Some published models have added tokens (for images, for example) without embeddings, which do not occur in texts. These are
    only logged, unless the tokenizer belongs to an adapter.

    Args:
        rows: number of embeddings.
        folder: folder of the tokenizer.

    Raises:
        ModelError: a token of the base vocabulary, or a token added by an adapter's tokenizer, has no embedding.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return
    values = read_json(path)
    added = [(one.get("id", 0), one.get("content")) for one in values.get("added_tokens") or [] if one.get("id", 0) >= rows]
    beyond = [(index, token) for token, index in _vocabulary(values).items() if index >= rows and (index, token) not in added]
    if not beyond and not added:
        return
    index, token = min(beyond or added)
    what = f"{path}: token {token!r} has the id {index}, and the model has {rows} rows of embeddings"
    if beyond or (folder / "adapter_config.json").is_file():
        raise ModelError(f"{what}; copy the tokenizer that it was trained with, or the weights of the added tokens")
    log.warning("%s; texts must not contain it", what)


def _vocabulary(values: dict) -> dict[str, int]:
    """Return the id of each token from a mapping or from a list of (token, score) by id; empty for other formats."""
    vocabulary = (values.get("model") or {}).get("vocab") or {}
    if isinstance(vocabulary, list):
        return {str(one[0]): index for index, one in enumerate(vocabulary)}
    return vocabulary if isinstance(vocabulary, dict) else {}
