"""Fixtures for all tests: tiny checkpoints, toy data, and the folder of real data if it exists.

Torch is held to a fixed number of threads, because sums in another order give other last bits and the resume tests
compare weights: two where the tests run in one process, one where processes run beside each other (pytest-xdist).
"""

import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.tiny import save_adapter, save_tiny, toy_lists, write_jsonl
from tests.toy_data import write_collection

settings.register_profile("untimed", deadline=None)  # on a busy machine any example may take long
settings.load_profile("untimed")

THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
SETS = ("--lists", "toy", "bare", "--dev", "toy")  # of `collections`, on the command line of a benchmark


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(THREADS)
    os.environ["OMP_NUM_THREADS"] = str(THREADS)  # for the commands that tests start


@pytest.fixture(scope="session")
def tiny_llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a SmolLM2-like tokenizer. Read only: tests that write make a copy."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "llama", "llama")


@pytest.fixture(scope="session")
def tiny_qwen2_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 with a Qwen2-like tokenizer. Read only: tests that write make a copy."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "qwen2", "qwen2")


@pytest.fixture(scope="session")
def calibrated_dir(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with a calibration of temperature 4, for fp32 on a CPU. Read only."""
    from prorank.checkpoints.calibration import Calibration
    from prorank.reranker import Reranker

    folder = shutil.copytree(tiny_llama_dir, tmp_path_factory.mktemp("tiny") / "calibrated")
    known = Reranker(folder, device="cpu", dtype="fp32")
    Calibration("temperature", {"temperature": 4.0}, prompt_id=known.prompt_fingerprint, weights=known.weight_hashes).save(folder)
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real collections in PRORANK_DATA. Tests that need it are skipped if it is not set."""
    folder = os.environ.get("PRORANK_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PRORANK_DATA does not name a folder of collections (dl19, dl20, ...)")
    return Path(folder)


@pytest.fixture(scope="session")
def toy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSONL lists of 60 queries, 1 relevant document (it contains the query's word) and 3 others each."""
    return write_jsonl(tmp_path_factory.mktemp("toy") / "lists.jsonl", toy_lists())


@pytest.fixture(scope="session")
def toy_dev_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 more lists of the same kind, drawn with another seed, for development measures."""
    return write_jsonl(tmp_path_factory.mktemp("toy_dev") / "lists.jsonl", toy_lists(24, seed=1))


@pytest.fixture(scope="session")
def server(tiny_llama_dir: Path):
    """A server in this process around the tiny Llama, in fp32. Read only: tests that change it start their own."""
    from prorank.reranker import Reranker
    from tests.serving import running

    with running(Reranker(tiny_llama_dir, device="cpu", dtype="fp32")) as made:
        yield made


@pytest.fixture(scope="session")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two toy collections: `toy` with labels of both kinds, `bare` with relevant ones alone."""
    root = tmp_path_factory.mktemp("collections")
    write_collection(root, "toy")
    write_collection(root, "bare", judged=False)
    return root


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    """Restore the loggers after `prorank serve` has redirected them to stderr as JSON."""
    loggers = [logging.getLogger(name) for name in ("prorank", "prorank.serve", "uvicorn", "uvicorn.error", "asyncio")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def script(collections: Path, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that runs a benchmark on `collections` with these arguments; `script.base` is a tiny model."""
    from benchmarks.evidence import recipe_lists

    monkeypatch.setenv("PRORANK_DATA", str(collections))
    monkeypatch.setattr(recipe_lists, "TRAIN", {"toy": 8, "bare": 8})
    monkeypatch.setattr(recipe_lists, "JUDGED", ())
    monkeypatch.setattr(recipe_lists, "DEV", ("toy",))
    monkeypatch.setattr("prorank.train.run.plot", lambda run: None)  # a second a run, tested elsewhere

    def run(module, *words) -> None:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
        module.main()

    run.base = tiny_llama_dir
    return run


@dataclass(frozen=True)
class Standin:
    """A tiny default model: the user's `cache` with a base, the trained `run`, and `models`, the package's folder of it."""

    cache: Path
    run: Path
    models: Path
    card: Path


@pytest.fixture(scope="session")
def standin_files(tmp_path_factory: pytest.TempPathFactory) -> Standin:
    """A stand-in for the default model, installed from a run like the real one. Read only."""
    from prorank.checkpoints import default_model
    from recipes.default.ship import ship

    root = tmp_path_factory.mktemp("standin")
    files = Standin(root / "cache", root / "run", root / "models", root / "card.json")
    base = save_tiny(files.cache / "smollm2-135m", "llama")
    save_adapter(files.run / "model", base, "smollm2-135m", prompt="document-first")
    (files.run / "config.yaml").write_text("stage: score\nbase: smollm2-135m\ndata: lists.jsonl\nout: run\nlist_size: 5\n")
    tables = {"data": [{"set": "toy", "licence": "none"}], "figures": [{"list": "toy", "BM25": 0.5}]}
    files.card.write_text(json.dumps(tables | {"commands": ["prorank train x.yaml"]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRORANK_CACHE", str(files.cache))
        patch.setattr(default_model, "MODELS", files.models)
        ship(files.run, files.card)
    return files


@pytest.fixture
def standin(standin_files: Standin, monkeypatch: pytest.MonkeyPatch) -> Standin:
    """`Reranker()` loads the stand-in."""
    monkeypatch.setenv("PRORANK_CACHE", str(standin_files.cache))
    monkeypatch.setattr("prorank.checkpoints.default_model.MODELS", standin_files.models)
    return standin_files
