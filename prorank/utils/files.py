"""File functions that the whole package uses, and the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ConfigError
from .reading import STDIN, can_be_read, numbered_lines, parse_json, read_text, repeatable_lines, source_name, text_lines
from .targets import check_file, check_folder, check_neighbour, is_stdout, write_errors
from .writing import append_text, atomic_file, atomic_folder, copy_folder, set_modes

__all__ = [
    "STDIN", "append_text", "atomic_file", "atomic_folder", "cache_dir", "can_be_read", "check_file", "check_folder",
    "check_neighbour", "copy_folder", "is_stdout", "numbered_lines", "parse_json", "read_text", "repeatable_lines",
    "set_modes", "source_name", "text_lines", "write_errors",
]  # fmt: skip


def cache_dir() -> Path:
    """Return the user's cache folder: `$PRORANK_CACHE`, else `$XDG_CACHE_HOME/prorank`, else `~/.cache/prorank`.

    Empty variables are ignored, and "~" is expanded. Raises ConfigError if the home folder is unknown.
    """
    own, shared = os.environ.get("PRORANK_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if own:
            return Path(own).expanduser()
        return (Path(shared).expanduser() if shared else _home() / ".cache") / "prorank"
    except RuntimeError as error:
        raise ConfigError("no home folder is known (HOME); set PRORANK_CACHE to a folder for converted checkpoints") from error


def _home() -> Path:
    if os.environ.get("HOME") == "":  # expanduser would return the root folder
        raise RuntimeError("HOME is empty")
    return Path.home()
