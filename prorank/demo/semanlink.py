"""The task semanlink: bookmarks and arXiv papers tagged by one person. Queries are tags, tagged texts are relevant.

Its two collections overlap (every paper is also a bookmark), so they are merged first and then split: each tag and each text
belongs to one of train, dev and test by a fixed hash. A label is kept if its tag and its text belong to the same part. The default
model was trained on the training part.

Source: the sdist of `cherche` 2.2.1 (MIT), fetched by pip, whose SHA-256 is checked before anything of it is run or read.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..data.examples import near_duplicates, normalised
from .task_files import Part, Sdist, TaskPaths, build_task, hash_fraction, part_of

Texts = dict[str, tuple[str, str, set[str]]]  # (title, text, tags) by normalised title and text

NAME = "semanlink"
RECIPE = 2  # version of the task; caches of other versions are rebuilt
SDIST = Sdist(
    "cherche", "2.2.1", "7984a88f0bf9349cd08907baefc2527deaacea95d3acf5f4a1692896c507fe34",
    "MIT (package; abstracts by their authors)",
)  # fmt: skip
FILES = {name: f"cherche/data/semanlink/{name}.json" for name in ("arxiv", "docs", "tags")}
# Share of the tags and of the texts; a part gets the square of its share of the labels. Test: about 150 queries.
PARTS = {"train": 0.66, "dev": 0.14, "test": 0.20}
MIN_WORDS = 12  # of title, note and abstract; shorter bookmarks are names of sites
TEXTS_A_TAG = (2, 80)  # tags on fewer texts are names; on more, containers such as "arXiv paper"


def semanlink(cache: str | Path | None = None, source: str | Path | None = None) -> TaskPaths:
    """Build the task in `cache`/semanlink unless it is there, and return its folders.

    Args:
        cache: folder; the user's cache by default.
        source: the sdist, or a folder with arxiv.json, docs.json and tags.json; by default pip fetches the sdist.

    Raises:
        DataError: the sdist cannot be fetched, has another hash, or lacks the files.
    """
    return build_task(NAME, RECIPE, SDIST, cache, source, lambda path: build(_read_raw(path)))


def _read_raw(source: Path) -> dict[str, Any]:
    """{"arxiv": [...], "docs": [...], "tags": {...}} from the sdist or from a folder of the JSON files."""
    if source.is_dir():
        texts = {name: (source / f"{name}.json").read_bytes() for name in FILES}
    else:
        members = SDIST.read(source, lambda name: name in FILES.values())
        texts = {name: members[path] for name, path in FILES.items()}
    return {name: json.loads(text) for name, text in texts.items()}


def build(raw: dict[str, Any]) -> dict[str, Part]:
    """Build the parts of the task. The same input gives the same parts on every machine.

    Texts that differ in case and punctuation only are one text with the tags of all of them; tags with the same label are one
    query. A text's part depends on its title, so that two notes on one paper stay together. Of near-duplicates in different parts
    only those of the earlier part are kept.

    Args:
        raw: {"arxiv": rows, "docs": rows, "tags": tag by URI}.

    Returns:
        Part by name: "train", "dev", "test".
    """
    texts = _merged_texts(raw["docs"] + raw["arxiv"])
    labels = {uri: " ".join(tag["prefLabel"][0].split()) for uri, tag in raw["tags"].items() if tag.get("prefLabel")}
    tagged: dict[str, tuple[str, set[str]]] = {}
    for key, (_, _, tags) in texts.items():
        for uri in sorted(tags & labels.keys()):
            tagged.setdefault(normalised(labels[uri]), (labels[uri], set()))[1].add(key)
    low, high = TEXTS_A_TAG
    order = sorted(tagged.items(), key=lambda item: hash_fraction(item[0]))  # by hash, so that the first n are a random sample
    tagged = {query: entry for query, entry in order if query and low <= len(entry[1]) <= high}
    return {part: _part(part, keys, texts, tagged) for part, keys in _split(texts).items()}


def _split(texts: Texts) -> dict[str, list[str]]:
    """Keys of the texts by part."""
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for key, (title, _, _) in texts.items():
        parts[part_of(normalised(title) or key, PARTS)].append(key)
    earlier: list[frozenset[str]] = []
    for part, keys in parts.items():
        words = {key: frozenset(key.split()) for key in keys}
        parts[part] = [key for key in keys if not any(near_duplicates(words[key], other) for other in earlier)]
        earlier += [words[key] for key in parts[part]]
    return parts


def _merged_texts(rows: list[dict]) -> Texts:
    """(title, text, tags) by normalised text, sorted, of rows with enough words."""
    texts: Texts = {}
    for row in rows:
        title = _clean(row.get("arxiv_title") or re.sub(r"^\[[\d.v]+\]\s*", "", row.get("title") or ""))
        text = _clean(f"{row.get('comment') or ''} {row.get('arxiv_summary') or ''}")
        key = normalised(f"{title} {text}")
        if len(key.split()) >= MIN_WORDS:
            texts.setdefault(key, (title, text, set()))[2].update(row.get("tag") or ())
    return dict(sorted(texts.items()))


def _clean(text: str) -> str:
    """Text on one line, with the words of markdown links and images only."""
    return " ".join(re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text).split())


def _part(part: str, keys: list[str], texts: Texts, tagged: dict[str, tuple[str, set[str]]]) -> Part:
    ids = {key: f"{part}-{number}" for number, key in enumerate(keys)}
    queries: dict[str, str] = {}
    relevant: dict[str, list[str]] = {}
    for query, (label, tagged_keys) in tagged.items():
        if part_of(query, PARTS) == part and tagged_keys & ids.keys():
            qid = f"{part}-q{len(queries)}"
            queries[qid] = label
            relevant[qid] = [ids[key] for key in sorted(tagged_keys & ids.keys())]
    return Part({ids[key]: texts[key][:2] for key in keys}, queries, relevant)
