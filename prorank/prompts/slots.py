"""The slots of a prompt template: {instruction}, {query}, {document} and {documents}."""

from __future__ import annotations

import re

SLOT = re.compile(r"\{(instruction|query|documents?)\}")


def split(template: str) -> list[str]:
    """Split a template into literals and slots, in order: "a{query}b" -> ["a", "{query}", "b"]."""
    parts, last = [], 0
    for match in SLOT.finditer(template):
        parts += [template[last : match.start()], match.group(0)]
        last = match.end()
    return [p for p in parts + [template[last:]] if p]
