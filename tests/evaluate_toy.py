"""A BEIR folder of a few words and rerankers that read them, for the tests of evaluation.

Query q1's relevant document comes second in BM25's order, so a good and a bad reranker differ from the first stage.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from prorank.prompts.prompt import TruncationCounts

CORPUS = {
    "d1": ("Bread", "bread oven bread"),
    "d2": ("", "sour bread of the baker"),
    "d3": ("River", "the river floods the valley"),
    "d4": ("", "a castle above the river"),
    "d5": ("", "violin and winter"),
    "d6": ("", ""),
}
QUERIES = {"q1": "bread", "q2": "river castle", "q3": "violin", "q4": "winter"}
QRELS = {"q1": {"d2": 2, "d1": 0}, "q2": {"d4": 1, "d3": 3, "d6": 1, "gone": 1}, "q3": {"d5": 0}, "q4": {"d5": 1}}


def write_beir(folder: Path, qrels: dict[str, dict[str, int]] = QRELS) -> Path:
    """Write the toy collection; `gone` is judged and has no text, `d6` has an empty one, q3 has no positive judgement."""
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": i, "title": title, "text": text} for i, (title, text) in CORPUS.items()]
    queries = [{"_id": i, "text": text} for i, text in QUERIES.items()]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = [f"{q}\t{d}\t{label}\n" for q, judged in qrels.items() for d, label in judged.items()]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8")
    return folder


def write_run(path: Path, lists: dict[str, list[str]]) -> Path:
    """A TREC run with these lists."""
    lines = [f"{q} Q0 {d} {i + 1} {100 - i} t\n" for q, ids in lists.items() for i, d in enumerate(ids)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@dataclass
class Fake:
    """A reranker that prefers documents with a word; `calls` counts how often it scored."""

    word: str = "baker"
    name: str = "fake"
    cuts: TruncationCounts = field(default_factory=TruncationCounts)
    calls: int = 0

    def score_lists(self, queries, documents, progress=None):
        self.calls += 1
        assert all(text for texts in documents for text in texts), "a document without text was scored"
        for texts in documents:
            self.cuts.total += len(texts)
            if progress:
                progress(len(texts))
        self.cuts.documents += 1
        return [np.array([1.5 if self.word in text else -1.0 for text in texts], np.float32) for texts in documents]

    def diagnose(self, queries, documents):
        scores = np.concatenate(self.score_lists(queries, documents))
        n = len(scores)
        hidden = np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32)
        is_answer = np.arange(n) > 0
        return SimpleNamespace(
            scores=scores, format_mass=np.full(n, 0.5), argmax_is_answer=is_answer, answer=scores > 0, hidden=hidden
        )
