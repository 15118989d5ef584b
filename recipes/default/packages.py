"""Parser of Debian's package lists: the one-line synopsis of a package is the query for its long description.

Packages built from one source repeat each other's description, so each source gives one entry, with its longest description.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .clean import first_passage, is_prose, squeezed
from .entry import Entry

SKIPPED = re.compile(  # parts of larger packages, and families with generated descriptions
    r".*-(dev|dbg|dbgsym|data|common|l10n|doc|source|dkms|i18n)"
    r"|(lib(?!reoffice)|linux-|gcc-|task-|golang-|node-|fonts-|language-|hunspell-|aspell-|gir1|myspell|mythes).*"
)
ABOUT_PACKAGE = re.compile(
    r"(?i)\b(this|the) (meta-?|dummy |transitional )?package (contains|provides|includes|installs|is|depends|ships)\b"
    r"|see also|home ?page|https?:"
)


def descriptions(folder: Path, seed: str) -> Iterator[Entry]:
    """Synopsis -> long description without remarks on packaging."""
    best: dict[str, tuple[str, str]] = {}
    sources = dict(re.findall(r"^Package: (\S+)\nSource: (\S+)", (folder / "packages").read_text(encoding="utf-8"), re.M))
    for fields in stanzas((folder / "descriptions").read_text(encoding="utf-8")):
        name, synopsis, long = fields["Package"], fields["Synopsis"], fields["Long"]
        if SKIPPED.fullmatch(name) or re.search(r"(?i)transitional|dummy|meta-?package|translations?\b", synopsis):
            continue
        text = first_passage(_prose(long))
        source = sources.get(name, name)
        if text and is_prose(text) and len(text) > len(best.get(source, ("", ""))[1]):
            best[source] = (synopsis, text)
    for synopsis, text in best.values():
        query = re.sub(r"\s*\((?!.*\().*?\)$", "", squeezed(synopsis)).strip(" .")
        if 3 <= len(query.split()) <= 14:
            yield Entry(query, (text,))


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """Yield the fields of each package. The description is split into Synopsis and Long, whose paragraphs blank lines separate."""
    for block in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Z][\w-]*): (.*)$", block, re.M))
        match = re.search(r"^Description(?:-en)?: (.*)\n((?: .*(?:\n|$))*)", block, re.M)
        if match and "Package" in fields:
            lines = (line[1:] for line in match[2].splitlines())
            long = "\n".join("" if line.strip() == "." else line for line in lines)
            yield fields | {"Synopsis": match[1], "Long": long}


def _prose(long: str) -> str:
    """Paragraphs that are neither lists (indented lines, bullets) nor about packaging."""
    kept = []
    for paragraph in long.split("\n\n"):
        if not re.search(r"^( +|[*•o-] )", paragraph, re.M) and not ABOUT_PACKAGE.search(paragraph):
            kept.append(" ".join(paragraph.split()))
    return " ".join(kept)
