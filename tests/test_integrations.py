"""Integrations whose framework is not installed: the error names the extra. With it they are tested by `make test-integrations`.

A None in sys.modules makes an import fail as if the package were not there.
"""

import importlib
import sys
import tomllib
from pathlib import Path

import pytest

from prorank.errors import MissingExtra

EXTRAS = {
    "langchain": ("langchain_core", "langchain"),
    "llama_index": ("llama_index", "llama-index"),
    "haystack": ("haystack", "haystack"),
    "mteb": ("mteb", "mteb"),
    "rerankers": ("rerankers", "rerankers"),
    "lancedb": ("lancedb", "lancedb"),
}


@pytest.mark.parametrize("module", list(EXTRAS))
def test_a_missing_framework_names_its_extra(module, monkeypatch):
    package, extra = EXTRAS[module]
    for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"prorank.integrations.{module}", raising=False)
    with pytest.raises(MissingExtra, match=rf"This needs the extra '{extra}': pip install 'prorank\[{extra}\]'"):
        importlib.import_module(f"prorank.integrations.{module}")
    known = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extra in known


def test_sentence_transformers_needs_no_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.delitem(sys.modules, "prorank.integrations.sentence_transformers", raising=False)
    assert importlib.import_module("prorank.integrations.sentence_transformers").CrossEncoder.num_labels == 1
