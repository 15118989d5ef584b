"""Parsers of manuals and FAQs: headings of HTML pages and Perl's POD are queries for the text below them.

Code and tables are removed, so sections that are mostly code become too short and are dropped.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from prorank.errors import extra

from . import forms
from .clean import is_prose, passages
from .entry import Entry

PASSAGES = 2  # maximum number of relevant passages per section
LEFT_OUT = ("pre", "table", "script", "style", "nav", "header", "footer", "dl", "sup", "aside", "form")


def perl(folder: Path, seed: str) -> Iterator[Entry]:
    """Perl's FAQ."""
    for path in sorted((folder / "usr/share/perl").glob("*/pod/perlfaq[1-9].pod")):
        for heading, text in pod_sections(path.read_text(encoding="utf-8")):
            if heading.endswith("?"):
                yield from answers(heading, text)


def pod_sections(text: str) -> Iterator[tuple[str, str]]:
    """Yield (heading, running text) of each =head2 section; indented blocks are code and are skipped."""
    for part in re.split(r"^=head2 ", text, flags=re.M)[1:]:
        heading, _, body = part.partition("\n\n")
        blocks = re.split(r"^=head1", body, flags=re.M)[0].split("\n\n")
        prose = [block for block in blocks if block.strip() and not re.match(r"[\s=]", block) and "contributed by" not in block]
        yield _pod(" ".join(heading.split())), _pod(" ".join(prose))


def _pod(text: str) -> str:
    for _ in range(3):  # marks can be nested: C<< ... >>, L<B<...>>
        text = re.sub(r"\b[BCEFIL]<<*\s*(?:([^<>|]*)\|[^<>]*|([^<>]*?))\s*>+", lambda m: m[1] or m[2] or "", text)
    return text


def html(pattern: str, keep: Callable[[str], bool] | None = None) -> Callable[[Path, str], Iterator[Entry]]:
    """Return a parser of the HTML pages that match a glob pattern.

    Args:
        pattern: glob pattern of paths in the package's folder.
        keep: selects headings; None for all that read like titles.
    """

    def parse(folder: Path, seed: str) -> Iterator[Entry]:
        for path in sorted(folder.glob(pattern)):
            data = path.read_bytes()
            page = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
            for heading, text in html_sections(page):
                if keep is None or keep(heading):
                    yield from answers(heading, text, seed)

    return parse


def is_question(heading: str) -> bool:
    """Whether a heading is a question."""
    return heading.endswith("?")


def html_sections(page: str | bytes) -> Iterator[tuple[str, str]]:
    """Yield (heading, running text) of each heading of a page, without section numbers."""
    with extra("texts"):
        from bs4 import BeautifulSoup

    soup = BeautifulSoup(page, "html.parser")
    for tag in soup.find_all(LEFT_OUT):
        tag.decompose()
    for node in soup.find_all("a", class_="headerlink"):
        node.decompose()
    heading, paragraphs = _title(soup), []
    for node in soup.find_all(["h1", "h2", "h3", "h4", "h5", "p"]):
        if node.name == "p":
            paragraphs += [] if _is_link(node) else [node.get_text(" ")]
        else:
            yield heading, " ".join(paragraphs)
            heading, paragraphs = _unnumbered(node.get_text(" ")), []
    yield heading, " ".join(paragraphs)


def _is_link(node) -> bool:
    """Whether a paragraph is only a link to another page, as at the end of help pages."""
    linked = sum(len(link.get_text()) for link in node.find_all("a"))
    return linked > 0.7 * len(node.get_text())


def _title(soup) -> str:
    return _unnumbered(re.split(r"\s[|—–]\s", soup.title.get_text(" "))[0]) if soup.title else ""


def _unnumbered(heading: str) -> str:
    heading = " ".join(heading.replace("¶", " ").split())
    return re.sub(r"^(Chapter|Appendix|Section)?\s*[A-Z]?[\d.]+\.?\s+|^[A-Z]\.[\d.]+\s+|^Section [A-Z] - ", "", heading).strip()


def mallard(pattern: str) -> Callable[[Path, str], Iterator[Entry]]:
    """Return a parser of GNOME's help pages. Each is a task such as "Change the date and time"."""

    def parse(folder: Path, seed: str) -> Iterator[Entry]:
        for path in sorted(folder.glob(pattern)):
            root = ElementTree.parse(path).getroot()
            name = root.tag[: root.tag.index("}") + 1]
            title = " ".join("".join(root.find(f"{name}title").itertext()).split())
            text = " ".join("".join(node.itertext()) for node in root.iter(f"{name}p"))
            templates = ("how to {}", "how do i {}", "{}") if root.get("style") in ("task", "problem") else ("{}",)
            yield from answers(title, text, seed, templates)

    return parse


def answers(heading: str, text: str, seed: str = "", templates: tuple[str, ...] = forms.TOPIC) -> Iterator[Entry]:
    """Yield the entry of a heading and its text. Passages after the first `PASSAGES` only enlarge the corpus.

    Questions are used unchanged, half of them without the question mark. "To print a page" becomes "how to print a page".
    """
    prose = tuple(p for p in passages(re.sub(r"\[[^\]]{0,80}\]", " ", text), aim=110) if is_prose(p))
    words = len(heading.split())
    if prose and (2 <= words <= 20):
        if heading.startswith("To "):
            heading, templates = heading[3:], ("how to {}",)
        query = heading if heading.endswith("?") else forms.draw(seed, templates, heading)
        yield Entry(query.rstrip("?") if len(query) % 2 else query, prose[:PASSAGES])
        for rest in prose[PASSAGES : 3 * PASSAGES]:
            yield Entry("", (rest,))
