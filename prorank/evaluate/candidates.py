"""The queries, judgements and candidates of one dataset, with notes on what was left out.

A protocol list (`protocol.run.txt`) fixes candidates and queries, so only its queries count. With any other first stage a judged
query that the run lacks counts 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data.bm25 import Bm25
from ..data.formats import Collection, is_collection, read_collection
from ..data.languages import AUTO
from ..data.trec import drop_pairs, read_run
from ..errors import ConfigError, DataError
from ..utils.files import can_be_read
from .gains import LINEAR, check_labels
from .measures import Ranking, ranking_of, with_positive

PROTOCOL = "protocol"
PROTOCOL_RUN, FULL_QRELS, EXCLUDE = "protocol.run.txt", "qrels/full.txt", "qrels/exclude.txt"
DEPTH = 1000  # trec_eval's usual depth, used by MAP and recall
BM25 = {"k1": 0.9, "b": 0.4}


@dataclass(frozen=True)
class Options:
    """Options for candidates. `prorank.evaluate.evaluate` documents each of them."""

    run: str | None = None
    qrels: str | None = None
    exclude: str | None = None
    split: str = "test"
    min_rel: int = 1
    top_k: int = 100
    judged_only: bool = False
    limit: int | None = None
    only_run_queries: bool = False
    seed: int = 0
    gain: str = LINEAR
    language: str = AUTO


@dataclass
class Task:
    """A dataset with its queries, judgements and candidates.

    Attributes:
        name: name of the dataset in tables and file names.
        collection: documents and query texts.
        qrels: query id -> document id -> label.
        ranking: ranking of the first stage, for `queries` only.
        queries: ids of the queries that count.
        first: name of the first stage in tables.
        skipped: ids of the queries without a positive judgement.
        without_text: number of judged documents without text.
        notes: notes on data that were left out, for the reports.
        files: path by kind ("run", "qrels", "exclude") of files that were read in addition to the folder's standard ones, for
            display.
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
        """Return a document's text, "" if it has none."""
        return self.collection.corpus.get(document, "")

    def head(self, query: str, top_k: int) -> tuple[list[str], list[str]]:
        """Return (ids with a text, ids without) of the first `top_k` candidates, in first-stage order."""
        first = self.ranking.get(query, [])[:top_k]
        return [d for d in first if self.text(d)], [d for d in first if not self.text(d)]


def prepare(dataset: str | Path, options: Options, alone: bool = True) -> Task:
    """Read a dataset and make its candidates.

    Args:
        dataset: BEIR folder, or ir_datasets:NAME.
        options: see `Options`; relative file names are first looked up in the dataset's folder.
        alone: whether it is the only dataset of the call, so that file names may refer to files outside the folder.

    Raises:
        DataError: a file is missing or malformed, there is no judged query, or a run has no judged query.
        ConfigError: options exclude each other.
    """
    folder = Path(dataset)
    if not is_collection(dataset):
        raise DataError(f"{folder}: no such folder; a dataset is a folder with corpus.jsonl, queries.jsonl and qrels/")
    files = _files(folder, options, alone)
    run = read_run(files["run"]) if "run" in files else None
    documents = {document for scores in run.values() for document in scores} if run else () if options.judged_only else None
    collection = read_collection(dataset, options.split, files.get("qrels"), files.get("exclude"), documents)
    check_labels((label for judged in collection.qrels.values() for label in judged.values()), options.gain, collection.name)
    excluded = collection.excluded
    shown = {kind: _shown_path(path, folder) for kind, path in files.items()}
    task = Task(collection.name, collection, collection.qrels, {}, [], _first_stage_name(options, files), files=shown)
    restrict = options.only_run_queries or _is_protocol(files.get("run"), folder)
    run_ranking = ranking_of(drop_pairs(run, excluded)) if run else None
    _choose_queries(task, options, run_ranking, restrict)
    if run_ranking is not None:
        task.ranking = {q: run_ranking[q] for q in task.queries if run_ranking.get(q)}
    else:
        task.ranking = _bm25_ranking(task, options, excluded)
    _add_notes(task, folder, options, restrict, len(excluded))
    return task


def _files(folder: Path, options: Options, alone: bool) -> dict[str, Path]:
    """Return the files in the options, and for a protocol list its own judgements and exclusions unless the options set them."""
    if options.run and options.judged_only:
        raise ConfigError("--run and --judged-only exclude each other: the judged documents are the candidates")
    if options.only_run_queries and not options.run:
        raise ConfigError("--only-run-queries needs --run")
    protocol = options.run == PROTOCOL
    names = {"run": PROTOCOL_RUN if protocol else options.run, "qrels": options.qrels, "exclude": options.exclude}
    files = {kind: _find(folder, kind, name, alone) for kind, name in names.items() if name}
    if protocol:
        for kind, name in (("qrels", FULL_QRELS), ("exclude", EXCLUDE)):
            if kind not in files and options.split == "test" and (folder / name).is_file():
                files[kind] = folder / name
    return files


def _find(folder: Path, kind: str, name: str, alone: bool) -> Path:
    """Return a file of the dataset's folder, or another file if this is the only dataset. Raises DataError."""
    if not Path(name).is_absolute() and (folder / name).is_file():
        return folder / name
    if not can_be_read(name):
        raise DataError(f"--{kind} {name}: no such file, neither in {folder} nor elsewhere")
    if not alone:
        raise DataError(f"--{kind} {name}: one file cannot be used for several datasets; name a file that each folder has")
    return Path(name)


def _shown_path(path: Path, folder: Path) -> str:
    """Return a path inside the dataset's folder relative to it, other paths unchanged."""
    whole, inside = path.resolve(), folder.resolve()
    return str(whole.relative_to(inside) if whole.is_relative_to(inside) else path)


