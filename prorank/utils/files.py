"""Files as the whole package reads and writes them, and the user's cache folder."""

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
    """The user's cache folder: `$PRORANK_CACHE`, else `$XDG_CACHE_HOME/prorank`, else `~/.cache/prorank`.

    An empty variable counts as none, and "~" is the home folder. Raises ConfigError where no home folder is known.
    """
    own, shared = os.environ.get("PRORANK_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if own:
            return Path(own).expanduser()
        return (Path(shared).expanduser() if shared else _home() / ".cache") / "prorank"
    except RuntimeError as error:
        raise ConfigError("no home folder is known (HOME); set PRORANK_CACHE to a folder for converted checkpoints") from error


def _home() -> Path:
    if os.environ.get("HOME") == "":  # would be taken for the root folder
        raise RuntimeError("HOME is empty")
    return Path.home()
