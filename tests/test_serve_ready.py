"""Readiness: the warm-up before requests are accepted, its messages, and the state for the first request.

The first request is watched in a process of its own, for this one has long imported what a server may need late.
"""

import json
import logging
import subprocess
import sys
import threading

import pytest

from prorank.reranker import Reranker
from prorank.serve.first_requests import warmup_queries, warmup_shapes
from prorank.serve.service import ServiceState
from tests.serving import running, wait_for
from tests.tiny import WORDS

BODY = {"query": "garden", "documents": ["the garden", "a castle"]}
FIRST = """
import json, os, sys
import httpx2
from prorank.reranker import Reranker
from tests.serving import running

def threads():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0

def calls(of, name, seen):
    work = getattr(of, name)
    setattr(of, name, lambda *given: seen.append(name) or work(*given))

seen = []
with running(Reranker(sys.argv[1], device="cpu", dtype=sys.argv[2])) as server:
    server.client.get("/health")
    calls(server.service.workload, "run", seen)
    calls(server.reranker.runtime, "hidden", seen)
    before = set(sys.modules), threads()
    answer = server.post("/v1/rerank", {"query": "garden", "documents": ["the garden", "a castle"]})
    after = set(sys.modules), threads()
new = {"modules": sorted(after[0] - before[0]), "threads": after[1] - before[1]}
print(json.dumps({"status": answer.status_code, **new, "calls": seen}))
"""


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_first_request_imports_nothing_starts_no_thread_and_reads_one_batch(tiny_llama_dir, dtype):
    done = subprocess.run([sys.executable, "-c", FIRST, tiny_llama_dir, dtype], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"status": 200, "modules": [], "threads": 0, "calls": ["run", "hidden"]}


KINDS = {
    "pointwise": {}, "setwise": {"method": "setwise", "branching": 3, "k": 4},
    "listwise": {"method": "listwise", "window": 4, "step": 2},
    "thinking": {"prompt": "rerank-r0", "max_length": 900, "max_think_tokens": 4},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_all_shapes_are_read_and_none_is_counted(tiny_qwen2_dir, kind, caplog):
    reranker = Reranker(tiny_qwen2_dir, device="cpu", dtype="fp32", **KINDS[kind])
    before = vars(reranker.cost).copy(), vars(reranker.cuts).copy()
    with caplog.at_level(logging.INFO, "prorank.serve"), running(reranker) as server:
        page = server.client.get("/metrics").text
        names = {thread.name for thread in threading.enumerate()}
        shapes = warmup_shapes(reranker, server.service.workload.batch_size, server.service.workload.longest)
    assert "model" in names and "encoder_0" in names  # they stay for the requests to come
    assert (vars(reranker.cost), vars(reranker.cuts)) == before
    figures = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    counted = {name: float(value) for name, value in figures.items() if name.startswith("prorank_") and "_created" not in name}
    assert {name for name, value in counted.items() if value} <= {"prorank_ready"} and len(counted) > 20
    lines = [record.__dict__.get("fields", {}) | {"event": record.getMessage()} for record in caplog.records]
    warmed = [line for line in lines if line["event"] == "warmed"]
    assert [line["shape"] for line in warmed] == [shape.name for shape in shapes]
    assert all(line["of"] == len(warmed) and line["seconds"] >= 0 for line in warmed)
    order = [line["event"] for line in lines if line["event"] in ("loaded", "warmed", "ready")]
    assert order == ["loaded", *["warmed"] * len(warmed), "ready"]


def test_shapes_go_from_one_document_to_a_batch_of_the_longest(tiny_llama_dir):
    reranker = Reranker(tiny_llama_dir, device="cpu", dtype="fp32")
    shapes = warmup_shapes(reranker, 1024, 512)
    assert [sum(request.documents for request in shape.requests) for shape in shapes] == [1, 2, 10, 9, 3]
    assert len(shapes[3].requests) == 3
    (query,) = warmup_queries(shapes[-1])
    prompts = reranker.encoder.encode_many(*query.lists[0])
    assert {len(prompt.ids) for prompt in prompts} == {reranker.encoder.longest} and sum(len(p.ids) for p in prompts) > 1024
    for shape in shapes:
        texts = [text for each in warmup_queries(shape) for _, documents in each.lists for text in documents]
        assert len(set(texts)) == len(texts) or len(shape.requests) > 1  # what is the same is read once


def test_health_names_the_current_step(tiny_llama_dir):
    """503 with the shape that is read, until all are."""
    gate, turn = threading.Event(), threading.Event()

    class Slow(Reranker):
        def score_encoded(self, lists):
            turn.set()
            assert gate.wait(60)
            return super().score_encoded(lists)

    with running(lambda: Slow(tiny_llama_dir, device="cpu", dtype="fp32"), ready=False) as server:
        assert turn.wait(60)
        for path, field in (("/health", "error"), ("/info", "error")):
            answer = server.client.get(path)
            assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
            assert answer.json()[field] == "the model is warming up: shape 1 of 5, one short document"
        assert server.client.head("/health").status_code == 503
        refused = server.post("/v1/rerank", BODY)
        assert refused.status_code == 503 and "warming up" in refused.json()["detail"]
        assert "prorank_ready 0.0" in server.client.get("/metrics").text
        gate.set()
        wait_for(lambda: server.client.get("/health").status_code == 200)
        assert server.post("/v1/rerank", BODY).status_code == 200
        assert "prorank_ready 1.0" in server.client.get("/metrics").text


@pytest.mark.parametrize("error", [RuntimeError("no memory"), MemoryError()])
def test_a_failing_warm_up_request_prevents_readiness(tiny_llama_dir, error):
    """Errors that clients would get are raised before, with the same kind."""

    class Broken(Reranker):
        def score_encoded(self, lists):
            if len(lists[0][0]) > 1:
                raise error
            return super().score_encoded(lists)

    with running(lambda: Broken(tiny_llama_dir, device="cpu", dtype="fp32")) as server:
        assert server.service.state is ServiceState.FAILED and server.service.error is error
        assert server.client.get("/health").status_code == 503 and server.post("/v1/rerank", BODY).status_code == 503


def test_a_server_can_be_stopped_during_its_start(tiny_llama_dir):
    turn = threading.Event()

    class Slow(Reranker):
        def score_encoded(self, lists):
            turn.set()
            return super().score_encoded(lists)

    with running(lambda: Slow(tiny_llama_dir, device="cpu", dtype="fp32"), ready=False) as server:
        assert turn.wait(60)
    assert server.service.state is ServiceState.DRAINING and not server.service.model_thread.is_alive()


def test_limits_of_requests_do_not_bind_the_warm_up(tiny_llama_dir):
    from prorank.serve.limits import Limits

    limits = Limits(
        max_documents=1, max_characters=10, max_requests=1, max_queued_documents=1, max_body_bytes=100, request_timeout=0.001
    )
    with running(Reranker(tiny_llama_dir, device="cpu", dtype="fp32"), limits) as server:
        assert server.service.state is ServiceState.READY


@pytest.mark.slow
def test_nothing_is_compiled_after_ready(tiny_llama_dir):
    from torch._dynamo.utils import counters

    with running(lambda: Reranker(tiny_llama_dir, device="cpu", dtype="fp32", compile=True)) as server:
        before = {name: dict(some) for name, some in counters.items()}
        for count in (1, 2, 3, 7, 30):
            documents = [f"{' '.join(WORDS[: 1 + at % 9])} {at}" for at in range(count)]
            assert server.post("/v1/rerank", {"query": "garden", "documents": documents}).status_code == 200
        assert {name: dict(some) for name, some in counters.items()} == before
