"""Integrations against the real packages, by `make test-integrations`.

They are collected only where PRORANK_INTEGRATIONS is set; there, a package that is missing fails them.
"""

import os

import pytest

from prorank.checkpoints.saving import save_checkpoint
from prorank.prompts.prompt import Prompt
from prorank.reranker import Reranker
from tests.tiny import byte_tokenizer, save_tiny, tiny_llama

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "false"  # read when haystack is imported
collect_ignore_glob = [] if os.environ.get("PRORANK_INTEGRATIONS") else ["test_*.py"]

QUERY = "where is the garden?"
TEXTS = ["a river", "the garden is near the river", "bread and coffee", "", "another garden, another day"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny checkpoint with an untrained prompt. Read only."""
    return save_tiny(tmp_path_factory.mktemp("integrations") / "tiny-llama", "llama")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A run folder with a checkpoint as training leaves it. Read only."""
    folder, tokenizer = tmp_path_factory.mktemp("runs") / "score", byte_tokenizer("smollm")
    save_checkpoint(folder / "model", tiny_llama(tokenizer), Prompt.preset("prorank").bind(tokenizer))
    (folder / "config.yaml").write_text("stage: score\n")
    return folder


@pytest.fixture(scope="session")
def reranker(checkpoint) -> Reranker:
    return Reranker(checkpoint, dtype="fp32")


@pytest.fixture(scope="session")
def wanted(reranker):
    """The hits of TEXTS, whose order is not that of the input."""
    hits = reranker.rank(QUERY, TEXTS)
    assert [hit.index for hit in hits] != sorted(hit.index for hit in hits)
    return hits
