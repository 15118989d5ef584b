"""Tables of the model card from files: training lists by set and licence, and figures from evaluation reports.

All figures come from reports; none is written by hand.

    python -m recipes.default.card_tables data/lists/train.jsonl --texts data/texts --reports runs/default/tests --out card.json

A report is a folder that `prorank evaluate LISTS --model bi-encoder:FOLDER --model RUN --out FOLDER` wrote, with RUN last. The
commands on the card are those of README.md in this folder.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from prorank.data.jsonl import objects
from prorank.errors import DataError
from prorank.evaluate.measures import MAIN
from prorank.evaluate.results import FIRST, MODEL
from prorank.utils.files import atomic_file
from prorank.utils.terminal import guarded

from .card import records_in

COLLECTIONS = {
    "scifact": "claims CC BY 4.0, abstracts ODC-By", "scifact-titles": "ODC-By", "medquad": "CC BY 4.0", "cosqa": "MIT",
    "semanlink": "MIT",
}  # fmt: skip
README = Path(__file__).with_name("README.md")


def data(lists: Sequence[Path], texts: Path) -> Iterator[dict]:
    """Yield a row per set: its licence and its number of lists. Raises DataError for a set with unknown licence."""
    licences = COLLECTIONS | {record["name"]: record["licence"] for record in records_in(texts)}
    query_ids = {row["query_id"] for path in lists for _, row in objects(path)}
    for name, count in sorted(Counter(query_id.partition("/")[0] for query_id in query_ids).items()):
        if name not in licences:
            raise DataError(f"{', '.join(map(str, lists))}: the licence of set '{name}' is not known; {texts} has no such source")
        yield {"set": name, "licence": licences[name], "lists": count}


def figures(report: Path) -> Iterator[dict]:
    """Yield a row per dataset: nDCG@10 of first stage, other systems and model, and p-values of the model against each."""
    path = report / "results.json"
    if not path.is_file():
        raise DataError(f"{report}: no results.json; prorank evaluate --out {report} writes one")
    results = json.loads(path.read_text(encoding="utf-8"))
    for dataset in results["values"]:
        rows = [row for row in results["rows"] if row["dataset"] == dataset and row["kind"] in (FIRST, MODEL)]
        if len(rows) < 2:
            raise DataError(f"{path}: {dataset} was evaluated without a model; give --model")
        first, *others, model = rows
        means = {"BM25": first, **{_plain(row["system"]): row for row in others}, "this model": model}
        line = {"list": dataset, "queries": model["queries"]}
        line |= {name: f"{row['measures'][MAIN]:.4f}" for name, row in means.items()}
        line["p, BM25"] = f"{model['p']:.4f}"
        pairs = {frozenset((c["a"], c["b"])): c["p"] for c in results["comparisons"] if c["dataset"] == dataset}
        yield line | {f"p, {_plain(o['system'])}": f"{pairs[frozenset((o['system'], model['system']))]:.4f}" for o in others}


def _plain(system: str) -> str:
    """Return a folder's name without the common suffix of these wheels."""
    return system.removesuffix("/model")


def commands() -> list[str]:
    """Return the lines of the first bash block of README.md."""
    return README.read_text(encoding="utf-8").partition("```bash\n")[2].partition("\n```")[0].splitlines()


def card(lists: Sequence[Path], texts: Path, reports: Sequence[Path], limits: Sequence[str]) -> dict:
    """Return the tables and commands of the card, as `ship` reads them."""
    measured = [row for report in reports for row in figures(report)]
    return {"data": list(data(lists, texts)), "figures": measured, "commands": commands(), "limits": list(limits)}


def main(words: list[str] | None = None) -> None:
    """Write the card's JSON from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", type=Path, nargs="+", help="training lists: train.jsonl, tags.jsonl")
    parser.add_argument("--texts", type=Path, required=True, help="folder of the sources")
    parser.add_argument("--reports", type=Path, nargs="+", required=True, help="folders of prorank evaluate")
    parser.add_argument("--limit", action="append", default=[], help="a sentence on the model's limits; any number")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(words)
    with guarded():
        tables = card(options.lists, options.texts, options.reports, options.limit)
    with atomic_file(options.out) as handle:
        json.dump(tables, handle, indent=1)
    print(f"{options.out}: {len(tables['data'])} sets, {len(tables['figures'])} lists measured")


if __name__ == "__main__":
    main()
