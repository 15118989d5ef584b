"""Read a corpus: a file of documents, a BEIR folder, or a folder of text files.

docs.txt, docs.jsonl, docs.csv, …       as `prorank rerank` reads them, see `rank.document_files`
FOLDER with corpus.jsonl                a BEIR folder
FOLDER with .txt, .md, .rst files       each file is a document, its id the path below the folder
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..data.beir import find_file
from ..errors import DataError
from ..rank.document_files import read_documents
from ..rank.documents import Document
from ..utils.reading import read_text

TEXT_SUFFIXES = (".txt", ".md", ".rst")


@dataclass(frozen=True)
class Corpus:
    """Documents to search.

    Attributes:
        documents: strings, or dicts with "text" and perhaps "title" and an id.
        skipped: description of other files in a folder; "" if there are none.
    """

    documents: list[Document]
    skipped: str = ""


def read_corpus(path: str | Path) -> Corpus:
    """Read the documents of a file, a BEIR folder, or a folder of .txt, .md and .rst files.

    Args:
        path: the file ("-" for stdin) or folder.

    Raises:
        DataError: the file or folder cannot be read, or contains no documents.
    """
    if not os.path.isdir(path):
        return Corpus(read_documents(str(path)))
    beir_file = find_file(Path(path), "corpus.jsonl")
    return Corpus(read_documents(str(beir_file))) if beir_file else _read_folder(Path(path))


def _read_folder(folder: Path) -> Corpus:
    """Read the text files of a folder and its subfolders, in the order of their paths."""
    documents: list[Document] = []
    others: Counter[str] = Counter()  # by suffix
    empty, unreadable = 0, []
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() not in TEXT_SUFFIXES:
            others[path.suffix.lower() or "no suffix"] += 1
            continue
        try:
            text = read_text(path).strip()
        except DataError:
            unreadable.append(name)
            continue
        empty += not text
        if text:
            documents.append({"id": name, "text": text})
    skipped = _summary(others, empty, unreadable)
    if not documents:
        holds = f"; skipped {skipped}" if skipped else ""
        raise DataError(f"{folder}: contains no documents: neither corpus.jsonl (BEIR) nor .txt, .md or .rst files{holds}")
    return Corpus(documents, skipped)


def _files(folder: Path) -> Iterator[Path]:
    """Yield all files of a folder in the order of their paths, without hidden files and folders."""
    for place, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _summary(others: Counter[str], empty: int, unreadable: list[str]) -> str:
    """Summarise skipped files: "120 other files (100 .html, 20 .png), 2 empty files"."""
    kinds = [f"{count:,} {suffix}" for suffix, count in others.most_common(3)] + ["…"] * (len(others) > 3)
    parts = [f"{others.total():,} other files ({', '.join(kinds)})"] if others else []
    parts += [f"{empty:,} empty files"] if empty else []
    parts += [f"{len(unreadable):,} files that are not UTF-8 text (first: {unreadable[0]})"] if unreadable else []
    return ", ".join(parts)
