"""The demo: train and measure a small reranker in minutes. `prorank.demo.semanlink` is its task, `run_demo` runs it.

`run_demo` is imported when it is first used, so that the task can be read without torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .walkthrough import run_demo

__all__ = ["run_demo"]


def __getattr__(name: str) -> Any:
    if name == "run_demo":
        from .walkthrough import run_demo

        return run_demo
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
