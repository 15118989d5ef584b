"""The errors a user can mend: each says what is wrong, where, and what to do about it.

Hard fact: the CLI turns every `ProRankError` into one line and exit code 2; anything else is a bug and shows its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from difflib import get_close_matches


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


@contextmanager
def extra(name: str):
    """Wrap optional imports: `with extra("eval"): import bm25s`. A failure names the extra and keeps the cause."""
    try:
        yield
    except ImportError as error:
        raise MissingExtra(
            f"{error}. This needs the extra '{name}': pip install 'prorank[{name}]'"
        ) from error


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the choice closest to `word`, or the list of choices when none is close."""
    choices = [str(choice) for choice in choices]
    close = get_close_matches(str(word), choices, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; valid: {', '.join(sorted(choices))}"
