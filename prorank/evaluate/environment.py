"""Command, machine and package versions of an evaluation."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..utils.hardware import processor_name

PACKAGES = ("prorank", "torch", "transformers", "numpy", "ir-measures", "pytrec-eval-terrier", "bm25s", "PyStemmer")


def environment(command: str) -> dict[str, Any]:
    """Return command, date, machine and package versions, without host and user names."""
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "accelerator": _accelerator(),
        "packages": {name: number for name, number in versions.items() if number},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _accelerator() -> str | None:
    """Return the GPU's name if torch is loaded; importing torch only for this would take seconds."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name(0) if torch is not None and torch.cuda.is_available() else None
