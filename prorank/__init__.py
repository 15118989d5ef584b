"""ProRank: train a small language model to rerank, then run it fast, anywhere.

Hard fact: importing this package loads no model and no torch; the public names arrive when they are first used.
"""

from importlib import import_module

__version__ = "0.1.0"
_HOMES = {
    "Reranker": ".reranker",
    "Hit": ".reranker",
    "Prompt": ".prompt",
    "evaluate": ".evaluate.benchmark",
    "train": ".train.run",
    "load_settings": ".train.config",
    "ProRankError": ".errors",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module 'prorank' has no attribute '{name}'")
