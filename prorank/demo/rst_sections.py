"""Sections of a page in reStructuredText as plain words: each heading, and the text below it up to the next one.

It reads what Sphinx pages hold: headings, directives, roles, links, targets. Code stays as it is written.
"""

from __future__ import annotations

import re
from typing import NamedTuple

ADORNMENT = re.compile(r"""([=\-~^"'`#*+.:_<>!$%&])\1{2,}""")  # the line below a heading, and perhaps one above it
TARGET = re.compile(r"\s*(?:\.\. (?:_|\||\[)|__ |\.\.$)")  # targets of links, substitutions, footnotes, comments
DIRECTIVE = re.compile(r"\s*\.\. (?:py:)?([\w-]+)::\s*(.*)")
# Directives whose argument is no text: names of files, modules and languages, and versions.
SILENT = {
    "code-block", "console", "contents", "currentmodule", "deprecated", "figure", "glossary", "highlight", "image", "include",
    "index", "literalinclude", "module", "parsed-literal", "program", "toctree", "versionadded", "versionchanged",
}  # fmt: skip
OPTION = re.compile(r"\s+:[\w-]+:(?!`)")  # of a directive, on the lines right below it
ROLE = re.compile(r"(?::[\w.+-]+)+:`([^`<]*?)(\s*<[^`>]*>)?`")  # :role:`target` or :role:`text <target>`
# What is replaced after roles; the order counts.
MARKS = [
    (re.compile(r"``(.+?)``"), r"\1"),
    (re.compile(r"`([^`<]*?)\s*<[^`>]*>`_{0,2}"), r"\1"),  # `text <address>`_
    (re.compile(r"`([^`]*)`_{0,2}"), r"\1"),
    (re.compile(r"(?<!\w)([A-Za-z](?:\w*[A-Za-z0-9])?)__?(?=[\s.,;:)]|$)"), r"\1"),  # Name_ and Name__ are links, too
    (re.compile(r"(?<![\w*])(\*\*?)(?=[^\s*])([^*]*[^\s*])\1(?![\w*])"), r"\2"),  # *emphasis* and **strong**
    (re.compile(r"::(?=\s|$)"), ":"),  # which announces code
    (re.compile(r"\[#\w*\]_?"), ""),
]


class Section(NamedTuple):
    """A heading and the text below it, both on one line. The text before a page's first heading has an empty heading."""

    heading: str
    text: str


def read_sections(page: str) -> list[Section]:
    """Split a page at its headings, of whatever level, and take the markup away."""
    lines = [*page.expandtabs().splitlines(), "", ""]
    heading, body, sections, at = "", list[str](), [], 0
    while at < len(lines) - 2:
        if rows := _rows_of_heading(*lines[at : at + 3]):
            sections.append(Section(_plain(heading), _plain("\n".join(_visible(body)))))
            heading, body = lines[at + (rows == 3)], []
        else:
            body.append(lines[at])
        at += rows or 1
    return [*sections, Section(_plain(heading), _plain("\n".join(_visible(body))))]


def _rows_of_heading(first: str, second: str, third: str) -> int:
    """Number of lines of a heading that begins here: 3 with a line above it, 2 without, 0 if there is none."""
    if ADORNMENT.fullmatch(first.rstrip()) and second.strip() and third.rstrip() == first.rstrip():
        return 3
    if not first.strip() or first[0].isspace() or ADORNMENT.fullmatch(first.rstrip()):
        return 0
    return 2 if ADORNMENT.fullmatch(second.rstrip()) and len(second.rstrip()) >= len(first.rstrip()) else 0


def _visible(lines: list[str]) -> list[str]:
    """The lines a reader sees, with the arguments of directives that say something."""
    kept, below_directive = [], False
    for line in lines:
        if match := DIRECTIVE.match(line):
            kept += [] if match[1] in SILENT else [match[2]]
            below_directive = True
        elif not (below_directive and OPTION.match(line)) and not TARGET.match(line):
            kept.append(line)
            below_directive = False
    return kept


def _plain(text: str) -> str:
    """Text on one line, without inline markup."""
    text = ROLE.sub(_shown, " ".join(text.split()))
    for pattern, replacement in MARKS:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


def _shown(role: re.Match[str]) -> str:
    """What Sphinx shows of a role: its text, or its target, of which a tilde leaves the last part only."""
    text = role[1]
    if not role[2] and text.startswith("~"):
        text = text.rpartition(".")[2]
    return text.lstrip("~!.")
