"""Parsers of dictionaries in dictd format: FOLDOC, the Jargon File, WordNet.

A .dict file has no marks between entries; an index file stores their offsets as base-64 numbers.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

from . import forms
from .clean import first_passage, is_prose, squeezed
from .entry import Entry

DIGITS = {char: i for i, char in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}
FEWEST = 25  # minimum number of words of a definition
PARTS = {"n": "noun", "v": "verb", "adj": "adjective", "adv": "adverb"}


def entries(folder: Path, name: str) -> Iterator[tuple[str, str]]:
    """Yield (headword, text) of each entry in file order. An entry with several headwords is yielded once."""
    base = folder / "usr/share/dictd" / name
    data = gzip.decompress(base.with_name(f"{name}.dict.dz").read_bytes())
    places: dict[tuple[int, int], str] = {}
    for line in base.with_name(f"{name}.index").read_text(encoding="utf-8", errors="replace").splitlines():
        word, start, size = line.split("\t")[:3]
        if not word.startswith("00"):
            places.setdefault((_number(start), _number(size)), word)
    for (start, size), word in sorted(places.items()):
        text = data[start : start + size].decode("utf-8", errors="replace")
        head, _, body = text.partition("\n")
        yield head.strip() or word, body


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + DIGITS[digit]
    return value


def foldoc(folder: Path, seed: str) -> Iterator[Entry]:
    """Computing term -> definition."""
    for head, body in entries(folder, "foldoc"):
        body = re.sub(r"\{\(?http.*?\}|\[.*?\]|__+|\(\d{4}-\d\d-\d\d\)|<[a-z ,]+>|\{[^}]*?Home\}\.?", " ", body, flags=re.S)
        text = squeezed(re.sub(r"[{}]", "", body))
        yield from _defined(head, text, forms.TERM, seed)


def jargon(folder: Path, seed: str) -> Iterator[Entry]:
    """Hacker slang -> definition."""
    for head, body in entries(folder, "jargon"):
        word = re.split(r"\s*[:,/]", head)[0]
        body = re.sub(r"^\s*(/.*?/,?)?\s*(n|v|vt|vi|adj|adv|vi\.,\s*n)\.,?\s", " ", body)
        text = squeezed(re.sub(r"[{}]|\[[^\]]{1,40}\]", "", body))
        yield from _defined(word, text, forms.TERM, seed)


def wordnet(folder: Path, seed: str) -> Iterator[Entry]:
    """Word -> glosses and examples of its senses, by part of speech."""
    for word, body in entries(folder, "wn"):
        if not re.fullmatch(r"[a-z][a-z -]{2,30}", word):
            continue
        body = re.sub(r"\[(syn|ant):.*?\]", "", body, flags=re.S)
        body = re.sub(r"\b(n|v|adj|adv) 1:", lambda m: f"\f{PARTS[m[1]]}: 1:", squeezed(body))
        senses = [re.sub(r"\s*;?\s*\b\d+:\s*", ". ", part).replace(":.", ":") for part in body.split("\f") if part.strip()]
        text = squeezed(". ".join(sense.strip(" .;") for sense in senses)) + "."
        if len(text.split()) >= FEWEST:
            text = " ".join(text.split()[:120]) if len(text.split()) > 120 else text
            opening = f"{word}, " if Random(f"open/{seed}/{word}").random() < 0.5 else ""
            yield Entry(forms.draw(seed, forms.WORD, word), (opening + text,))


def _defined(head: str, text: str, templates: tuple[str, ...], seed: str) -> Iterator[Entry]:
    """Yield an entry if its text is prose and long enough; three in ten documents begin with the headword."""
    text = first_passage(text, FEWEST, 200)
    if text and is_prose(text) and 1 < len(head) <= 40 and re.search(r"[a-z]{2}|^[A-Z0-9/+-]{2,8}$", head):
        opening = f"{head}: " if Random(f"open/{seed}/{head}").random() < 0.3 else ""
        yield Entry(forms.draw(seed, templates, head), (opening + text,))
