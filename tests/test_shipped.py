"""The default model: found, loaded over its base and with its tokenizer, offline once the base is there, in the wheel.

A stand-in with tiny weights lies in its place here; tests of the real one are skipped while it is not in the package.
"""

import json
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from prorank.checkpoints import default_model
from prorank.checkpoints.default_model import DEFAULT, NEEDED
from prorank.checkpoints.loading import load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.cli.command_line import app, main
from prorank.errors import ModelError
from prorank.reranker import Reranker
from prorank.train.run import train
from prorank.train.settings.stage_settings import make_settings
from tests.tiny import write_jsonl

ROOT = Path(__file__).parent.parent
REAL = ROOT / "prorank" / "models" / DEFAULT
PAIRS = [("what is a cat", "cats are pets"), ("what is a cat", "bread"), ("garden 42", "the garden is near the river")]
REFUSED = """
import socket
def refuse(*_, **__):
    raise OSError("a network call")
for name in ("connect", "connect_ex", "bind", "sendto"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.create_connection = refuse
"""
CODE = "from prorank import Reranker; print(Reranker().rank('what is a cat', ['cats are pets', 'bread']))"


def test_the_default_model_is_the_run_that_was_shipped(standin):
    ours, theirs = Reranker(dtype="fp32"), Reranker(standin.run, dtype="fp32")
    assert ours.name == DEFAULT and ours.prompt == theirs.prompt
    assert np.ptp(theirs.score(PAIRS)) > 0.05
    np.testing.assert_allclose(ours.score(PAIRS), theirs.score(PAIRS), atol=0.02)
    assert [hit.index for hit in ours.rank(PAIRS[0][0], [text for _, text in PAIRS[:2]])] == [
        hit.index for hit in theirs.rank(PAIRS[0][0], [text for _, text in PAIRS[:2]])
    ]


def test_its_tokenizer_is_the_bases_and_its_prompt_its_own(standin):
    found = resolve(DEFAULT)
    assert (found.path, found.folder, found.base) == (standin.cache / "smollm2-135m", standin.models / DEFAULT, "smollm2-135m")
    assert found.tokenizer == found.path and not (found.folder / "tokenizer.json").exists()
    assert resolve(standin.run).tokenizer == standin.run / "model"
    assert load_tokenizer(found)("the garden")["input_ids"] == load_tokenizer(resolve(standin.run))("the garden")["input_ids"]


@pytest.mark.parametrize("gone", [None, *NEEDED])
def test_an_installation_without_it_says_so(standin, tmp_path, monkeypatch, gone):
    monkeypatch.setattr(default_model, "MODELS", tmp_path)
    (tmp_path / DEFAULT).mkdir()
    for name in NEEDED if gone else ():
        if name != gone:
            (tmp_path / DEFAULT / name).write_bytes((standin.models / DEFAULT / name).read_bytes())
    with pytest.raises(ModelError, match="lacks its default model .* is missing.*; install a release .*, or name a checkpoint"):
        Reranker()


@pytest.mark.parametrize("name, near", [("prorank-smolm2-135", DEFAULT), ("smollm2-135", "smollm2-135m")])
def test_misspelt_names_get_the_nearest(name, near):
    with pytest.raises(ModelError, match=f"did you mean '{near}'"):
        resolve(name)