def _is_protocol(run: Path | None, folder: Path) -> bool:
    return run is not None and run.resolve() == (folder / PROTOCOL_RUN).resolve()


def _first_stage_name(options: Options, files: dict[str, Path]) -> str:
    if "run" not in files:
        return "BM25 (judged only)" if options.judged_only else "BM25"
    name = files["run"].name.removesuffix(".gz").removesuffix(".txt")
    return "protocol list" if files["run"].name == PROTOCOL_RUN else name


def _choose_queries(task: Task, options: Options, run: Ranking | None, restrict: bool) -> None:
    """Set the queries to evaluate: those with a positive judgement (and in the run, if `restrict`), or a sample of `limit`."""
    judged = [q for q in task.qrels if not restrict or q in (run or {})]
    positive = set(with_positive(task.qrels))
    task.queries = [q for q in judged if q in positive]
    task.skipped = [q for q in judged if q not in positive]
    if not task.queries:
        whose = "the run's" if restrict else f"{len(task.qrels)}"
        raise DataError(f"{task.name}: none of {whose} judged queries has a label above 0 (split '{options.split}')")
    if run is not None and not any(run.get(q) for q in task.queries):
        path = task.files["run"]
        raise DataError(f"{path}: none of its {len(run)} queries is judged in {task.name}; is it a run of another dataset?")
    if options.limit is not None:
        if options.limit < 1:
            raise ConfigError(f"--limit must be at least 1, not {options.limit}")
        task.queries = by_hash(task.queries, options.seed)[: options.limit]
    unknown = [q for q in task.queries if not task.collection.queries.get(q)]
    if unknown:
        raise DataError(f"{task.name}: judged query {unknown[0]} has no text in queries.jsonl ({len(unknown)} such)")


def by_hash(ids: Sequence[str], seed: int) -> list[str]:
    """Sort ids by a hash, so that the order depends on ids and seed only."""
    return sorted(ids, key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest())


def _bm25_ranking(task: Task, options: Options, excluded: frozenset[tuple[str, str]]) -> Ranking:
    """Rank the corpus, or each query's judged documents, with BM25, without excluded pairs and documents equal to the query."""
    index = Bm25(task.collection.corpus, **BM25, language=options.language)
    task.notes += filter(None, [index.language.note])
    depth = max(DEPTH, options.top_k)
    lists: Mapping[str, Iterable[str]]  # document ids, best first
    if options.judged_only:
        lists = {q: _judged_by_bm25(index, task, q) for q in task.queries}
    else:
        lists = index.search({q: task.collection.queries[q] for q in task.queries}, depth + 1)
    kept = {q: [d for d in ids if (q, d) not in excluded and not _is_query(task, q, d)] for q, ids in lists.items()}
    return {q: ids[:depth] for q, ids in kept.items() if ids}


def _judged_by_bm25(index: Bm25, task: Task, query: str) -> list[str]:
    """Return the query's judged documents in BM25 order, those without text last.

    Equal scores are ordered by hash, because the order of the judgements may depend on the labels.
    """
    judged = by_hash(list(task.qrels[query]), 0)
    known = [d for d in judged if d in task.collection.corpus]
    score = dict(zip(known, index.scores(task.collection.queries[query], known)))
    return sorted(known, key=lambda d: -score[d]) + [d for d in judged if d not in score]


def _is_query(task: Task, query: str, document: str) -> bool:
    """Whether a document equals the query in id and text. Ids alone may be equal by chance."""
    return query == document and task.text(document) == task.collection.queries[query]


def _add_notes(task: Task, folder: Path, options: Options, restrict: bool, excluded: int) -> None:
    """Add notes on data that were left out, and on files of the folder that were not used."""
    add = task.notes.append
    if task.files:
        add(", ".join(f"{kind}: {path}" for kind, path in task.files.items()))
    if restrict:
        judged = len(with_positive(task.qrels))
        add(f"only queries of the run count: {len(task.queries)} of {judged} that have a positive judgement")
    elif absent := [q for q in task.queries if q not in task.ranking]:
        add(f"{len(absent)} judged queries are absent from the first stage and count 0: {_listed(absent)}")
    if excluded:
        add(f"{excluded} pairs of query and document are excluded from judgements and candidates")
    if task.skipped:
        add(f"{len(task.skipped)} queries skipped, no positive judgement: {_listed(task.skipped)}")
    low = [q for q in task.queries if q not in set(with_positive(task.qrels, options.min_rel))]
    if low:
        add(f"{len(low)} queries have no label >= {options.min_rel} and count for nDCG only: {_listed(low)}")
    task.without_text = sum(not task.text(d) for q in task.queries for d in task.qrels[q])
    if task.without_text:
        add(f"{task.without_text} judged documents have no text in corpus.jsonl; they count, but models cannot rank them")
    if "qrels" not in task.files and options.split == "test" and (folder / FULL_QRELS).is_file():
        add(f"{FULL_QRELS} exists and was not used; pass --qrels {FULL_QRELS}")
    if "run" not in task.files and (folder / PROTOCOL_RUN).is_file():
        add(f"{PROTOCOL_RUN} exists and was not used; pass --run {PROTOCOL} to rerank its fixed lists")
    if "exclude" not in task.files and (folder / EXCLUDE).is_file():
        add(f"{EXCLUDE} exists and was not used; pass --exclude {EXCLUDE}")


def _listed(ids: Sequence[str], limit: int = 5) -> str:
    return ", ".join(ids[:limit]) + (f" and {len(ids) - limit} more" if len(ids) > limit else "")
