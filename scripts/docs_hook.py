"""mkdocs hook: fills the markers of a page with generated tables, and keeps pages free of other hosts."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

log = logging.getLogger("mkdocs.hooks")
OUTSIDE = re.compile(r'(?:src|href)="(?:https?:)?//[^"]+"')
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # mkdocs runs this file by path; import the package and the scripts from this clone

from scripts.docs_tables import fill_markers  # noqa: E402


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the markers of a page; mkdocs calls it for every page."""
    return fill_markers(markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Warn of pages that refer to another host, which ends a strict build, because the site must work without a network."""
    for place in sorted(set(OUTSIDE.findall(output))):
        log.warning("%s refers to another host: %s", page.file.src_uri, place)
    return output
