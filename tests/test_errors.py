"""Errors of optional packages that are missing, or are installed but fail to load.

A version conflict must not be reported as a missing extra.
"""

import sys

import pytest

from prorank.errors import BrokenExtra, DataError, MissingExtra, ProRankError, extra

FAILURES = {
    "needs a newer one": ("raise ImportError('tokenizers>=0.22 is required, but found 0.19')", "tokenizers>=0.22 is required"),
    "a name that is gone": ("from math import no_such_name", "cannot import name 'no_such_name' from 'math'"),
    "what it imports is missing": ("import not_there_at_all", "No module named 'not_there_at_all'"),
    "a part of what it imports is missing": ("import json.not_there", "No module named 'json.not_there'"),
    "a broken shared library": ("import ctypes; ctypes.CDLL('libnot-there.so.9')", "libnot-there.so.9: cannot open shared"),
    "another binary interface": ("raise ValueError('numpy.dtype size changed')", "numpy.dtype size changed"),
    "several lines": ("raise RuntimeError('Failed to import it\\n  because of this')", "Failed to import it because of this"),
    "no message": ("raise AttributeError", "AttributeError"),
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that makes an installed package `toy_extra` of this source."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(source: str) -> None:
        for name in [name for name in sys.modules if name.startswith("toy_extra")]:
            monkeypatch.delitem(sys.modules, name)
        (tmp_path / "toy_extra").mkdir(exist_ok=True)
        (tmp_path / "toy_extra" / "__init__.py").write_text(source + "\n")

    yield make
    for name in [name for name in sys.modules if name.startswith("toy_extra")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", list(FAILURES))
def test_an_installed_package_that_fails_to_load_gives_its_reason_first(name, package):
    source, reason = FAILURES[name]
    package(source)
    with pytest.raises(BrokenExtra) as caught, extra("toys"):
        exec("import toy_extra")
    said = str(caught.value)
    assert said.startswith(reason) and "\n" not in said and "needs the extra" not in said and "'prorank[toys]'" in said
    assert isinstance(caught.value, ProRankError) and isinstance(caught.value, ImportError)
    assert caught.value.__cause__ is not None and not isinstance(caught.value, MissingExtra)


LINES = ["import toy_missing", "import toy_missing.part", "from toy_missing.part import it", "__import__('toy_missing')"]


@pytest.mark.parametrize("line", [*LINES, "import importlib; importlib.import_module('toy_missing')"])
def test_a_missing_package_names_the_extra(line):
    with pytest.raises(MissingExtra) as caught, extra("toys"):
        exec(line)
    assert str(caught.value).startswith("No module named 'toy_missing'")
    assert str(caught.value).endswith("This needs the extra 'toys': pip install 'prorank[toys]'")


@pytest.mark.parametrize("line", ["import toy_extra.gone", "from toy_extra import gone", "from toy_extra.gone import it"])
def test_a_part_that_another_version_has_is_no_missing_extra(line, package):
    package("")
    with pytest.raises(BrokenExtra, match="toy_extra"), extra("toys"):
        exec(line)


def test_a_namespace_that_others_share_is_not_the_package(tmp_path, monkeypatch):
    """Llama_index is a folder of many packages, of which `core` is the one that is needed."""
    (tmp_path / "toy_space" / "other").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingExtra, match="This needs the extra 'toys'"), extra("toys"):
        exec("import toy_space.core")


def test_errors_of_our_own_pass():
    """What a module of ours raises in such a block is not an import that failed."""
    with pytest.raises(DataError, match="as it is"), extra("toys"):
        raise DataError("as it is")
