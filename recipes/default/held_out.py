"""Index of the test sets, which finds equal and nearly equal queries and documents.

Of a set that the default model trains on (scifact, cosqa), only the dev and test queries and their candidates are indexed; of other
sets everything is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from prorank.data.beir import read_texts
from prorank.data.examples import near_duplicates, normalised
from prorank.data.trec import read_qrels
from prorank.demo.semanlink import semanlink
from prorank.errors import DataError

from .clean import FUNCTION_WORDS, NearDuplicates

TRAINED = ("scifact", "cosqa", "medquad")  # only their training split is training data
SEMANLINK = ("semanlink_docs", "semanlink_arxiv")  # the task semanlink splits the union of these
ASKING = FUNCTION_WORDS | frozenset(
    "what who where why how when does do did define definition definitions meaning mean means explain tell me about information"
    " facts i we my".split()
)
KINDS = ("equal queries", "near queries", "equal documents", "near documents")


@dataclass
class Index:
    """Queries and documents of the test sets."""

    queries: dict[str, str] = field(default_factory=dict)  # test set by normalised query
    words: dict[str, list[int]] = field(default_factory=dict)  # indices of queries by word
    contents: list[tuple[frozenset[str], str]] = field(default_factory=list)
    documents: dict[str, str] = field(default_factory=dict)
    near: NearDuplicates = field(default_factory=NearDuplicates)
    sets: list[str] = field(default_factory=list)  # test set of each document in `near`

    def add(self, name: str, queries: Iterable[str], documents: Iterable[str]) -> None:
        """Add the texts of a test set."""
        for query in queries:
            self.queries.setdefault(normalised(query), name)
            for word in (content := content_words(query)):
                self.words.setdefault(word, []).append(len(self.contents))
            self.contents.append((content, name))
        for text in documents:
            if (key := normalised(text)) and key not in self.documents:
                self.documents[key] = name
                self.near.add(text)
                self.sets.append(name)

    def query(self, text: str) -> tuple[str, str] | None:
        """Look up a training query. Returns (kind of match, test set), None if no test set contains it."""
        if (key := normalised(text)) in self.queries:
            return KINDS[0], self.queries[key]
        content = content_words(text)
        places = {place for word in content for place in self.words.get(word, ())}
        match = next((self.contents[p] for p in sorted(places) if near_duplicates(content, self.contents[p][0])), None)
        return (KINDS[1], match[1]) if match else None

    def document(self, text: str) -> tuple[str, str] | None:
        """Look up a training document. Returns (kind of match, test set), None if no test set contains it."""
        if (key := normalised(text)) in self.documents:
            return KINDS[2], self.documents[key]
        place = self.near.find(text)
        return None if place is None else (KINDS[3], self.sets[place])


def content_words(query: str) -> frozenset[str]:
    """Return the content words of a query. "define X", "X meaning" and "what is X" have the same."""
    words = normalised(query).split()
    return frozenset(word for word in words if word not in ASKING) or frozenset(words)


def test_index(data: Path) -> Index:
    """Index all test sets in a folder of BEIR folders, and the test part of semanlink. Raises DataError if there are none."""
    index = Index()
    folders = sorted(path.parent for path in data.glob("*/queries.jsonl"))
    if not folders:
        raise DataError(f"{data}: no BEIR folders here; set PRORANK_DATA or --tests to the folder of the test sets")
    for folder in folders:
        if folder.name not in SEMANLINK:
            index.add(folder.name, *_test_part(folder))
    corpus, queries = read_texts(semanlink().test)
    index.add("semanlink", queries.values(), corpus.values())
    return index


def _test_part(folder: Path) -> tuple[list[str], list[str]]:
    """Queries and documents that must not be trained on."""
    corpus, queries = read_texts(folder)
    if folder.name not in TRAINED:
        return list(queries.values()), list(corpus.values())
    labels = [read_qrels(path) for path in sorted((folder / "qrels").glob("*.tsv")) if path.stem in ("dev", "test")]
    wanted = {doc for split in labels for row in split.values() for doc in row}
    run = folder / "protocol.run.txt"
    wanted |= {line.split()[2] for line in run.read_text(encoding="utf-8").splitlines()} if run.is_file() else set()
    asked_for = {qid for split in labels for qid in split}
    return [queries[qid] for qid in sorted(asked_for & queries.keys())], [corpus[doc] for doc in sorted(wanted & corpus.keys())]
