"""What is to be measured: one dataset's queries, judgements and candidates, with notes on what was left out.

A protocol list (`protocol.run.txt`) fixes candidates and queries, so only its queries count; with any
other first stage a judged query that the run lacks counts 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data.bm25 import Bm25
from ..data.formats import Collection, is_collection, read_collection
from ..data.trec import drop_pairs, read_run
from ..errors import ConfigError, DataError
from ..utils.files import can_be_read
from .gains import LINEAR, check_labels
from .measures import Ranking, ranking_of, with_positive

PROTOCOL = "protocol"
PROTOCOL_RUN, FULL_QRELS, EXCLUDE = "protocol.run.txt", "qrels/full.txt", "qrels/exclude.txt"
DEPTH = 1000  # trec_eval's usual depth; MAP and recall look this far
BM25 = {"k1": 0.9, "b": 0.4}


@dataclass(frozen=True)
class Options:
    """How candidates are made; see `prorank.evaluate.evaluate` for the meaning of each."""

    run: str | None = None
    qrels: str | None = None
    exclude: str | None = None
    split: str = "test"
    min_rel: int = 1
    top_k: int = 100
    pool: bool = False
    limit: int | None = None
    only_run_queries: bool = False
    seed: int = 0
    gain: str = LINEAR


@dataclass
class Task:
    """One dataset, ready: `ranking` is the first stage over `queries` (those that count), `first` its name in tables.

    `without_text` counts judged documents; `files` are those that were read beside the folder's own, for display.
    """

    name: str
    collection: Collection
    qrels: dict[str, dict[str, int]]
    ranking: Ranking
    queries: list[str]
    first: str
    skipped: list[str] = field(default_factory=list)
    without_text: int = 0
    notes: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)

    def text(self, document: str) -> str:
        return self.collection.corpus.get(document, "")

    def head(self, query: str, top_k: int) -> tuple[list[str], list[str]]:
        """(documents of the first top_k that have a text, those that have none), in first-stage order."""
        first = self.ranking.get(query, [])[:top_k]
        return [d for d in first if self.text(d)], [d for d in first if not self.text(d)]


def prepare(dataset: str | Path, options: Options, alone: bool = True) -> Task:
    """Read a BEIR folder, or a dataset of ir_datasets, and make its candidates.

    Args:
        dataset: BEIR folder, or ir_datasets:NAME.
        options: see Options. Relative file names are looked for in the dataset's folder first.
        alone: no other dataset is evaluated in the same call, so that a file outside the folder can be meant.

    Raises:
        DataError: missing or malformed files, no judged query, a run without any query that counts.
        ConfigError: options that exclude each other.
    """
    folder = Path(dataset)
    if not is_collection(dataset):
        raise DataError(f"{folder}: no such folder; a dataset is a folder with corpus.jsonl, queries.jsonl and qrels/")
    files = _files(folder, options, alone)
    run = read_run(files["run"]) if "run" in files else None
    wanted = {document for scores in run.values() for document in scores} if run else () if options.pool else None
    collection = read_collection(dataset, options.split, files.get("qrels"), files.get("exclude"), wanted)
    check_labels((label for judged in collection.qrels.values() for label in judged.values()), options.gain, collection.name)
    excluded = collection.excluded
    inside = folder.resolve()
    shown = {k: str(p.resolve().relative_to(inside) if p.resolve().is_relative_to(inside) else p) for k, p in files.items()}
    task = Task(collection.name, collection, collection.qrels, {}, [], _first_name(options, files), files=shown)
    restrict = options.only_run_queries or _is_protocol(files.get("run"), folder)
    given = ranking_of(drop_pairs(run, excluded)) if run else None
    _choose_queries(task, options, given, restrict)
    if given is not None:
        task.ranking = {q: given[q] for q in task.queries if given.get(q)}
    else:
        task.ranking = _bm25(task, options, excluded)
    _note(task, folder, options, restrict, len(excluded))
    return task


def _files(folder: Path, options: Options, alone: bool) -> dict[str, Path]:
    """The files the options name, with the protocol's own judgements and exclusions where none are named."""
    if options.run and options.pool:
        raise ConfigError("--run and --judged-only exclude each other: the judged documents are a list of candidates")
    if options.only_run_queries and not options.run:
        raise ConfigError("--only-run-queries needs --run")
    protocol = options.run == PROTOCOL
    asked = {"run": PROTOCOL_RUN if protocol else options.run, "qrels": options.qrels, "exclude": options.exclude}
    files = {kind: _find(folder, kind, name, alone) for kind, name in asked.items() if name}
    if protocol:
        for kind, name in (("qrels", FULL_QRELS), ("exclude", EXCLUDE)):
            if kind not in files and options.split == "test" and (folder / name).is_file():
                files[kind] = folder / name
    return files


def _find(folder: Path, kind: str, name: str, alone: bool) -> Path:
    """A file of the dataset's folder, or one given by path when no other dataset could be meant. Raises DataError."""
    if not Path(name).is_absolute() and (folder / name).is_file():
        return folder / name
    if not can_be_read(name):
        raise DataError(f"--{kind} {name}: no such file, neither in {folder} nor as given")
    if not alone:
        raise DataError(f"--{kind} {name}: one file cannot serve several datasets; name a file that each folder has")
    return Path(name)


