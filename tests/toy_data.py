"""A folder of collections as PRORANK_DATA names one, made of a few words: labels of both kinds, splits, and a protocol list.

Each query's first relevant document comes second in the protocol list and its other one fifth, so orders differ.
"""

import json
from pathlib import Path

from tests.tiny import WORDS

FORMS = ("we saw the {0} today", "there is a {0}", "the old {0} is near", "another {0} and then")


def write_collection(root: Path, name: str, queries: int = 24, judged: bool = True) -> Path:
    """A BEIR folder with splits train, dev and test, a third of the queries each; without `judged` relevant labels alone."""
    folder = root / name
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{i}", "title": "", "text": f"{FORMS[i % 4].format(WORDS[i // 4])} number {i}"} for i in range(48)]
    asked = [{"_id": f"q{i}", "text": WORDS[i % 12] if i % 2 else f"where is the {WORDS[i % 12]} {i}?"} for i in range(queries)]
    for kind, rows in (("corpus", corpus), ("queries", asked)):
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for at, split in enumerate(("train", "dev", "test")):
        some = range(at * queries // 3, (at + 1) * queries // 3)
        lines = [line for i in some for line in _labels(i, judged)]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8")
    run = [f"q{i} Q0 {d} {rank + 1} {100 - rank} t\n" for i in some for rank, d in enumerate(_candidates(i))]
    (folder / "protocol.run.txt").write_text("".join(run), encoding="utf-8")
    return folder


def _others(i: int) -> list[str]:
    return [f"d{(4 * (i % 12) + 8 + 5 * j) % 48}" for j in range(5)]


def _candidates(i: int) -> list[str]:
    other, *more = _others(i)
    return [other, f"d{4 * (i % 12)}", *more[:2], f"d{4 * (i % 12) + 1}", *more[2:]]


def _labels(i: int, judged: bool) -> list[str]:
    good = [(f"d{4 * (i % 12) + j}", 1) for j in range(2)]
    return [f"q{i}\t{d}\t{label}\n" for d, label in good + [(d, 0) for d in _others(i) if judged]]
