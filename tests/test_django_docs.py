"""The demo's task, Django's documentation: markup becomes plain words, nothing crosses between parts, equal pages give equal files.

The pages here are invented; the real ones are read by the slow test only.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from prorank.data.bm25 import Bm25
from prorank.data.examples import near_duplicates, normalised
from prorank.data.formats import read_beir
from prorank.demo import django_docs as task
from prorank.demo.django_docs import SeenTexts, build, django_docs
from prorank.demo.rst_sections import read_sections
from prorank.demo.task_files import part_of
from prorank.errors import DataError

PAGE = """\
=======================
How ``things`` are done
=======================

.. currentmodule:: things

.. _target-of-links:

Use :class:`~things.views.Thing` or :ref:`its manual <thing-manual>`, see `the site
<https://example.org>`_ and the Manual__ in *one* **bold** line::

    thing = Thing(*args, **kwargs)  # __init__ stays

__ https://example.org/manual

Deeper down
-----------

.. method:: Thing.run(fast=False)
   :async:

   Runs :meth:`!things.Thing.run`. See :setting:`THING_HOSTS`, ``a_b`` and :func:`.run_all`.

.. code-block:: python
   :caption: run.py

   run()

.. admonition:: Why so slow?

    It counts [#note]_ to a million.

.. image:: _images/thing.png
.. a comment directive that ends nothing
"""


def test_markup_becomes_plain_words() -> None:
    before, first, second = read_sections(PAGE)
    assert before == ("", "") and first.heading == "How things are done" and second.heading == "Deeper down"
    assert first.text == (
        "Use Thing or its manual, see the site and the Manual in one bold line: thing = Thing(*args, **kwargs) # __init__ stays"
    )
    assert second.text.startswith(
        "Thing.run(fast=False) Runs things.Thing.run. See THING_HOSTS, a_b and run_all. run() Why so slow? It counts to a million."
    )
    assert "image" not in second.text and "caption" not in second.text


@pytest.mark.parametrize("mark", ["=", "-", "~", "^", '"'])
def test_a_heading_may_have_a_line_above(mark: str) -> None:
    line = mark * 12
    for page in (f"{line}\nThe heading\n{line}\n\ntext\n", f"The heading\n{line}\n\ntext", f"The heading\n{line}\ntext\n"):
        assert read_sections(page)[1:] == [("The heading", "text")]


def test_what_is_no_heading() -> None:
    """Tables, short lines and code are text."""
    for page in (
        "long enough text\n====\n",
        "    indented\n    --------\n",
        "=====  =====\na      b\n=====  =====\n",
        "----------\n",
    ):
        assert len(read_sections(page)) == 1, page


def synthetic(pages: int = 100, seed: int = 0) -> dict[str, str]:
    """Pages of three sections, some with headings or texts that occur twice, and pages that are left out."""
    rng = random.Random(seed)
    words = [f"word{i}" for i in range(900)]

    def text() -> str:
        return " ".join(rng.sample(words, 20))

    def page(number: int) -> str:
        first = text()
        about = " ".join(first.split()[3:6])  # so that BM25 finds the section
        headings = {f"Number {number} {about} itself": first, "A heading that repeats": text(), "Short one": text()}
        return "\n\n".join(f"{heading}\n{'=' * 50}\n\n{body}" for heading, body in headings.items())

    made = {f"docs/topics/page{number}.txt": page(number) for number in range(pages)}
    for number in range(5):  # nearly the text of another page
        copied = made[f"docs/topics/page{number}.txt"].replace("itself", "again")
        made[f"docs/faq/copy{number}.txt"] = copied + " twice"
    few = "Only few words here\n====================\n\nSee elsewhere.\n"
    return made | {"docs/ref/few.txt": few, "docs/releases/1.0.txt": page(990), "docs/internals/howto.txt": page(991)}


def write_source(folder: Path) -> Path:
    for name, text in synthetic().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def sdist(folder: Path) -> Path:
    path = folder / "django-5.2.8.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in (synthetic() | {"docs/conf.py": "1 / 0", "README.rst": "no page"}).items():
            member = tarfile.TarInfo(f"django-5.2.8/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def read_pages(pages: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in pages.items() if not name.startswith(task.LEFT_OUT)}


def test_parts_share_no_page_no_text_and_no_query() -> None:
    parts = build(read_pages(synthetic()))
    assert list(parts) == ["train", "test"] and all(len(part.queries) >= 3 for part in parts.values())
    pages = [{place.partition("#")[0] for place in part.queries} for part in parts.values()]
    assert sum(map(len, pages)) == len(set.union(*pages))
    texts = [text for _, text in parts["test"].corpus.values()]
    words = [frozenset(normalised(text).split()) for text in texts]
    assert not any(near_duplicates(a, b) for i, a in enumerate(words) for b in words[:i])
    queries = [normalised(query) for part in parts.values() for query in part.queries.values()]
    assert len(queries) == len(set(queries))


def test_bm25_finds_the_section_of_every_test_query() -> None:
    test = build(read_pages(synthetic()))["test"]
    found = Bm25({place: text for place, (_, text) in test.corpus.items()}).search(test.queries, task.CANDIDATES)
    assert found and all(query in documents for query, documents in found.items())


def test_training_reads_its_own_pages_and_the_others_search_all() -> None:
    parts = build(read_pages(synthetic()))
    for place in parts["train"].corpus:
        assert part_of(f"docs/{place.partition('#')[0]}.txt", task.PARTS) == "train"
    assert parts["train"].corpus.items() < parts["test"].corpus.items()


def test_queries_are_headings_of_their_section() -> None:
    pages = synthetic()
    headings = Counter(normalised(section.heading) for page in read_pages(pages).values() for section in read_sections(page))
    for name, part in build(read_pages(pages)).items():
        for place, query in part.queries.items():
            page, number = place.split("#")
            section = read_sections(pages[f"docs/{page}.txt"])[int(number)]
            assert (section.heading, section.text) == (query, part.corpus[place][1]) and part.relevant[place] == [place]
            assert headings[normalised(query)] == 1 and len(query.split()) >= 3 and query not in section.text
            assert part_of(f"docs/{page}.txt", task.PARTS) == name
        assert not any("release" in place or "internals" in place or "few" in place for place in part.corpus)


def test_near_duplicates_are_found_as_by_comparing_all() -> None:
    rng = random.Random(1)
    texts = [frozenset(rng.sample(range(40), rng.randint(1, 12))) for _ in range(300)]
    texts += [text - {min(text)} | {99} for text in texts[:100]]
    sets = [frozenset(f"w{number}" for number in text) for text in texts]
    seen, kept = SeenTexts(Counter(word for words in sets for word in words)), list[frozenset[str]]()
    for words in sets:
        new = not any(near_duplicates(words, other) for other in kept)
        assert seen.is_new(words) == new
        kept += [words] * new
    assert 150 < len(kept) < len(sets)


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(path.relative_to(folder)).encode() + path.read_bytes() for path in files)).hexdigest()


def test_sdist_and_folder_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = sdist(tmp_path)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(task, "SDIST", replace(task.SDIST, sha256=found))
    first, second = django_docs(tmp_path / "a", archive), django_docs(tmp_path / "b", write_source(tmp_path / "source"))
    assert digest(first.test.parent) == digest(second.test.parent)
    for part in ("train", "test"):
        collection = read_beir(getattr(first, part), part)
        collection.check_training()
        assert collection.name == f"django-docs-{part}" and collection.queries.keys() == collection.qrels.keys() != set()
    about = json.loads((first.test.parent / "task.json").read_text())
    assert about["licence"] == "BSD-3-Clause" and about["source"] == "Django==5.2.8" and about["sha256"] == found


def test_a_finished_task_is_used_and_an_older_one_rebuilt(tmp_path: Path) -> None:
    made = django_docs(tmp_path / "cache", write_source(tmp_path / "source"))
    before = digest(made.test.parent)
    assert django_docs(tmp_path / "cache", tmp_path / "nowhere") == made and digest(made.test.parent) == before
    (made.test.parent / "task.json").write_text('{"recipe": 0}')
    django_docs(tmp_path / "cache", tmp_path / "source")
    assert digest(made.test.parent) == before


def test_another_archive_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = sdist(tmp_path)
    with pytest.raises(DataError, match="SHA-256 is .*, expected 23254866"):
        django_docs(tmp_path / "cache", archive)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no page docs"):
        django_docs(tmp_path / "cache", tmp_path / "empty")
    with pytest.raises(DataError, match="no such file"):
        django_docs(tmp_path / "cache", tmp_path / "gone.tar.gz")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "empty").as_uri())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DataError, match="Django==5.2.8: pip could not fetch the demo's data .*; the first run needs the network"):
        django_docs(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_split_is_fixed_for_good() -> None:
    """Caches and figures of other machines rest on these; a change needs a new RECIPE."""
    names = (
        "docs/topics/cache.txt",
        "docs/faq/models.txt",
        "docs/ref/urls.txt",
        "docs/intro/tutorial01.txt",
        "docs/howto/csrf.txt",
    )
    assert [part_of(name, task.PARTS) for name in names] == PARTS_OF_PAGES


PARTS_OF_PAGES = ["test", "test", "train", "train", "train"]


@pytest.mark.slow
def test_the_real_task_has_the_documented_size(tmp_path: Path) -> None:
    paths = django_docs(tmp_path)
    assert json.loads((paths.test.parent / "task.json").read_text())["parts"] == REAL


REAL = {
    "train": {"documents": 1345, "queries": 468, "labels": 468},
    "test": {"documents": 3311, "queries": 483, "labels": 483},
}
