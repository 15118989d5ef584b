"""Score the pairs of files: check the input, plan shards, bind the output to its origin, score what is missing.

The steps are the same on both back ends:

1. a worker loads the model and says what its scores depend on, which is compared with the manifest of the output folder;
2. every row is checked, and the rows are cut into shards, each with a hash (skipped if the manifest knows the files);
3. the manifest is written;
4. workers score the shards whose files are missing, and write each file atomically.

So a shard is in the output whole or not at all, and a run that was interrupted at any point is finished by running it again.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoints.default_model import DEFAULT
from ..errors import ConfigError, DataError
from ..prompts.encoded import TruncationCounts
from ..utils.files import check_folder
from .backends import Backend, LocalBackend
from .manifest import BulkManifest
from .pair_columns import PairColumns
from .pair_files import FileChecker, PairFile, columns_of, list_pair_files, parts_of_dicts
from .shard_files import check_format, shard_name
from .shard_plan import Shard, count_rows, make_shards
from .shard_scorer import ModelSpec, ShardScorer
from .storage import OutputFolder, absolute_url

SHARD_ROWS = 10_000
LOCK = ".lock"
MEASURED = ("fp32", "bf16")  # between which dtype "auto" chooses
Report = Callable[[int, int, dict[str, Any]], None]  # rows that are done, rows in all, result of the last shard


@dataclass
class BulkResult:
    """What a run did.

    Attributes:
        out: the output folder.
        rows, shards: in the whole output.
        scored_rows, scored_shards: by this run.
        cuts: truncated texts of this run.
        workers: names (host:process) of the workers that wrote shards.
    """

    out: str
    rows: int
    shards: int
    scored_rows: int = 0
    scored_shards: int = 0
    cuts: TruncationCounts = field(default_factory=TruncationCounts)
    workers: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        if not self.scored_shards:
            return f"{self.out}: nothing to do, all {self.rows} pairs in {self.shards} shards are there"
        before = self.shards - self.scored_shards
        there = f", {before} were there" if before else ""
        return f"{self.out}: {self.rows} pairs in {self.shards} shards; {self.scored_shards} shards scored now{there}; {self.cuts}"


def score_pairs(
    pairs: str | os.PathLike, out: str | os.PathLike, model: str | Path = DEFAULT, *, columns: PairColumns | None = None,
    shard_rows: int = SHARD_ROWS, form: str = "parquet", instruction: str | None = None, backend: Backend | None = None,
    report: Report | None = None, **options: Any,
) -> BulkResult:  # fmt: skip
    """Score (query, document) pairs of files into a folder of shards.

    Args:
        pairs: Parquet, Arrow or JSONL file, folder or pattern; a local path or a URL of fsspec.
        out: folder of the shards, local or a URL. A run that was interrupted is continued.
        model: see `Reranker`.
        columns: names of the columns; by default query, document, and id, query_id and doc_id where the input has them.
        shard_rows: rows of a shard.
        form: format of the shards: "parquet", "jsonl" or "arrow".
        instruction: replaces the prompt's instruction.
        backend: where the work runs; by default this process.
        report: called after each shard.
        **options: further arguments of `Reranker`.

    Raises:
        DataError: a row is bad (the message names file, row and column), a file cannot be read or written, or the output was made
            from another input, model, prompt or settings.
        ConfigError: an argument is invalid.
        ModelError, PromptError: the model cannot be loaded.
        ClusterError: the cluster fails.
    """
    if isinstance(shard_rows, bool) or not isinstance(shard_rows, int) or shard_rows < 1:
        raise ConfigError(f"shard_rows must be a whole number of at least 1, not {shard_rows!r}")
    folder = OutputFolder(absolute_url(out))
    form = check_format(form)
    if folder.local:
        check_folder(folder.path)
    files = list_pair_files(pairs)
    columns = columns_of(files, columns or PairColumns())
    settings = {"query": columns.query, "document": columns.document, "ids": list(columns.ids or ()), "shard_rows": shard_rows}
    settings |= {"format": form}
    with _locked(folder), backend or LocalBackend() as place:
        before = BulkManifest.load(folder)
        if before:
            before.check_settings(settings, folder)
        options = _absolute(options) | {"device": place.device(options.get("device"))}
        options["dtype"] = _dtype(options.get("dtype", "auto"), before)
        spec = ModelSpec(_model_name(model), options, instruction, place.threads)
        described = place.call(spec.describe)
        if before:
            before.check_settings(described, folder)
        shards = _plan(place, files, columns, shard_rows, before, folder)
        if before is None or not before.has_unchanged(files):
            BulkManifest(settings | described, files, shards).save(folder)
        spec.options["dtype"] = described["dtype"]  # "auto" is measured once, so that all workers compute alike
        scorer = ShardScorer(spec, described["fingerprint"], files, columns, folder.url, form)
        return _score_missing(place, scorer, shards, folder, report)


def _plan(
    backend: Backend, files: list[PairFile], columns: PairColumns, shard_rows: int, before: BulkManifest | None,
    folder: OutputFolder,
) -> list[Shard]:  # fmt: skip
    """Return the shards: those of the manifest if the files are unchanged, else of rows that are checked now."""
    if before and before.has_unchanged(files):
        return before.shards
    checker = FileChecker(files, columns, shard_rows)
    place = backend if len(files) > 1 else LocalBackend()  # one file is one item, which starts no workers
    numbered = place.run(_Numbered(checker), range(len(files)))
    parts = {number: parts_of_dicts(values) for number, values in numbered}
    shards = make_shards([parts[number] for number in range(len(files))])
    if not shards:
        raise DataError(f"{files[0].url}: no pairs")
    if before:
        before.check_shards(shards, files, folder)
    return shards


@dataclass(frozen=True)
class _Numbered:
    """Work whose result is [item, result], since results arrive in any order."""

    work: Callable[[int], Any]

    def __call__(self, item: int) -> list[Any]:
        return [item, self.work(item)]


def _score_missing(
    backend: Backend, scorer: ShardScorer, shards: list[Shard], folder: OutputFolder, report: Report | None
) -> BulkResult:  # fmt: skip
    """Score the shards without a file."""
    sizes = folder.sizes()
    missing = [shard for shard in shards if not sizes.get(shard_name(shard, scorer.form))]
    result = BulkResult(folder.url, count_rows(shards), len(shards))
    done, cuts = result.rows - count_rows(missing), Counter[str]()
    for one in backend.run(scorer, [shard.as_dict() for shard in missing]) if missing else ():
        result.scored_rows += one["rows"]
        result.scored_shards += 1
        result.workers.add(one["worker"])
        cuts.update(one["cuts"])
        if report:
            report(done + result.scored_rows, result.rows, one)
    result.cuts = TruncationCounts(**cuts)
    folder.remove_temporary_files()
    return result


def _dtype(requested: str, before: BulkManifest | None) -> str:
    """Return the dtype to load: "auto" continues with the one that an earlier run has measured."""
    measured = before.settings.get("dtype") if before and requested == "auto" else None
    return measured if measured in MEASURED else requested


def _model_name(model: str | Path) -> str:
    """Return a model's name for a process with another working folder."""
    return str(Path(model).resolve()) if Path(model).exists() else str(model)


def _absolute(options: dict[str, Any]) -> dict[str, Any]:
    """Return options of `Reranker` with absolute paths of base and prompt."""
    paths = {name: _model_name(options[name]) for name in ("base", "prompt") if isinstance(options.get(name), (str, Path))}
    return options | paths


@contextlib.contextmanager
def _locked(folder: OutputFolder) -> Iterator[None]:
    """Hold the lock of a local output folder; one that stays empty is removed. Raises DataError if another process has the lock."""
    if not folder.local:
        yield
        return
    from filelock import FileLock, Timeout

    path, is_new = Path(folder.path), not os.path.exists(folder.path)
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(f"{folder.url}: another process writes into this folder; wait for it, or name another folder") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if [file.name for file in path.iterdir()] == [LOCK]:
                (path / LOCK).unlink()
                if is_new:
                    path.rmdir()
        lock.release()
