"""Rule-based thoughts for labelled pairs: which query terms the document contains, and how close together they are.

A thought states only what can be counted and does not reveal the label. The answer decides whether that is sufficient, so its
log-odds remain graded. Each line has `"source": "extractive"`. In lists of five answers (training parts of wikiqa and trecqa) the
document with the most terms is the correct one for half of the queries; chance is a fifth.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from ..utils.files import atomic_file
from .examples import Group, best_labels, list_groups, sample_lists
from .jsonl import line_of
from .reasoning_examples import reasoning_row

STOP = frozenset(
    "a about after all also an and any are as at be been being between but by can could did do does for from had has have how i if "
    "in into is it its may more most not of on or other our should so some such than that the their them there these they this "
    "those to was we were what when where which while who whom why will with would you your".split()
)
WORD = re.compile(r"\w+(?:['’-]\w+)*")
ENDINGS = re.compile(r"(?:'s|ies|es|s|ed|ing|ly|e|y)$")
QUOTE = 14  # number of words quoted around the terms
NEAR = 12  # terms within this number of words count as close together


def label_extractive(groups: Sequence[Group], out: str | Path) -> str:
    """Write {"query", "document", "think", "answer", "label", "source"} for every labelled pair.

    Each pair is written once, with its highest label.

    Args:
        groups: labelled data.
        out: JSONL file to write.

    Returns:
        A one-line summary.

    Raises:
        DataError: there are no pairs.
    """
    labels = {pair: label for pair, label in best_labels(groups).items() if pair[1].strip()}
    if not labels:
        raise DataError("no labelled pairs with a text")
    with atomic_file(out) as handle:
        for (query, document), label in labels.items():
            row = reasoning_row(query, document, think(query, document), int(label > 0))
            handle.write(line_of(row | {"source": "extractive"}))
    yes = sum(label > 0 for label in labels.values())
    return f"{out}: {len(labels)} rule-based thoughts ({yes} yes, {len(labels) - yes} no)"


def label_extractive_lists(groups: Sequence[Group], out: str | Path, size: int, seed: int = 0) -> str:
    """Write {"query", "documents", "think", "answer", "source"} for one list per query. The answer is the label of the best
    document.

    Args:
        groups: labelled data.
        out: JSONL file to write.
        size: number of documents per list.
        seed: seed of the lists.

    Returns:
        A one-line summary.

    Raises:
        DataError: no list can be sampled.
    """
    lists = sample_lists(list_groups(groups), size, seed, 0)
    with atomic_file(out) as handle:
        for group in lists:
            best = group.labels.index(max(group.labels))
            row = {"query": group.query, "documents": group.documents, "think": think_of_list(group.query, group.documents)}
            handle.write(line_of(row | {"answer": f"[{best + 1}]", "source": "extractive"}))
    return f"{out}: {len(lists)} rule-based thoughts about lists of at most {size} documents"


def think_of_list(query: str, documents: Sequence[str]) -> str:
    """Write a thought about several documents: which query terms each contains, and which contain the most."""
    terms = key_terms(query)
    sentences, counts = [f"Key concepts of the query: {listed(terms)}."], []
    for number, document in enumerate(documents, start=1):
        known = {stem(word) for word in WORD.findall(document)}
        there = [term for term in terms if stem(term) in known]
        sentences.append(f"[{number}] has {listed(there) if there else 'none of them'}.")
        counts.append(len(there))
    best_labels = [f"[{number}]" for number, count in enumerate(counts, start=1) if count == max(counts)]
    return " ".join([*sentences, f"Most: {', '.join(best_labels)}."] if any(counts) else sentences)


def think(query: str, document: str) -> str:
    """Write a thought of a few sentences about one document."""
    words = WORD.findall(document)
    stems = [stem(word) for word in words]
    terms, known = key_terms(query), set(stems)
    there = [term for term in terms if stem(term) in known]
    missing = [term for term in terms if term not in there]
    sentences = [f"Key concepts of the query: {listed(terms)}."]
    if there:
        sentences.append(f"The document has {listed(there)}." if missing else "The document has all of them.")
    if missing:
        sentences.append(f"It does not mention {listed(missing)}." if there else "The document mentions none of them.")
    if there:
        begin, end = window(stems, {stem(term) for term in there})
        near = len(there) == 1 or end - begin <= NEAR
        how = "It is" if len(there) == 1 else f"They stand {'together' if near else f'{end - begin} words apart'}, as"
        sentences.append(f'{how} in "{_quote(words, begin, end)}".')
    return " ".join(sentences)


def key_terms(query: str, max_terms: int = 6) -> list[str]:
    """Return up to `max_terms` content words of a query, in order; all of its words if it has no content words."""
    words = list(dict.fromkeys(WORD.findall(query)))
    return ([word for word in words if word.casefold() not in STOP] or words or [query.strip()])[:max_terms]


def stem(word: str) -> str:
    """Lower-case a word and strip common English suffixes; words of other languages are not shortened."""
    word = word.casefold()
    short = ENDINGS.sub("", word)
    return short if len(short) >= 3 else word


def window(stems: list[str], wanted: set[str]) -> tuple[int, int]:
    """Return [begin, end) of the shortest span that contains all of `wanted`; the first of several. All must be in `stems`."""
    best, last = (0, len(stems)), {}
    for at, one in enumerate(stems):
        if one in wanted:
            last[one] = at
            if len(last) == len(wanted):
                best = min(best, (min(last.values()), at + 1), key=lambda span: span[1] - span[0])
    return best


def _quote(words: list[str], begin: int, end: int) -> str:
    """Words around a span; of a long span only its beginning."""
    spare = max(0, QUOTE - (end - begin))
    begin = max(0, begin - spare // 2)
    text = " ".join(words[begin : begin + QUOTE])
    return ("… " if begin else "") + text + (" …" if begin + QUOTE < len(words) else "")


def listed(terms: list[str]) -> str:
    """Return terms in quotation marks, joined by commas and "and"."""
    quoted = [f'"{term}"' for term in terms]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
