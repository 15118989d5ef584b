"""The demo: search the Django documentation with the default model, adapt it, and train one. `run_demo` runs it.

`run_demo` is imported when it is first used, so that its task, and `semanlink` of the recipes, can be read without torch.
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
