"""Mine hard negatives: documents that BM25 ranks high for a query and that are probably not relevant.

Labels are incomplete, so a high-ranked unlabelled document is often relevant. Filters drop suspicious candidates, and the report
counts them. Judged non-relevant documents are used first and need no filters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from random import Random

from ..errors import ConfigError, DataError
from .beir import Collection
from .bm25 import Bm25
from .examples import Group, near_duplicates, normalised
from .formats import write_groups
from .languages import AUTO, check_language
from .terms import word_set

__all__ = ["MineReport", "mine_negatives", "write_groups"]


@dataclass
class MineReport:
    """Counts of a `mine_negatives` call.

    Attributes:
        queries: number of queries with labels.
        groups: number of groups made.
        no_positive: number of queries without a relevant document, which are left out.
        positives, judged, mined, random: number of documents by origin: relevant, judged non-relevant, from BM25, random.
        dropped: number of dropped BM25 candidates by reason: relevant, judged, excluded, rank_window, score_window; and of the
            examined ones near_duplicate (of a relevant document), repeated (of a chosen negative), is_query.
        short: number of groups with fewer negatives than requested.
        language: note on the language that was detected; "" for English.
    """

    queries: int = 0
    groups: int = 0
    no_positive: int = 0
    positives: int = 0
    judged: int = 0
    mined: int = 0
    random: int = 0
    short: int = 0
    language: str = ""
    dropped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        dropped = ", ".join(f"{reason} {count}" for reason, count in sorted(self.dropped.items())) or "none"
        return (
            f"{self.groups} groups of {self.queries} queries ({self.no_positive} without a relevant document); "
            f"{self.positives} relevant; non-relevant: {self.judged} judged, {self.mined} mined, {self.random} random; "
            f"{self.short} short groups; candidates dropped: {dropped}"
            f"{self.language and f'; {self.language}'}"
        )


def mine_negatives(
    collection: Collection,
    depth: int = 100,
    negatives: int = 7,
    skip_top: int = 0,
    max_ratio: float | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    random: int = 0,
    language: str = AUTO,
) -> tuple[list[Group], MineReport]:
    """Make one group per query: its relevant documents with their grades, then negatives.

    Negatives are judged non-relevant documents (highest BM25 score first), then a random sample of the documents at BM25 ranks
    skip_top+1 to depth that pass the filters, then, if these are too few, random documents that pass the filters.

    Args:
        collection: documents, queries and labels, see `read_beir`.
        depth: last BM25 rank to consider.
        negatives: number of negatives per query.
        skip_top: number of top ranks to skip, where unlabelled relevant documents are most likely.
        max_ratio: drop candidates whose BM25 score exceeds this fraction of the best relevant document's; None for no limit.
        seed: seed of the sample.
        progress: called with 1 after each query.
        random: how many of the negatives are random documents outside BM25's ranks. They are easy, which helps a model that cannot
            rank yet.
        language: language of BM25's stemmer and stop words, or of character bigrams; "auto" detects it from the corpus.

    Returns:
        (groups in the order of the labels, report).

    Raises:
        ConfigError: a number is out of range, or the language is unknown.
        DataError: a label names an unknown document or query (file:line), or no query has a relevant document.
    """
    if not 0 <= skip_top < depth or negatives < 1 or (max_ratio is not None and max_ratio <= 0) or not 0 <= random <= negatives:
        raise ConfigError(
            "mine needs 0 <= skip_top < depth, negatives >= 1 and max_ratio > 0, 0 <= random <= negatives; "
            f"got skip_top {skip_top}, depth {depth}, negatives {negatives}, max_ratio {max_ratio}, random {random}"
        )
    check_language(language)
    collection.check_training()
    miner = _Miner(collection, depth, negatives, skip_top, max_ratio, seed, random, language)
    groups = []
    for qid in collection.qrels:
        miner.report.queries += 1
        groups += miner.group(qid)
        if progress:
            progress(1)
    if not groups:
        raise DataError(f"{collection.name}: no query has a relevant document (label > 0), nothing to mine for")
    miner.report.groups = len(groups)
    return groups, miner.report


@dataclass
class _Miner:
    """State of one `mine_negatives` call: settings, index, cached word sets, counts."""

    collection: Collection
    depth: int
    negatives: int
    skip_top: int
    max_ratio: float | None
    seed: int
    random: int
    language: str
    report: MineReport = field(default_factory=MineReport)
    _words: dict[str, tuple[str, frozenset[str]]] = field(default_factory=dict)

    @cached_property
    def bm25(self) -> Bm25:
        """The index over the corpus, built on first use."""
        index = Bm25(self.collection.corpus, language=self.language)
        self.report.language = index.language.note
        return index

    def group(self, qid: str) -> list[Group]:
        """The group of a query in a list, [] if the query has no relevant document."""
        labels, rng = self.collection.qrels[qid], Random(f"mine/{self.seed}/{qid}")
        positives = [doc for doc, label in labels.items() if label > 0]
        if not positives:
            self.report.no_positive += 1
            return []
        chosen = self._judged(qid, labels, positives)
        self.report.judged += len(chosen)
        if len(chosen) < self.negatives:
            ranked = self.bm25.search({qid: self.collection.queries[qid]}, self.depth)[qid]
            hard = max(len(chosen), self.negatives - self.random)
            chosen = self._fill(qid, positives, chosen, self._candidates(qid, ranked, positives, rng), "mined", hard)
            if len(chosen) < self.negatives:
                others = rng.sample(self.bm25.ids, min(len(self.bm25.ids), 10 * self.negatives + len(ranked)))
                others = [doc for doc in others if doc not in ranked and not self._known(qid, doc)]
                chosen = self._fill(qid, positives, chosen, others, "random", self.negatives)
        self.report.positives += len(positives)
        self.report.short += len(chosen) < self.negatives
        ids = (*positives, *chosen)
        grades = (*(float(labels[doc]) for doc in positives), *[0.0] * len(chosen))
        texts = tuple(self.collection.corpus[doc] for doc in ids)
        return [Group(self.collection.queries[qid], texts, grades, qid, ids)]

    def _judged(self, qid: str, labels: dict[str, int], positives: list[str]) -> list[str]:
        """Judged non-relevant documents, highest BM25 score first, except those whose text is also relevant."""
        same = {self.words(doc)[0] for doc in positives}
        judged = [doc for doc, label in labels.items() if label <= 0 and self.words(doc)[0] not in same]
        if not judged:
            return []
        scores = dict(zip(judged, self.bm25.scores(self.collection.queries[qid], judged)))
        return sorted(judged, key=lambda doc: -scores[doc])[: self.negatives]

    def _candidates(self, qid: str, ranked: dict[str, float], positives: list[str], rng: Random) -> list[str]:
        """Unjudged BM25 candidates within the rank and score windows, shuffled."""
        best = float(self.bm25.scores(self.collection.queries[qid], positives).max())
        # If no relevant document shares a word with the query, there is no score to compare with.
        limit = best * self.max_ratio if self.max_ratio is not None and best > 0 else float("inf")
        kept = []
        for rank, (doc, score) in enumerate(ranked.items()):
            reason = self._known(qid, doc)
            reason = reason or ("rank_window" if rank < self.skip_top else "score_window" if score > limit else "")
            if reason:
                self.report.dropped[reason] += 1
            else:
                kept.append(doc)
        rng.shuffle(kept)
        return kept

    def _known(self, qid: str, doc: str) -> str:
        """The reason why labels or exclusions rule out a candidate, or ""."""
        labels = self.collection.qrels[qid]
        if doc in labels:
            return "relevant" if labels[doc] > 0 else "judged"
        return "excluded" if (qid, doc) in self.collection.excluded else ""

    def _fill(self, qid: str, positives: list[str], chosen: list[str], candidates: list[str], source: str, count: int) -> list[str]:
        """Return `chosen` plus candidates, in order, that pass the text filters, until there are `count`."""
        chosen, query = list(chosen), normalised(self.collection.queries[qid])
        taken = {self.words(doc)[0] for doc in chosen}
        for doc in candidates:
            if len(chosen) == count:
                break
            reason = self._doubt(doc, positives, taken, query)
            if reason:
                self.report.dropped[reason] += 1
            else:
                chosen.append(doc)
                taken.add(self.words(doc)[0])
                setattr(self.report, source, getattr(self.report, source) + 1)
        return chosen

    def _doubt(self, doc: str, positives: list[str], taken: set[str], query: str) -> str:
        """The reason why its text rules out a candidate, or ""."""
        text, words = self.words(doc)
        if text == query:
            return "is_query"
        if any(text == self.words(p)[0] or near_duplicates(words, self.words(p)[1]) for p in positives):
            return "near_duplicate"
        return "repeated" if text in taken else ""

    def words(self, doc: str) -> tuple[str, frozenset[str]]:
        """Return (normalised text, set of its words) of a document."""
        if doc not in self._words:
            text = normalised(self.collection.corpus[doc])
            self._words[doc] = (text, word_set(text) if self.bm25.language.unspaced else frozenset(text.split()))
        return self._words[doc]
