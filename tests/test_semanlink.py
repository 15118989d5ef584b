"""The task semanlink: nothing crosses between the parts, and it is the same everywhere.

The synthetic input has every kind of overlap that the real one has: papers in both files, texts that differ
in marks only, one title with two notes, one label on two tags.
"""

from __future__ import annotations

import hashlib
import json
import random
import tarfile
from pathlib import Path

import pytest

from prorank.data.examples import near_duplicates, normalised
from prorank.data.formats import read_beir
from prorank.demo import semanlink as demo
from prorank.demo.semanlink import build, semanlink
from prorank.errors import DataError

TAG = "http://tags/"


def synthetic(seed: int = 0) -> dict:
    """400 bookmarks, 60 papers that are bookmarks as well, 60 tags of which some share a label."""
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(3000)]
    tags = {f"{TAG}{i}": {"prefLabel": [f"Tag  {i if i < 50 else i - 50}"]} for i in range(60)}

    def row() -> dict:
        chosen = rng.sample(sorted(tags), 3)
        title, note = " ".join(rng.sample(words, 5)), " ".join(rng.sample(words, 15))
        return {"title": title, "comment": note, "arxiv_title": "", "arxiv_summary": "", "tag": chosen}

    docs = [row() for _ in range(400)]
    papers = [row_ | {"title": f"[1805.0417] {row_['title'].upper()}!", "tag": [f"{TAG}7"]} for row_ in docs[:60]]
    notes = [row_ | {"comment": " ".join(rng.sample(words, 15))} for row_ in docs[60:80]]
    nearly = [row_ | {"title": "again " + row_["title"]} for row_ in docs[80:140]]
    short = [{"title": "too short", "comment": "", "tag": [f"{TAG}1"]}]
    return {"docs": docs + notes + nearly + short, "arxiv": papers, "tags": tags}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for name, content in synthetic().items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = b"".join(str(path.relative_to(folder)).encode() + path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()


def test_parts_share_no_tag_and_no_text() -> None:
    parts = build(synthetic())
    texts = {name: [normalised(" ".join(pair)) for pair in part.corpus.values()] for name, part in parts.items()}
    titles = {name: {normalised(title) for title, _ in part.corpus.values()} for name, part in parts.items()}
    queries = {name: [normalised(query) for query in part.queries.values()] for name, part in parts.items()}
    for kind in (texts, titles, queries):
        everything = [item for items in kind.values() for item in items]
        assert len(set(everything)) == len(everything) - sum(len(v) - len(set(v)) for v in kind.values())
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        words = [[frozenset(text.split()) for text in texts[name]] for name in (one, other)]
        assert not any(near_duplicates(a, b) for a in words[0] for b in words[1])
    assert all(len(set(items)) == len(items) for items in queries.values())


def test_labels_stay_inside_their_part_and_match_the_tags() -> None:
    raw = synthetic()
    names = {uri: normalised(tag["prefLabel"][0]) for uri, tag in raw["tags"].items()}
    tagged = {(names[tag], normalised(row["comment"])) for row in raw["docs"] for tag in row["tag"]}
    tagged |= {("tag 7", normalised(row["comment"])) for row in raw["arxiv"]}
    count = 0
    for part in build(raw).values():
        assert part.relevant.keys() == part.queries.keys()
        for qid, ids in part.relevant.items():
            assert ids and len(set(ids)) == len(ids)
            for doc in ids:
                count += 1
                assert (normalised(part.queries[qid]), normalised(part.corpus[doc][1])) in tagged
    assert count > 100


def test_papers_and_bookmarks_are_united() -> None:
    parts = build(synthetic())
    corpus = [pair for part in parts.values() for pair in part.corpus.values()]
    assert len(corpus) <= 400 + 20 + 60 and not any("[" in title or title == "too short" for title, _ in corpus)
    assert max(len(part.corpus) for part in parts.values()) == len(parts["train"].corpus)


def test_building_twice_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    first, second = (semanlink(tmp_path / name, source) for name in "ab")
    assert digest(first.test.parent) == digest(second.test.parent)
    for name in ("train", "dev", "test"):
        collection = read_beir(first.train.parent / f"semanlink-{name}", name)
        collection.check_training()
        assert collection.queries and collection.queries.keys() == collection.qrels.keys()
        assert collection.name == f"semanlink-{name}"


def test_split_is_fixed_for_good() -> None:
    """Caches, logs and checkpoints of other machines rest on these; a change needs a new RECIPE."""
    assert [demo.part_of(text, demo.PARTS) for text in ("tag a", "tag b", "tag c", "tag d", "tag e", "tag f")] == PARTS_OF_TAGS


PARTS_OF_TAGS = ["test", "train", "train", "train", "train", "test"]


def test_a_finished_task_is_used_as_it_is(source: Path, tmp_path: Path) -> None:
    made = semanlink(tmp_path, source)
    before = digest(made.test.parent)
    assert semanlink(tmp_path, tmp_path / "nowhere") == made and digest(made.test.parent) == before
    (made.test.parent / "task.json").write_text('{"recipe": 1}')
    semanlink(tmp_path, source)
    assert digest(made.test.parent) == before


def test_another_archive_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    other = tmp_path / "cherche-2.2.1.tar.gz"
    with tarfile.open(other, "w:gz"):
        pass
    with pytest.raises(DataError, match="SHA-256 is .*, expected 7984a88f"):
        semanlink(tmp_path / "cache", other)
    with pytest.raises(DataError, match="no such file"):
        semanlink(tmp_path / "cache", tmp_path / "gone.tar.gz")
    assert not (tmp_path / "cache").exists()


def test_a_failed_download_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "index"
    empty.mkdir()
    monkeypatch.setenv("PIP_INDEX_URL", empty.as_uri())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DataError, match="pip could not fetch the demo's data .*; the first run needs the network"):
        semanlink(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_the_real_task_has_the_documented_size(tmp_path: Path) -> None:
    paths = semanlink(tmp_path)
    counts = json.loads((paths.test.parent / "task.json").read_text())["parts"]
    assert counts == REAL


REAL = {
    "train": {"documents": 2159, "queries": 890, "labels": 2944},
    "dev": {"documents": 462, "queries": 86, "labels": 135},
    "test": {"documents": 634, "queries": 155, "labels": 304},
}
