"""Files in local folders and behind fsspec URLs, such as s3://bucket/folder.

A file is written under a hidden temporary name and then renamed, so that it appears whole or not at all. Object stores rename by a
copy on the server, which is atomic as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import ConfigError, DataError, ProRankError, extra, first_line
from ..utils.files import atomic_file
from ..utils.targets import TEMPORARY, temporary_name

LOCAL = ("file", "local")


def file_system(url: str) -> tuple[Any, str]:
    """Return (file system of fsspec, path in it) of a URL or a local path.

    Raises:
        ConfigError: the protocol is unknown, or its package is not installed.
    """
    with extra("bulk"):
        import fsspec.core
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ConfigError(f"{url}: {first_line(error)}; fsspec reads this protocol by a package of its own") from error
    except ValueError as error:
        raise ConfigError(f"{url}: {first_line(error)}") from error


def is_local(fs: Any) -> bool:
    """Whether a file system is that of this machine."""
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return protocols[0] in LOCAL


def absolute_url(url: str | os.PathLike) -> str:
    """Return the URL for a process with another working folder: local paths become absolute."""
    fs, path = file_system(os.fspath(url))
    return path if is_local(fs) else os.fspath(url)


@contextmanager
def reading_errors(url: str) -> Iterator[None]:
    """Turn errors of a storage into DataError naming `url`; those of local files keep their reason."""
    try:
        yield
    except (ProRankError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"{url}: no such file or folder") from error
    except Exception as error:  # each file system has its own errors
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise DataError(f"{url}: cannot be read ({reason})") from error


class OutputFolder:
    """A folder in which files appear atomically.

    Args:
        url: a local path or a URL; the folder is made with its first file.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.fs, self.path = file_system(url)

    @property
    def local(self) -> bool:
        """Whether the folder is on a file system of this machine."""
        return is_local(self.fs)

    def sizes(self) -> dict[str, int]:
        """Return the size of each file in bytes, by name; empty if the folder does not exist.

        Raises:
            DataError: the folder cannot be read, or is a file.
        """
        with reading_errors(self.url):
            self.fs.invalidate_cache()
            if self.fs.isfile(self.path):
                raise DataError(f"{self.url}: is a file, expected a folder")
            if not self.fs.exists(self.path):
                return {}
            entries = self.fs.ls(self.path, detail=True)
        return {entry["name"].rstrip("/").rsplit("/", 1)[-1]: entry["size"] or 0 for entry in entries if entry["type"] == "file"}

    def has(self, name: str) -> bool:
        """Whether a file exists and is not empty."""
        with reading_errors(self.url):
            self.fs.invalidate_cache()
            return self.fs.exists(self._path(name)) and self.fs.size(self._path(name)) > 0

    def read(self, name: str) -> bytes:
        """Return the content of a file. Raises DataError if it cannot be read."""
        with reading_errors(f"{self.url}/{name}"):
            return self.fs.cat_file(self._path(name))

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically.

        Raises:
            OSError: a local file cannot be written.
            DataError: a remote one cannot.
        """
        if self.local:
            with atomic_file(self._path(name), "wb") as handle:
                handle.write(content)
            return
        beside = self._path(temporary_name(name))
        try:
            self.fs.makedirs(self.path, exist_ok=True)
            self.fs.pipe_file(beside, content)
            self.fs.mv(beside, self._path(name))
        except Exception as error:  # each file system has its own errors
            raise DataError(f"{self.url}/{name}: cannot be written ({first_line(error)})") from error

    def remove_temporary_files(self) -> None:
        """Remove what writers that were killed left behind. Only for a folder in which nobody writes."""
        for name in self.sizes():
            if name.startswith(".") and name.endswith(TEMPORARY):
                with reading_errors(self.url):
                    self.fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}"
