"""ProRank trains small language models to rerank, and runs them on CPUs and GPUs.

Importing this package loads neither models nor torch; public names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapt.adaptation import adapt
    from .calibrate.calibration_run import calibrate
    from .errors import ProRankError
    from .evaluate.benchmark import evaluate
    from .export.exporter import export
    from .prompts.prompt import Prompt
    from .reranker import Hit, Reranker
    from .search.searcher import Searcher
    from .train.run import train
    from .train.settings.stage_settings import load_settings

__version__ = "0.1.0"
_HOMES = {
    "Reranker": ".reranker",
    "Hit": ".reranker",
    "Prompt": ".prompts.prompt",
    "Searcher": ".search.searcher",
    "load_settings": ".train.settings.stage_settings",
    "ProRankError": ".errors",
}
_CALLABLE = ("adapt", "calibrate", "evaluate", "export", "train")  # subpackages that can be called as functions
__all__ = [
    "Hit", "ProRankError", "Prompt", "Reranker", "Searcher", "__version__",
    "adapt", "calibrate", "evaluate", "export", "load_settings", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _CALLABLE:
        return import_module(f".{name}", __name__)
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module 'prorank' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
