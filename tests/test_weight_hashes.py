"""Cached hashes of weights: reused for the same files, computed again for changed ones."""

import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prorank.checkpoints import weight_hashes
from prorank.checkpoints.weight_hashes import weight_hash


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Weights that count as large, changed a while ago, and a cache folder of their own."""
    monkeypatch.setenv("PRORANK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weight_hashes, "MIN_BYTES", 0)
    monkeypatch.setattr(weight_hashes, "SETTLED_NS", 0)
    return write(tmp_path / "model", 1.0)


def write(folder: Path, value: float) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({"weight": torch.full((4, 4), value)}, folder / "model.safetensors")
    time.sleep(0.01)
    return folder


def next_process() -> None:
    """Forget what this process has computed."""
    weight_hashes._cached_hash.cache_clear()


def test_the_same_files_are_hashed_once(folder, monkeypatch):
    want = weight_hash(folder)
    next_process()
    monkeypatch.setattr(weight_hashes, "_compute_hash", lambda _: pytest.fail("hashed again"))
    assert weight_hash(folder) == want


def test_changed_files_are_hashed_again(folder):
    before, stat = weight_hash(folder), (folder / "model.safetensors").stat()
    next_process()
    write(folder, 2.0)
    os.utime(folder / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the time of change still tells
    assert weight_hash(folder) != before
    next_process()
    write(folder, 1.0)
    assert weight_hash(folder) == before


def test_hashes_of_recently_changed_files_are_not_cached(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(weight_hashes, "SETTLED_NS", 10**12)
    weight_hash(folder)
    assert not (tmp_path / "cache").exists()


def test_hashes_of_small_files_are_not_cached(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(weight_hashes, "MIN_BYTES", 10**6)
    weight_hash(folder)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"files": [], "sha256": "x"}', "\x00"])
def test_a_damaged_record_is_replaced(folder, tmp_path, content):
    want = weight_hash(folder)
    (record,) = (tmp_path / "cache" / "hashes").iterdir()
    stored = record.read_text()
    record.write_text(content)
    next_process()
    assert weight_hash(folder) == want and record.read_text() == stored


def test_a_cache_that_cannot_be_written_costs_only_time(folder, tmp_path):
    want = weight_hash(folder)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file")
    next_process()
    assert weight_hash(folder) == want
