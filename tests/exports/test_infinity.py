"""The server infinity ranks with an exported classifier: its documented request, its answer, the difference from our scores.

infinity needs numpy 1 and transformers 4, so it runs from an environment of its own: `make test-infinity` makes it and names its
program in PRORANK_INFINITY.
"""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from prorank.checkpoints.default_model import DEFAULT
from prorank.export import export
from prorank.reranker import Reranker
from tests.tiny import save_tiny

PROGRAM = os.environ.get("PRORANK_INFINITY")
pytestmark = pytest.mark.skipif(not PROGRAM, reason="PRORANK_INFINITY names no program; make test-infinity sets it")
QUERY = "where is the garden?"
TEXTS = ["a river", "the garden is near the river", "bread and coffee", "another garden, another day", "planet " * 2000]
Post = Callable[..., dict]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serve(folder: Path, log: Path) -> Iterator[Post]:
    """Start the server as its documentation says, without network, and yield a function that posts to /rerank."""
    port = free_port()
    offline = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ""}
    command = [str(PROGRAM), "v2", "--model-id", str(folder), "--host", "127.0.0.1", "--port", str(port), "--no-model-warmup"]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | offline) as server:
        try:
            wait_until_ready(server, f"http://127.0.0.1:{port}/health", log)
            yield lambda **body: post(f"http://127.0.0.1:{port}/rerank", body)
        finally:
            server.terminate()


def wait_until_ready(server: subprocess.Popen, address: str, log: Path) -> None:
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the server did not start: {log.read_text()}")


def post(address: str, body: dict) -> dict:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


def scores_of(answer: dict) -> np.ndarray:
    """Scores in the order of the documents; the answer comes best first."""
    order = [row["relevance_score"] for row in answer["results"]]
    assert order == sorted(order, reverse=True)
    return np.array([row["relevance_score"] for row in sorted(answer["results"], key=lambda row: row["index"])])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A server with a tiny Llama, and the Reranker of the same checkpoint."""
    root = tmp_path_factory.mktemp("infinity")
    checkpoint = save_tiny(root / "tiny", "llama")
    exported = export(checkpoint, root / "classifier")
    with serve(exported.folder, root / "log") as rerank:
        yield rerank, Reranker(checkpoint, device="cpu", dtype="fp32", long_documents="truncate")


def test_raw_scores_are_ours(tiny):
    rerank, reranker = tiny
    answer = rerank(query=QUERY, documents=TEXTS, raw_scores=True)
    wanted = reranker.score([(QUERY, text) for text in TEXTS])
    assert np.ptp(wanted) > 0.05
    np.testing.assert_allclose(scores_of(answer), wanted, atol=1e-3)


def test_without_raw_scores_they_are_probabilities(tiny):
    rerank, reranker = tiny
    answer = rerank(query=QUERY, documents=TEXTS, top_n=2, return_documents=True)
    hits = reranker.rank(QUERY, TEXTS, top_k=2)
    found = [(row["index"], row["document"]) for row in answer["results"]]
    assert found == [(hit.index, TEXTS[hit.index].strip()) for hit in hits]
    np.testing.assert_allclose(
        [row["relevance_score"] for row in answer["results"]], [1 / (1 + np.exp(-hit.score)) for hit in hits], atol=1e-3
    )


def test_white_space_at_the_ends_is_dropped(tiny):
    rerank, reranker = tiny
    answer = rerank(query=f" {QUERY}\n", documents=["\ta river ", "  the garden  "], raw_scores=True)
    np.testing.assert_allclose(scores_of(answer), reranker.score([(QUERY, "a river"), (QUERY, "the garden")]), atol=1e-3)


def test_special_tokens_in_texts_are_text(tiny):
    rerank, reranker = tiny
    texts = ["a river<|im_end|>", "the garden<|im_start|> is near", "the garden"]
    answer = rerank(query=QUERY, documents=texts, raw_scores=True)
    np.testing.assert_allclose(scores_of(answer), reranker.score([(QUERY, text) for text in texts]), atol=1e-3)


def test_the_default_model_ranks_as_ours(tmp_path, capsys):
    exported = export(DEFAULT, tmp_path / "classifier")
    query = "how do vaccines work"
    texts = ["Bread needs flour.", "Vaccines train the immune system.", "Castles were built of stone."]
    reranker = Reranker(dtype="fp32", device="cpu", long_documents="truncate")
    with serve(exported.folder, tmp_path / "log") as rerank:
        raw = scores_of(rerank(query=query, documents=texts, raw_scores=True))
    wanted = reranker.score([(query, text) for text in texts])
    with capsys.disabled():
        print(f"\ninfinity {raw.round(4)}, ours {wanted.round(4)}, largest difference {np.abs(raw - wanted).max():.1e}")
    assert int(raw.argmax()) == 1
    np.testing.assert_allclose(raw, wanted, atol=1e-3)
