"""Download packages with pip, from the indexes configured for pip or uv.

Environments made by uv have no pip. Then the pip bundled with Python (`ensurepip`) is unpacked into a temporary folder.
"""

from __future__ import annotations

import importlib.machinery
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

# Notices that pip prints after the reason of a failure.
NOTICE = re.compile(r"^(\[notice\]|notice:|WARNING: You are using pip|You should consider upgrading|hint:|$)", re.I)
NAMED = re.compile(r"^[\w-]+=(?=\w+://)")  # uv may name an index: NAME=ADDRESS
UV_VARIABLES = {"PIP_INDEX_URL": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"), "PIP_EXTRA_INDEX_URL": ("UV_INDEX", "UV_EXTRA_INDEX_URL")}


def download(arguments: list[str], into: Path) -> str | None:
    """Run `pip download` with these arguments.

    Args:
        arguments: packages and options.
        into: folder for the files.

    Returns:
        None, or one line with the reason of the failure.
    """
    with tempfile.TemporaryDirectory() as own:
        site = "" if _has_pip() else _carried(Path(own))
        if site is None:
            return "this environment has neither pip nor Python's ensurepip; install pip, for example with 'uv pip install pip'"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]
        done = subprocess.run([*command, "-d", str(into), *arguments], capture_output=True, text=True, env=_environment(site))
    return reason(done.stderr or done.stdout) if done.returncode else None


def reason(output: str) -> str:
    """Extract the reason of a failure from pip's output: its errors, preceded by connection problems."""
    lines = [line for line in map(str.strip, output.splitlines()) if not NOTICE.match(line)]
    broken = [line for line in lines if "connection broken by" in line]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    messages = [line.removeprefix("WARNING: ") for line in broken[-1:]] + errors[:1]
    return "; ".join(messages or lines[-1:] or ["no message"])


def _has_pip() -> bool:
    """Whether this environment has pip.

    `importlib.util.find_spec("pip")` would also call setuptools' import hook, which assumes that pip starts in this process and
    breaks later imports of setuptools, on which `torch.compile` depends.
    """
    return importlib.machinery.PathFinder.find_spec("pip") is not None


def _carried(folder: Path) -> str | None:
    """Unpack the pip bundled with Python below `folder` and return its path; None if there is none."""
    done = subprocess.run([sys.executable, "-m", "ensurepip", "--root", str(folder)], capture_output=True, text=True)
    pip = next(folder.rglob("pip/__main__.py"), None)
    return None if done.returncode or pip is None else str(pip.parent.parent)


def _environment(site: str) -> dict[str, str]:
    """Environment variables for pip: ours, with `site` on the import path, and uv's indexes if pip has none of its own."""
    variables = dict(os.environ)
    if site:
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [site, variables.get("PYTHONPATH")]))
    for name, value in _uv_indexes(variables).items():
        variables.setdefault(name, value)
    return variables


def _uv_indexes(variables: dict[str, str]) -> dict[str, str]:
    """PIP_INDEX_URL and PIP_EXTRA_INDEX_URL from uv's variables, else from its uv.toml."""
    indexes = {ours: next((variables[name] for name in theirs if variables.get(name)), "") for ours, theirs in UV_VARIABLES.items()}
    indexes = {ours: " ".join(NAMED.sub("", part) for part in value.split()) for ours, value in indexes.items() if value}
    return indexes or _uv_file(variables)


def _uv_file(variables: dict[str, str]) -> dict[str, str]:
    """PIP_INDEX_URL and PIP_EXTRA_INDEX_URL from the first readable uv.toml of the user or the system."""
    home = variables.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    for path in filter(None, (variables.get("UV_CONFIG_FILE"), f"{home}/uv/uv.toml", "/etc/uv/uv.toml")):
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return _of_toml(values)
    return {}


def _of_toml(values: dict[str, Any]) -> dict[str, str]:
    """PIP_INDEX_URL and PIP_EXTRA_INDEX_URL from [[index]] tables, or from the two older keys."""
    indexes = [one for one in values.get("index", []) if isinstance(one, dict) and one.get("url")]
    older = next((value for key, value in values.items() if key.startswith("index-")), None)
    main = next((one["url"] for one in indexes if one.get("default")), older)
    more = [one["url"] for one in indexes if not one.get("default")]
    more += next((value for key, value in values.items() if key.startswith("extra-index-")), [])
    return {name: value for name, value in (("PIP_INDEX_URL", main), ("PIP_EXTRA_INDEX_URL", " ".join(more))) if value}