def said(monkeypatch, capsys, *words: str) -> str:
    """What `prorank WORDS` prints."""
    monkeypatch.setattr("sys.argv", ["prorank", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    return out


def test_the_command_line_takes_it_by_default(standin, tmp_path, monkeypatch, capsys):
    (tmp_path / "docs.txt").write_text("cats are pets\nbread\n")
    asked = ["rerank", str(tmp_path / "docs.txt"), "--query", "what is a cat", "--dtype", "fp32", "--json"]
    rows = [json.loads(line) for line in said(monkeypatch, capsys, *asked).splitlines()]
    want = Reranker(dtype="fp32").rank("what is a cat", ["cats are pets", "bread"])
    assert [(row["index"], round(row["score"], 3)) for row in rows] == [(hit.index, round(hit.score, 3)) for hit in want]
    assert said(monkeypatch, capsys, "pull").strip() == str(standin.models / DEFAULT)


def test_its_name_is_every_default():
    import typer

    verbs = typer.main.get_command(app).commands
    defaults = {verb: [p.default for p in verbs[verb].params if p.name in ("model", "name")] for verb in verbs}
    assert {verb for verb, found in defaults.items() if found == [DEFAULT]} >= {"adapt", "calibrate", "pull", "rerank"}


@pytest.mark.parametrize("lora", [{"r": 9}, None])
def test_training_goes_on_from_it(standin, tmp_path, monkeypatch, lora):
    """With lora the adapter itself is trained, over its base by name; without it is merged and all weights are."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a network call"))
    rows = [{"query": f"q {i}", "pos": ["a garden"], "neg": ["bread", "a stone"]} for i in range(8)]
    given = {"stage": "score", "base": DEFAULT, "data": str(write_jsonl(tmp_path / "d.jsonl", rows)), "out": str(tmp_path / "run")}
    folder = train(make_settings(given | {"steps": 1, "dev_queries": 0, "dtype": "fp32", "lora": lora, "save_every": 0}))
    assert (folder / "adapter_config.json").is_file() == (lora is not None)
    if lora:
        assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4  # its own shape
        assert (folder / "base.json").read_text().split() == (standin.models / DEFAULT / "base.json").read_text().split()
    assert "license: apache-2.0" in (folder / "README.md").read_text()
    moved = np.abs(Reranker(folder, dtype="fp32").score(PAIRS) - Reranker(dtype="fp32").score(PAIRS)).max()
    assert 0 < moved < 1


def offline(tmp_path: Path, code: str, cache: Path) -> subprocess.CompletedProcess:
    """Run Python code in a process of its own in which every socket is refused."""
    import os

    (tmp_path / "sitecustomize.py").write_text(REFUSED)
    path = os.pathsep.join([str(tmp_path), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"PYTHONPATH": path, "PRORANK_CACHE": str(cache), "HF_HOME": str(tmp_path / "hf")}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=tmp_path)


def test_the_refusal_refuses(tmp_path):
    done = offline(tmp_path, "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')", tmp_path)
    assert done.returncode and "a network call" in done.stderr


def test_after_the_first_use_it_ranks_without_network(standin, tmp_path):
    placed = "from pathlib import Path; from prorank.checkpoints import default_model; "
    placed += f"default_model.MODELS = Path({str(standin.models)!r}); "
    done = offline(tmp_path, placed + CODE, standin.cache)
    assert not done.returncode, done.stderr
    assert done.stdout.startswith("[Hit(index=") and "cats are pets" in done.stdout and "Warning" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the trained default model is not in the package yet")
def test_the_real_one_ranks_without_network_after_the_first_use(tmp_path):
    cache = resolve(DEFAULT).path.parent  # the first use
    done = offline(tmp_path, CODE, cache)
    assert not done.returncode, done.stderr
    assert done.stdout.index("cats are pets") < done.stdout.index("bread")


@pytest.mark.skipif(not REAL.is_dir(), reason="the trained default model is not in the package yet")
def test_the_real_one_is_small_whole_and_names_no_machine():
    assert all((REAL / name).is_file() for name in (*NEEDED, "README.md"))
    assert (REAL / "adapter_model.safetensors").stat().st_size <= 10_000_000
    assert json.loads((REAL / "base.json").read_text())["name"] == "smollm2-135m"
    assert json.loads((REAL / "adapter_config.json").read_text())["base_model_name_or_path"] == "smollm2-135m"


def test_the_wheel_takes_every_file_of_it(standin):
    """By the globs of package-data, whose root is the package's folder."""
    globs = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]["prorank"]
    root = standin.models.parent
    taken = {path for glob in globs for path in root.glob(glob)}
    files = {path for path in standin.models.rglob("*") if path.is_file()}
    assert files and files <= taken
