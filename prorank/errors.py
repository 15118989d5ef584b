"""Errors that users can fix. Each message says what is wrong, where, and how to fix it.

The CLI prints a `ProRankError` on one line and exits with code 2. Any other exception is a bug and shows its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from traceback import walk_tb


class ProRankError(Exception):
    """Base class of all errors that users can fix."""


class DataError(ProRankError):
    """A data file is missing, malformed or inconsistent. The message names file and line."""


class ConfigError(ProRankError):
    """A setting is unknown, or its type or value is invalid. The message names file, key and the nearest valid key."""


class ModelError(ProRankError):
    """A checkpoint is missing, incomplete or incompatible (for example an adapter of another base)."""


class PromptError(ProRankError):
    """A prompt does not fit the tokenizer, or a template is malformed."""


class TrainingError(ProRankError):
    """A run cannot continue: loss, gradients or weights are not finite, or a file cannot be written.

    The message names the step and what was saved.
    """


class ServerError(ProRankError):
    """A ranking server returned an error. The message names its address.

    Attributes:
        status: HTTP status, None if there was no response.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ServerAway(ServerError):
    """No response: connection refused, unknown host or timeout."""


class KeyRefused(ServerError):
    """The server rejects the API key (401, 403)."""


class TooLarge(ServerError):
    """The request is larger than the server accepts (413)."""


class TooBusy(ServerError):
    """The server stayed overloaded or not ready for longer than the client waits (429, 503)."""


class ServerFailed(ServerError):
    """The server failed (5xx or 424)."""


class ClusterError(ProRankError):
    """A cluster cannot be reached, or lost its workers too often. What was written stays."""


class MissingExtra(ProRankError, ImportError):
    """An optional dependency is not installed. The message names the extra to install."""


class BrokenExtra(ProRankError, ImportError):
    """An optional dependency is installed but cannot be imported, for example because of an incompatible version."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Wrap imports of optional packages: `with extra("eval"): import bm25s`.

    Args:
        name: the extra that installs the packages.

    Raises:
        MissingExtra: a package is not installed; the message names the extra.
        BrokenExtra: a package is installed but cannot be imported; the message begins with the reason.
    """
    try:
        yield
    except ProRankError:
        raise
    except Exception as error:  # importing runs third-party code, which may raise any error
        if _not_installed(error):
            raise MissingExtra(f"{error}. This needs the extra '{name}': pip install 'prorank[{name}]'") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BrokenExtra(
            f"{reason}. The packages of the extra '{name}' are installed but cannot be imported; reinstall the one named here, or: "
            f"pip install --upgrade 'prorank[{name}]'"
        ) from error


def _not_installed(error: Exception) -> bool:
    """Whether the package itself is missing, rather than one of its dependencies or a submodule that other versions have."""
    if not isinstance(error, ModuleNotFoundError):
        return False
    roots = [frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in walk_tb(error.__traceback__)]
    block = roots[1:2]  # the frame after that of `extra`
    if not set(roots) <= {"prorank", "importlib", "_frozen_importlib", "_frozen_importlib_external", *block}:
        return False  # a package was being imported
    parent = sys.modules.get((error.name or "").rpartition(".")[0])
    return getattr(parent, "__file__", None) is None  # a namespace package has no file and may be shared by several


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the choice closest to `word`, or the list of choices if none is close."""
    choices = [str(choice) for choice in choices]
    close = get_close_matches(str(word), choices, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; valid: {', '.join(sorted(choices))}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
