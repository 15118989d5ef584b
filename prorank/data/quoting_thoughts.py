"""Rule-based thoughts that carry evidence: they quote a sentence of the document and name the query terms that it has and lacks.

The sentence is the one with the most query terms or, with a reranker, the one of these that it scores highest, so a thought says
nothing of the label. A reranker's score of the whole document is kept beside the label; stage `sft` can distil it
(`teacher_weight`). Each line has `"source": "quoting"`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import DataError
from ..utils.files import atomic_file
from .examples import Group, best_labels
from .extractive_thoughts import WORD, key_terms, listed, stem
from .jsonl import line_of
from .reasoning_examples import TAG, reasoning_row

SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|\n+")
MAX_CANDIDATES = 4  # sentences of a document that are scored
MAX_QUOTED_WORDS = 16
BLOCK = 32  # queries that are scored together
LOG_ODDS_DIGITS = 4


class SentenceScorer(Protocol):
    """What this module needs of a `Reranker`."""

    def score_lists(self, queries: Sequence[str], documents: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Return log-odds of each query's documents."""


def label_quoting(
    groups: Sequence[Group], out: str | Path, scorer: SentenceScorer | None = None, progress: Callable[[float], None] | None = None
) -> str:
    """Write {"query", "document", "think", "answer", "label", "score", "source"} for every labelled pair.

    Args:
        groups: labelled data. Each pair is written once, with its highest label.
        out: JSONL file to write.
        scorer: scores sentences and documents, such as a `Reranker`; with None, lines have no `score`.
        progress: called with the share of pairs that are done.

    Returns:
        A one-line summary.

    Raises:
        DataError: there are no pairs with a text.
    """
    labels = {pair: label for pair, label in best_labels(groups).items() if pair[1].strip()}
    if not labels:
        raise DataError("no labelled pairs with a text")
    pairs = list(labels)
    with atomic_file(out) as handle:
        for start in range(0, len(pairs), BLOCK):
            block = pairs[start : start + BLOCK]
            for (query, document), sentence, score in zip(block, best_sentences(block, scorer), _scores(block, scorer)):
                row = reasoning_row(query, document, quoting_thought(query, sentence), int(labels[query, document] > 0))
                known = {} if score is None else {"score": round(score, LOG_ODDS_DIGITS)}
                handle.write(line_of(row | known | {"source": "quoting"}))
            if progress:
                progress((start + len(block)) / len(pairs))
    yes = sum(label > 0 for label in labels.values())
    return f"{out}: {len(labels)} quoting thoughts ({yes} yes, {len(labels) - yes} no)"


def best_sentences(pairs: Sequence[tuple[str, str]], scorer: SentenceScorer | None = None) -> list[str]:
    """Return the sentence of each pair's document with the most query terms, or the one of these that the scorer prefers.

    Args:
        pairs: (query, document).
        scorer: see `label_quoting`; it chooses among a few sentences. Documents of one sentence are not scored.
    """
    if scorer is None:
        return [_candidates(query, document, 1)[0] for query, document in pairs]
    candidates = [_candidates(query, document, MAX_CANDIDATES) for query, document in pairs]
    several = [i for i, sentences in enumerate(candidates) if len(sentences) > 1]
    rows = scorer.score_lists([pairs[i][0] for i in several], [candidates[i] for i in several]) if several else []
    best = [sentences[0] for sentences in candidates]
    for i, scores in zip(several, rows):
        best[i] = candidates[i][int(np.argmax(scores))]
    return best


def quoting_thought(query: str, sentence: str) -> str:
    """Write a thought that quotes a sentence, at most its first words, and names the query terms that the quotation has and lacks.

    Tags of the format inside the sentence are removed.
    """
    words = TAG.sub(" ", sentence).split()
    quoted = " ".join(words[:MAX_QUOTED_WORDS]) + (" …" if len(words) > MAX_QUOTED_WORDS else "")
    return f'"{quoted}" {term_sentence(query, quoted)}'


def term_sentence(query: str, quoted: str) -> str:
    """Write which terms of the query a quotation has, and which it lacks."""
    known = {stem(word) for word in WORD.findall(quoted)}
    terms = [term for term in key_terms(query) if not TAG.search(term)]
    there = [term for term in terms if stem(term) in known]
    missing = [term for term in terms if stem(term) not in known]
    has = f"It has {listed(there)}" if there else "It has no term of the query"
    return has + (f", not {listed(missing)}." if there and missing else ".")


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text that have a word; the whole text if there is none."""
    return [part.strip() for part in SENTENCE_END.split(text) if WORD.search(part)] or [text.strip()]


def _candidates(query: str, document: str, count: int) -> list[str]:
    """Return the `count` sentences with the most query terms, in the order of the document."""
    sentences, terms = split_sentences(document), {stem(term) for term in key_terms(query)}
    counts = [len(terms & {stem(word) for word in WORD.findall(sentence)}) for sentence in sentences]
    kept = sorted(range(len(sentences)), key=lambda i: -counts[i])[:count]
    return [sentences[i] for i in sorted(kept)]


def _scores(pairs: Sequence[tuple[str, str]], scorer: SentenceScorer | None) -> list[float | None]:
    if scorer is None:
        return [None] * len(pairs)
    rows = scorer.score_lists([query for query, _ in pairs], [[document] for _, document in pairs])
    return [float(row[0]) for row in rows]
