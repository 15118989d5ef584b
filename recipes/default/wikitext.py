"""Parser of a MediaWiki dump: sections of articles, with queries made of title and heading.

Other sections of the same article stay in the corpus. They share its subject, so they are hard negatives.
"""

from __future__ import annotations

import bz2
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from prorank.errors import extra

from . import forms
from .clean import is_prose, passages
from .entry import Entry

DUMP = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
SKIPPED = re.compile(
    r"(?i)references|notes|see also|external links|further reading|bibliography|sources|footnotes|gallery|citations"
    r"|.*works|discography|filmography|awards.*|list of.*|.*literature.*"
)
PASSAGES = 3  # maximum number of relevant passages per section


def wiki_sections(folder: Path, seed: str) -> Iterator[Entry]:
    """Title and heading -> first passages of the section; the query for the lead is the title alone."""
    for title, text in articles(folder / DUMP):
        subject = re.sub(r"\s*\(.*?\)$", "", title)
        for heading, body in sections(text):
            prose = tuple(p for p in passages(body, aim=90) if is_prose(p))
            query = forms.section(subject, heading, seed) if heading else forms.article(subject, forms.NAME, seed)
            if prose:
                yield Entry(query, prose[:PASSAGES])
            for rest in prose[PASSAGES:]:
                yield Entry("", (rest,))


def articles(dump: Path) -> Iterator[tuple[str, str]]:
    """Yield (title, wikitext) of each article that is not a redirect, a list or a meta page."""
    with bz2.open(dump, "rb") as handle:
        for _, page in ElementTree.iterparse(handle):
            if page.tag.endswith("}page"):
                name = page.tag[: -len("page")]
                title, text = page.findtext(f"{name}title"), page.findtext(f"{name}revision/{name}text") or ""
                page.clear()
                if not re.match(r"(?i)\s*#redirect", text) and not re.match(r"List of|Wikipedia:|.*\(disambiguation\)", title):
                    yield title, text


def sections(text: str) -> Iterator[tuple[str, str]]:
    """Yield (heading, running text) of an article's sections; the lead has the heading ""."""
    with extra("texts"):
        import mwparserfromhell

    text = re.sub(r"(?s)<ref[^>/]*/>|<ref.*?</ref>|<!--.*?-->|<gallery.*?</gallery>|<math.*?</math>", " ", text)
    text = re.sub(r"(?s)\{\|.*?\n\|\}", " ", text)
    for part in mwparserfromhell.parse(text).get_sections(flat=True, include_lead=True):
        heads = part.filter_headings()
        heading = heads[0].title.strip_code().strip() if heads else ""
        if not SKIPPED.fullmatch(heading):
            yield heading, _running(part, heads)


def _running(part, heads) -> str:
    """Text of a section without templates, files, tables and list lines."""
    for node in heads:
        part.remove(node)
    for link in part.filter_wikilinks():
        if re.match(r"(?i)\s*(file|image|category|[a-z]{2,3}):", str(link.title)):
            try:
                part.remove(link)
            except ValueError:  # it was inside a link that was removed before
                continue
    lines = part.strip_code(normalize=True, collapse=True).splitlines()
    kept = [line for line in lines if line.strip() and not re.match(r"\s*[*#:;|!{]", line) and len(line.split()) > 8]
    return "\n".join(kept).replace("'''", "").replace("''", "")
