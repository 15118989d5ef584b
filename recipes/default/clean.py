"""Clean texts for training: whole sentences, prose only, no near-duplicates.

Prose is distinguished from tables, code and lists of names by its share of function words, which is above a fifth in English.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from prorank.data.examples import normalised

WORDS = (40, 250)  # minimum and maximum number of words of a document
FUNCTION_WORDS = frozenset(
    "a about after all also an and any are as at be been between but by can for from had has have he her his if in into is it its"
    " may more most no not of on one or other she so some such than that the their them there these they this to used was were"
    " when which while who will with would you your".split()
)
LEAST_FUNCTION_WORDS = 0.2
SHINGLE = 5  # words
SAME_SHARE = 0.5  # of the shorter text's shingles; near-duplicates share at least this
FEWEST_COMMON = 4  # shingles


def squeezed(text: str) -> str:
    """Join a text to one line and remove leftovers of removed markup."""
    text = re.sub(r"\(\s*[,;.]*\s*\)|\[\s*\]", " ", text.replace("\u00ad", "").replace("\u200b", ""))
    text = re.sub(r"\s+([,.;:?!)])", r"\1", " ".join(text.split()))
    return re.sub(r"([,;])(?:[,;])+", r"\1", text)


def sentences(text: str) -> list[str]:
    """Split running text at sentence ends. One-letter abbreviations do not end a sentence."""
    parts = re.split(r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\bcf\.)(?<!\be\.g\.)(?<!\bi\.e\.)\s+(?=[\"'“(]?[A-Z0-9])", text)
    return [part for part in parts if part]


def passages(text: str, min_words: int = WORDS[0], max_words: int = WORDS[1], aim: int = 120) -> Iterator[str]:
    """Split a text at sentence ends into passages of about `aim` words.

    Passages have `min_words` to `max_words` words; a shorter remainder is dropped.
    """
    collected: list[str] = []
    for sentence in sentences(squeezed(text)):
        count = len(" ".join(collected).split())
        if collected and (count >= aim or count + len(sentence.split()) > max_words):
            if count >= min_words:
                yield " ".join(collected)
            collected = []
        collected.append(sentence)
    if min_words <= len(" ".join(collected).split()) <= max_words:
        yield " ".join(collected)


def first_passage(text: str, min_words: int = WORDS[0], max_words: int = WORDS[1]) -> str:
    """Return the first sentences of a text, up to `max_words` words; "" if they have fewer than `min_words`."""
    kept: list[str] = []
    for sentence in sentences(squeezed(text)):
        if len(" ".join([*kept, sentence]).split()) > max_words:
            break
        kept.append(sentence)
    cut = " ".join(kept)
    return cut if len(cut.split()) >= min_words else ""


def is_prose(text: str) -> bool:
    """Whether a text looks like English prose: function words, plain letters, normal word lengths."""
    words = re.findall(r"[^\W\d_]+", text.casefold())
    if len(words) < 8:
        return False
    function = sum(word in FUNCTION_WORDS for word in words) / len(words)
    plain = sum(char.isascii() and char.isalpha() or char.isspace() for char in text) / len(text)
    code = len(re.findall(r"[{}<>|=\\_;#$@^~*/]", text)) / len(text)
    return function >= LEAST_FUNCTION_WORDS and plain >= 0.8 and code <= 0.02 and 3 <= sum(map(len, words)) / len(words) <= 8


def without_heading(text: str, heading: str) -> str:
    """Remove a verbatim heading from the start of a text."""
    pattern = r"\W*" + r"\W+".join(map(re.escape, heading.split())) + r"\W+"
    cut = re.sub("^" + pattern, "", text, count=1, flags=re.IGNORECASE)
    return cut if cut != text and cut[:1].isupper() else text


def shingles(text: str, size: int = SHINGLE) -> set[int]:
    """Return hashes of all runs of `size` normalised words; a shorter text is one run. Hashes are valid in this process only."""
    words = normalised(text).split()
    return {hash(" ".join(words[i : i + size])) for i in range(max(len(words) - size + 1, 1))}


class NearDuplicates:
    """An index of texts that finds near-duplicates by shared shingles."""

    def __init__(self) -> None:
        self.places: dict[int, list[int]] = {}
        self.sizes: list[int] = []

    def add(self, text: str) -> None:
        """Add a text to the index."""
        runs = shingles(text)
        for run in runs:
            self.places.setdefault(run, []).append(len(self.sizes))
        self.sizes.append(len(runs))

    def find(self, text: str) -> int | None:
        """Return the first indexed text that shares at least `SAME_SHARE` of the shorter text's shingles, None if there is none."""
        runs = shingles(text)
        common = Counter(place for run in runs for place in self.places.get(run, ()))
        return min((place for place, count in common.items() if self._same(count, len(runs), self.sizes[place])), default=None)

    @staticmethod
    def _same(common: int, one: int, other: int) -> bool:
        # Short texts share phrases such as "is one of the most" by chance, so they must be equal.
        return common >= max(SAME_SHARE * min(one, other), FEWEST_COMMON) or common == one == other
