"""The errors a user can mend: each says what is wrong, where, and what to do about it.

The CLI turns every `ProRankError` into one line and exit code 2; anything else is a bug and shows its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from traceback import walk_tb


class ProRankError(Exception):
    """Base of all errors that a user can mend."""


class DataError(ProRankError):
    """A file of data is missing, malformed or inconsistent; the message names file and line."""


class ConfigError(ProRankError):
    """A setting is unknown or has a wrong type or value; the message names file, key and the nearest valid one."""


class ModelError(ProRankError):
    """A checkpoint cannot be found, is incomplete, or does not fit (adapter for another base, no tokenizer)."""


class PromptError(ProRankError):
    """Prompt and tokenizer do not fit together, or a template is malformed."""


class TrainingError(ProRankError):
    """A run cannot go on: a loss, gradients or weights that are not finite, or a file that cannot be written. The message names the
    step and what is saved."""


class ServerError(ProRankError):
    """A server that was asked to rank did not; the message names its address. `status`: of its answer, if there was one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ServerAway(ServerError):
    """Nobody answers there: a refused connection, an unknown host, silence."""


class KeyRefused(ServerError):
    """The server wants a key, or another one (401, 403)."""


class TooLarge(ServerError):
    """The request has more bytes than the server takes (413)."""


class TooBusy(ServerError):
    """The server has too much to do, or is not ready, for longer than we wait (429, 503)."""


class ServerFailed(ServerError):
    """The server's own fault (5xx, or 424)."""


class MissingExtra(ProRankError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class BrokenExtra(ProRankError, ImportError):
    """An optional dependency is installed and does not load: a version that does not fit, a library of its own that is missing."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Wrap imports of optional packages: `with extra("eval"): import bm25s`.

    Raises:
        MissingExtra: a package that is imported here is not installed; the message names the extra that brings it.
        BrokenExtra: it is installed and fails to load; the message gives its own reason first.
    """
    try:
        yield
    except ProRankError:
        raise
    except Exception as error:  # an import runs code of its own, which may fail in any way
        if _not_installed(error):
            raise MissingExtra(f"{error}. This needs the extra '{name}': pip install 'prorank[{name}]'") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BrokenExtra(
            f"{reason}. What the extra '{name}' brings is installed, but does not load; reinstall the package that is named, or: "
            f"pip install --upgrade 'prorank[{name}]'"
        ) from error


def _not_installed(error: Exception) -> bool:
    """Whether the package itself is missing, not something that it imports or a part of it that another version has."""
    if not isinstance(error, ModuleNotFoundError):
        return False
    roots = [frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in walk_tb(error.__traceback__)]
    block = roots[1:2]  # behind the frame of `extra`
    if not set(roots) <= {"prorank", "importlib", "_frozen_importlib", "_frozen_importlib_external", *block}:
        return False  # a package was being imported
    parent = sys.modules.get((error.name or "").rpartition(".")[0])
    return getattr(parent, "__file__", None) is None  # a namespace package has no file and may be shared by several


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the choice closest to `word`, or the list of choices when none is close."""
    choices = [str(choice) for choice in choices]
    close = get_close_matches(str(word), choices, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; valid: {', '.join(sorted(choices))}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
