"""The language of a corpus: names, and detection by script and by the share of function words.

Korean and scripts without spaces between words (Chinese, Japanese, Thai, ...) are recognised by their characters, Greek, Armenian
and Tamil by their alphabet, other languages by their function words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ConfigError, extra
from .function_words import FUNCTION_WORDS

AUTO, NONE, ENGLISH = "auto", "none", "english"
HAN = "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Characters by language of the scripts that are split into character bigrams, without punctuation and digits.
UNSPACED = {
    "japanese": "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f",
    "korean": "\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3",
    "thai": "\u0e01-\u0e3a\u0e40-\u0e4e",
    "lao": "\u0e81-\u0ebd\u0ec0-\u0ecd\u0edc-\u0edf",
    "khmer": "\u1780-\u17d3",
    "burmese": "\u1000-\u103f\u1050-\u109f",
    "chinese": HAN + "\u3105-\u312f\u31a0-\u31bf",
}
ALPHABETS = {"greek": "\u0370-\u03ff\u1f00-\u1fff", "armenian": "\u0531-\u0587", "tamil": "\u0b80-\u0bff"}
BM25S_LISTS = "german dutch french spanish portuguese italian russian swedish norwegian danish turkish".split()
CODES = {
    "ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish",
    "fi": "finnish", "fr": "french", "hi": "hindi", "hu": "hungarian", "id": "indonesian", "it": "italian", "ja": "japanese",
    "ko": "korean", "nl": "dutch", "no": "norwegian", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sv": "swedish",
    "th": "thai", "tr": "turkish", "zh": "chinese",
}  # fmt: skip

PUNCTUATION = ".,;:!?¿¡\"'()[]«»„“”‘’-–।،۔؟"

SAMPLE_TEXTS, SAMPLE_CHARACTERS = 1000, 1000  # texts of a corpus that are read, spread evenly, and characters of each
MIN_SHARE, MIN_ENGLISH_SHARE = 0.1, 0.04  # of function words; English catalogues and source code have few
MIN_RATIO = 2  # function words of the language alone, in comparison with those of any other language alone
MIN_UNSPACED = 0.01  # share of a script without spaces; a smaller one is names and quotations
KANA_SHARE = 0.05  # of Japanese and Chinese characters; Chinese texts quote fewer


@dataclass(frozen=True)
class Language:
    """How the texts of a corpus are split into terms.

    Attributes:
        words: language of the words between spaces, whose stemmer and stop words apply; None for neither.
        unspaced: language of the characters without spaces, which become bigrams; None if there are (almost) none.
        detected: whether the language was detected rather than chosen.
    """

    words: str | None
    unspaced: str | None = None
    detected: bool = False

    @property
    def name(self) -> str:
        """The name for messages, such as "chinese" or "english and chinese"; "" if no language is known."""
        return " and ".join(filter(None, (self.words, self.unspaced)))

    @property
    def note(self) -> str:
        """What users should know about the detection; "" for English texts and for a chosen language."""
        if not self.detected or (self.words == ENGLISH and not self.unspaced):
            return ""
        if not self.name:
            return "BM25: the language of the texts was not recognised; words are not stemmed, no stop words (--language sets it)"
        shown = self.name.title().replace(" And ", " and ")
        return f"BM25: the texts look {shown} ({self._treatment}); --language sets another language"

    @property
    def _treatment(self) -> str:
        parts = {"stemmer": self.words, "stop words": stop_words(self.words), "character bigrams": self.unspaced}
        return ", ".join(part for part, applies in parts.items() if applies)


def language_names() -> list[str]:
    """Return the valid names, sorted: Snowball's languages, those of character bigrams, "none" and "auto".

    Raises:
        MissingExtra: PyStemmer is not installed.
    """
    return sorted({AUTO, NONE, *UNSPACED, *_stemmers()})


def check_language(name: str) -> str:
    """Return the full name of a language, or of an ISO 639-1 code such as "de".

    Args:
        name: see `language_names`, in any case.

    Raises:
        ConfigError: the name is unknown; the message lists the valid ones.
        MissingExtra: PyStemmer is not installed, and the name is not "auto".
    """
    low = name.strip().lower() if isinstance(name, str) else repr(name)  # None is not "none"
    low = CODES.get(low, low)
    if low != AUTO and low not in (names := language_names()):
        raise ConfigError(f"language: {name!r} is unknown; valid: {', '.join(names)}")
    return low


def language_of(name: str, texts: Sequence[str]) -> Language:
    """Return the language with this name, or for "auto" that of the texts.

    Args:
        name: see `language_names`.
        texts: the corpus.

    Raises:
        ConfigError: the name is unknown.
        MissingExtra: bm25s or PyStemmer is not installed.
    """
    name = check_language(name)
    if name == AUTO:
        return detect_language(texts)
    return Language(None, name) if name in UNSPACED else Language(None if name == NONE else name)


def detect_language(texts: Sequence[str]) -> Language:
    """Detect the language of a corpus from at most `SAMPLE_TEXTS` of its texts.

    Args:
        texts: the corpus.

    Returns:
        The language; its `words` are None if no language stands out, or one that has no stemmer.

    Raises:
        MissingExtra: bm25s or PyStemmer is not installed.
    """
    step = -(-len(texts) // SAMPLE_TEXTS) or 1
    sample = "\n".join(text[:SAMPLE_CHARACTERS] for text in texts[::step]).lower()
    counts = {language: len(re.findall(f"[{characters}]", sample)) for language, characters in UNSPACED.items()}
    for characters in UNSPACED.values():
        sample = re.sub(f"[{characters}]+", " ", sample)
    stripped = (word.strip(PUNCTUATION) for word in sample.split())
    words = Counter(word for word in stripped if word and not word.isdigit())
    unspaced = sum(counts.values()) / 2  # a word has about two characters in these scripts
    share = unspaced / (unspaced + words.total() or 1)
    spaced = _language_of_words(words) if share < 1 - MIN_SHARE else None
    return Language(spaced, _unspaced_language(counts) if share >= (MIN_UNSPACED if spaced else 0.5) else None, detected=True)


def _unspaced_language(counts: dict[str, int]) -> str:
    """Return the language with the most characters. Chinese characters are Japanese where kana stand beside them."""
    japanese = counts["japanese"] >= KANA_SHARE * (counts["japanese"] + counts["chinese"]) and counts["japanese"] > 0
    if japanese:
        counts = {**counts, "japanese": counts["japanese"] + counts["chinese"], "chinese": 0}
    return max(counts, key=counts.__getitem__)


def _language_of_words(words: Counter[str]) -> str | None:
    """Return the language whose function words are frequent, and more frequent than those that only another language has."""
    letters = "".join(words)
    for language, characters in ALPHABETS.items():
        if len(re.findall(f"[{characters}]", letters)) > len(letters) / 2:
            return language
    lists, total = _function_words(), words.total() or 1
    for language, own in lists.items():
        share = _count(words, own) / total
        if share >= (MIN_ENGLISH_SHARE if language == ENGLISH else MIN_SHARE) and all(
            _count(words, own - other) >= max(2, MIN_RATIO * _count(words, other - own))
            for name, other in lists.items()
            if name != language
        ):
            return language if language in _stemmers() else None
    return None


def _count(words: Counter[str], listed: set[str]) -> int:
    return sum(words[word] for word in listed)


def _function_words() -> dict[str, set[str]]:
    """Return the stop words of bm25s by language, and our words where it has none."""
    ours = {name: words.split() for name, words in FUNCTION_WORDS.items()}
    theirs = {name: words for name in ("en_plus", *BM25S_LISTS) if (words := _bm25s_list(name))}
    return {name.replace("en_plus", ENGLISH): set(words) for name, words in (ours | theirs).items()}


def stop_words(language: str | None) -> list[str]:
    """Return bm25s's stop words of a language; [] for None and for languages of which it has none."""
    return _bm25s_list("en" if language == ENGLISH else language) if language in (ENGLISH, *BM25S_LISTS) else []


def _bm25s_list(name: str | None) -> list[str]:
    """Return a list by its name in bm25s, [] if the installed version has no such list."""
    with extra("eval"):
        from bm25s import stopwords
    return list(getattr(stopwords, f"STOPWORDS_{str(name).upper()}", ()))


def _stemmers() -> list[str]:
    """Return the languages of PyStemmer, without its older variants of two of them."""
    with extra("eval"):
        import Stemmer
    return [name for name in Stemmer.algorithms() if "porter" not in name]