def _is_protocol(run: Path | None, folder: Path) -> bool:
    return run is not None and run.resolve() == (folder / PROTOCOL_RUN).resolve()


def _first_name(options: Options, files: dict[str, Path]) -> str:
    if "run" not in files:
        return "BM25 (pool)" if options.pool else "BM25"
    name = files["run"].name.removesuffix(".gz").removesuffix(".txt")
    return "protocol list" if files["run"].name == PROTOCOL_RUN else name


def _choose_queries(task: Task, options: Options, given: Ranking | None, restrict: bool) -> None:
    """Set the queries that count: judged positive (and in the run, where it restricts), with `limit` a fixed sample."""
    judged = [q for q in task.qrels if not restrict or q in (given or {})]
    counting = set(with_positive(task.qrels))
    task.queries = [q for q in judged if q in counting]
    task.skipped = [q for q in judged if q not in counting]
    if not task.queries:
        whose = "the run's" if restrict else f"{len(task.qrels)}"
        raise DataError(f"{task.name}: none of {whose} judged queries has a label above 0 (split '{options.split}')")
    if given is not None and not any(given.get(q) for q in task.queries):
        run = task.files["run"]
        raise DataError(f"{run}: none of its {len(given)} queries is judged in {task.name}; is it another set's run?")
    if options.limit is not None:
        if options.limit < 1:
            raise ConfigError(f"--limit must be at least 1, not {options.limit}")
        task.queries = by_hash(task.queries, options.seed)[: options.limit]
    unknown = [q for q in task.queries if not task.collection.queries.get(q)]
    if unknown:
        raise DataError(f"{task.name}: judged query {unknown[0]} has no text in queries.jsonl ({len(unknown)} such)")


def by_hash(ids: Sequence[str], seed: int) -> list[str]:
    """Ids in an order that depends on nothing but ids and seed."""
    return sorted(ids, key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest())


def _bm25(task: Task, options: Options, excluded: frozenset[tuple[str, str]]) -> Ranking:
    """BM25 over the corpus, or of each query's judged documents; excluded pairs and the query as a document go."""
    index = Bm25(task.collection.corpus, **BM25)
    depth = max(DEPTH, options.top_k)
    lists: Mapping[str, Iterable[str]]  # documents, best first
    if options.pool:
        lists = {q: _pooled(index, task, q) for q in task.queries}
    else:
        lists = index.search({q: task.collection.queries[q] for q in task.queries}, depth + 1)
    kept = {q: [d for d in some if (q, d) not in excluded and not _itself(task, q, d)] for q, some in lists.items()}
    return {q: some[:depth] for q, some in kept.items() if some}


def _pooled(index: Bm25, task: Task, query: str) -> list[str]:
    """The query's judged documents in BM25 order, those without text behind.

    Equal scores fall in hash order: that of the judgements could give the labels away.
    """
    judged = by_hash(list(task.qrels[query]), 0)
    known = [d for d in judged if d in task.collection.corpus]
    score = dict(zip(known, index.scores(task.collection.queries[query], known)))
    return sorted(known, key=lambda d: -score[d]) + [d for d in judged if d not in score]


def _itself(task: Task, query: str, document: str) -> bool:
    """The document is the query: same id and same text (ids alone coincide by chance where both are numbers)."""
    return query == document and task.text(document) == task.collection.queries[query]


def _note(task: Task, folder: Path, options: Options, restrict: bool, excluded: int) -> None:
    """Say what was left out, and which files of the folder were not asked for."""
    say = task.notes.append
    if task.files:
        say(", ".join(f"{kind}: {path}" for kind, path in task.files.items()))
    if restrict:
        judged = len(with_positive(task.qrels))
        say(f"only queries of the run count: {len(task.queries)} of {judged} that have a positive judgement")
    elif absent := [q for q in task.queries if q not in task.ranking]:
        say(f"{len(absent)} judged queries are absent from the first stage and count 0: {_some(absent)}")
    if excluded:
        say(f"{excluded} pairs of query and document are excluded from judgements and candidates")
    if task.skipped:
        say(f"{len(task.skipped)} queries skipped, no positive judgement: {_some(task.skipped)}")
    low = [q for q in task.queries if q not in set(with_positive(task.qrels, options.min_rel))]
    if low:
        say(f"{len(low)} queries have no label >= {options.min_rel} and count for nDCG only: {_some(low)}")
    task.without_text = sum(not task.text(d) for q in task.queries for d in task.qrels[q])
    if task.without_text:
        say(f"{task.without_text} judged documents have no text in corpus.jsonl; they count, but no model sees them")
    if "qrels" not in task.files and options.split == "test" and (folder / FULL_QRELS).is_file():
        say(f"{FULL_QRELS} exists and was not used; pass --qrels {FULL_QRELS}")
    if "run" not in task.files and (folder / PROTOCOL_RUN).is_file():
        say(f"{PROTOCOL_RUN} exists and was not used; pass --run {PROTOCOL} to rerank its fixed lists")
    if "exclude" not in task.files and (folder / EXCLUDE).is_file():
        say(f"{EXCLUDE} exists and was not used; pass --exclude {EXCLUDE}")


def _some(ids: Sequence[str], most: int = 5) -> str:
    return ", ".join(ids[:most]) + (f" and {len(ids) - most} more" if len(ids) > most else "")
