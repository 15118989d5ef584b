"""Tables of the data card: one row per source and one per test set, from the records that the other commands wrote.

All figures of the card come from this command.

    python -m recipes.default.card data/texts
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from prorank.errors import DataError, ProRankError

from .held_out import KINDS
from .texts import RECIPE

HEAD = ("source", "query -> document", "licence of the texts", "packages", "queries", "documents", "dropped: repeats / overlap")


def records_in(folder: Path) -> list[dict]:
    """Read the records of the sources in a folder, sorted by name. Raises DataError if there are none."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"*/{RECIPE}"))]
    if not records:
        raise DataError(f"{folder}: no sources here; make them with python -m recipes.default.texts {folder}")
    return records


def sources(records: list[dict]) -> Iterator[tuple[str, ...]]:
    """Yield the header, a row per source, and the totals."""
    yield HEAD
    for record in records:
        packages = ", ".join(dict.fromkeys(f"{p['name']} {p.get('version', '')}".strip() for p in record["packages"]))
        dropped = f"{record['dropped']['near-duplicate documents']} / {_overlap(record)}"
        counts = f"{record['queries']:,}", f"{record['documents']:,}"
        yield record["name"], record["about"], record["licence"], packages, *counts, dropped
    totals = (f"{sum(record[key] for record in records):,}" for key in ("queries", "documents"))
    repeats = sum(record["dropped"]["near-duplicate documents"] for record in records)
    yield "all", "", "", "", *totals, f"{repeats} / {sum(map(_overlap, records))}"


def overlaps(records: list[dict]) -> Iterator[tuple[str, ...]]:
    """Yield the header, and a row per test set that shared texts: counts found in all sources, and dropped."""
    yield ("test set", *KINDS)
    counts: Counter = Counter()
    for record in records:
        counts.update(record.get("overlap", {}))
    for test in sorted({name.split(": ")[0] for name in counts}):
        yield (test, *(str(counts[f"{test}: {kind}"]) for kind in KINDS))


def _overlap(record: dict) -> int:
    return sum(record.get("overlap", {}).values())


def main(argv: list[str] | None = None) -> int:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", type=Path, help="folder of the sources")
    try:
        records = records_in(parser.parse_args(argv).texts)
    except ProRankError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for head, *lines in (sources(records), overlaps(records)):
        print(*("| " + " | ".join(line) + " |" for line in (head, ("---",) * len(head), *lines)), "", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
