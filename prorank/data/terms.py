"""Split texts into the terms of BM25: stemmed words without stop words, and character bigrams of scripts without spaces."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

from ..errors import extra
from .languages import ENGLISH, UNSPACED, Language, stop_words

UNSPACED_RUN = re.compile(f"[{''.join(UNSPACED.values())}]+")
TURKISH_CASE = str.maketrans({"I": "ı", "İ": "i"})
SOFT_HYPHEN = "\u00ad"
LAST_MARK = 0x1FFFF  # higher planes have variation selectors only


class TermSplitter:
    """Splits texts into terms.

    English texts are split as by `bm25s.tokenize` with its stop words and Snowball's stemmer. Texts of other languages are
    normalised (NFKC) first. A run of characters without spaces becomes its bigrams, or one term if it is a single character.

    Args:
        language: language of the corpus.

    Raises:
        MissingExtra: bm25s or PyStemmer is not installed.
    """

    def __init__(self, language: Language) -> None:
        with extra("eval"):
            import bm25s
            import Stemmer
        self.language = language
        self._tokenize = bm25s.tokenize
        self._stemmer = Stemmer.Stemmer(language.words) if language.words else None
        self._stop_words = stop_words(language.words)
        # Digits and letters that stand alone count in texts without spaces ("C 语言"); elsewhere they are mostly function words.
        self._shortest_word = 1 if language.unspaced and not language.words else 2

    def split(self, texts: list[str], documents: bool = False) -> list[list[str]]:
        """Return the terms of each text.

        Args:
            texts: queries or documents.
            documents: also return each single character of a run without spaces, so that a query of one character finds it.
        """
        if self.language.words == ENGLISH and self.language.unspaced is None:
            return self._words(texts)
        texts = [self._normalised(text) for text in texts]
        words = self._words([UNSPACED_RUN.sub(" ", text) for text in texts], token_pattern=_word_pattern(self._shortest_word))
        return [row + unspaced_terms(text, documents) for row, text in zip(words, texts)]

    def _words(self, texts: list[str], **options: Any) -> list[list[str]]:
        options |= {"stopwords": self._stop_words, "stemmer": self._stemmer}
        return self._tokenize(texts, return_ids=False, show_progress=False, **options)

    def _normalised(self, text: str) -> str:
        text = unicodedata.normalize("NFKC", text).replace(SOFT_HYPHEN, "")
        return text.translate(TURKISH_CASE) if self.language.words == "turkish" else text


def word_set(text: str) -> frozenset[str]:
    """Return the words between spaces, and the bigrams of characters without spaces."""
    return frozenset(UNSPACED_RUN.sub(" ", text).split() + unspaced_terms(text))


def unspaced_terms(text: str, documents: bool = False) -> list[str]:
    """Return the bigrams of each run of characters without spaces, and for documents also the single characters.

    A run of a single character is one term.
    """
    terms: list[str] = []
    for run in UNSPACED_RUN.findall(text):
        units = _units(run)
        terms += [first + second for first, second in zip(units, units[1:])]
        if documents or len(units) == 1:
            terms += units
    return terms


def _units(run: str) -> list[str]:
    """Split a run into characters with the combining marks that follow them, such as Thai vowels and tones."""
    if not _mark_pattern().search(run):
        return list(run)
    return re.findall(f".(?:{_mark_pattern().pattern})*", run)


@cache
def _mark_pattern() -> re.Pattern[str]:
    """A combining mark. `\\w` contains none, so it would split words of Hindi at their vowels."""
    ranges: list[list[int]] = []
    for code in range(LAST_MARK + 1):
        if unicodedata.category(chr(code))[0] == "M":
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return re.compile(f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in ranges)}]")


@cache
def _word_pattern(length: int) -> str:
    """At least `length` letters, digits and combining marks."""
    return f"(?:\\w|{_mark_pattern().pattern}){{{length},}}"
