"""The demo's task: search the Django documentation. Queries are section headings; relevant is the section, without its heading.

Headings of three words and more that occur once are queries, and all sections are documents. A fixed hash of its name puts each
page with all its sections into train or test, so no query and no relevant section of one is in the other. Queries of test are those
whose section is among BM25's first `CANDIDATES`: a reranker of these can do nothing for the others.

Source: the sdist of Django 5.2.8 (BSD-3-Clause), fetched by pip, whose SHA-256 is checked before anything of it is run or read.
Release notes and `internals`, which is about the development of Django itself, are left out.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

from ..data.bm25 import Bm25
from ..data.examples import SAME, near_duplicates, normalised
from ..errors import DataError
from .rst_sections import Section, read_sections
from .task_files import Part, Sdist, TaskPaths, build_task, hash_fraction, part_of

NAME = "django-docs"
RECIPE = 6  # version of the task; caches of other versions are rebuilt
SDIST = Sdist("Django", "5.2.8", "23254866a5bb9a2cfa6004e8b809ec6246eba4b58a7589bc2772f1bcc8456c7f", "BSD-3-Clause")
# Shares of the pages. The demo's amounts and lengths were chosen on a quarter of the test pages.
PARTS = {"train": 0.40, "test": 0.60}
LEFT_OUT = ("docs/releases/", "docs/internals/")
MIN_QUERY_WORDS = 3  # shorter headings, such as "Example", do not say what their section is about
MIN_WORDS = 12  # of a section's text
CANDIDATES = 5  # sections that BM25 finds for a query of test


def django_docs(cache: str | Path | None = None, source: str | Path | None = None) -> TaskPaths:
    """Build the task in `cache`/django-docs unless it is there, and return its folders.

    Args:
        cache: folder; the user's cache by default.
        source: the sdist, or a folder that holds `docs`; by default pip fetches the sdist.

    Raises:
        DataError: the sdist cannot be fetched, has another hash, or lacks the files.
    """
    return build_task(NAME, RECIPE, SDIST, cache, source, lambda path: build(_read_pages(path)))


def _read_pages(source: Path) -> dict[str, str]:
    """Text of each page by its name, such as "docs/topics/cache.txt"."""
    if source.is_dir():
        names = sorted(path.relative_to(source).as_posix() for path in (source / "docs").rglob("*.txt"))
        files = {name: (source / name).read_bytes() for name in names if _is_page(name)}
    else:
        files = SDIST.read(source, _is_page)
    if not files:
        raise DataError(f"{source}: holds no page docs/**/*.txt; name the sdist of {SDIST}, or its unpacked folder")
    return {name: content.decode("utf-8") for name, content in files.items()}


def _is_page(name: str) -> bool:
    return name.startswith("docs/") and name.endswith(".txt") and not name.startswith(LEFT_OUT)


def build(pages: dict[str, str]) -> dict[str, Part]:
    """Build the parts of the task. The same pages give the same parts on every machine.

    Queries and their sections come from the part's own pages. The corpus of test is the whole documentation, as a reader searches
    it, so training sections are among the wrong answers there; the training corpus holds training pages only. Sections of few words
    are left out. Of sections with nearly the same words only the first is kept, train before test.

    Args:
        pages: text by name.

    Returns:
        Part by name: "train", "test". Queries are ordered by hash, so that the first n are a random sample.
    """
    sections = {name: read_sections(page) for name, page in pages.items()}
    headings = Counter(normalised(section.heading) for members in sections.values() for section in members)
    seen = SeenTexts(
        Counter(word for members in sections.values() for section in members for word in set(normalised(section.text).split()))
    )
    parts = {}
    for part in PARTS:
        pages_of_part = [page for page in sections if part_of(page, PARTS) == part]
        corpus = {
            f"{page.removeprefix('docs/').removesuffix('.txt')}#{number}": section
            for page in pages_of_part
            for number, section in enumerate(sections[page])
            if len(normalised(section.text).split()) >= MIN_WORDS and seen.is_new(frozenset(normalised(section.text).split()))
        }
        parts[part] = _part(corpus, headings)
    whole = {place: text for part in parts.values() for place, text in part.corpus.items()}
    index = Bm25({place: text for place, (_, text) in whole.items()})
    return {name: part if name == "train" else _found(replace(part, corpus=whole), index) for name, part in parts.items()}


def _found(part: Part, index: Bm25) -> Part:
    """The part with the queries whose section BM25 finds among its first."""
    first = index.search(part.queries, CANDIDATES) if part.queries else {}
    queries = {query: text for query, text in part.queries.items() if set(part.relevant[query]) & set(first[query])}
    return replace(part, queries=queries, relevant={query: part.relevant[query] for query in queries})


class SeenTexts:
    """Word sets that were seen so far, found again by their rarest words.

    Two sets of which at least the share `SAME` is common cannot differ in all of their rarest words: of n words, one of the
    n - SAME * n + 1 rarest is common.

    Args:
        counts: number of texts that a word occurs in.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self._counts, self._by_word = counts, defaultdict[str, list[frozenset[str]]](list)

    def is_new(self, words: frozenset[str]) -> bool:
        """Whether no set so far has nearly the same words; if so, it is remembered."""
        rare = sorted(words, key=lambda word: (self._counts[word], word))[: len(words) - math.ceil(SAME * len(words)) + 1]
        if any(near_duplicates(words, other) for word in rare for other in self._by_word[word]):
            return False
        for word in rare:
            self._by_word[word].append(words)
        return True


def _part(corpus: dict[str, Section], headings: Counter[str]) -> Part:
    """A part whose queries are the headings of its sections that say enough and occur once; a query's id is its section's."""
    queries = {
        place: section.heading
        for place, section in sorted(corpus.items(), key=lambda item: hash_fraction(normalised(item[1].heading)))
        if headings[normalised(section.heading)] == 1 and len(section.heading.split()) >= MIN_QUERY_WORDS
    }
    documents = {place: ("", section.text) for place, section in corpus.items()}
    return Part(documents, queries, {place: [place] for place in queries})
