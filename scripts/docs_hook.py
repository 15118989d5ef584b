"""mkdocs hook: fills the markers of a page with the tables of `docs_tables.py` before the page is rendered."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # mkdocs runs this file by its path; the package and the scripts come from this clone

from scripts.docs_tables import fill_markers  # noqa: E402


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    return fill_markers(markdown)
