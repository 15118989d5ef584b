"""Limits: requests that are too large, too slow or not allowed are rejected in time, and the server keeps answering.

A slow server is simulated by letting each batch sleep.
"""

import concurrent.futures
import json
import logging
import random
import socket
import threading

import httpx2
import pytest

from prorank.errors import ConfigError, ModelError
from prorank.reranker import Reranker
from prorank.serve.limits import Limits
from prorank.serve.logs import JsonFormatter, log_failure
from prorank.serve.server import listen
from prorank.utils.api_keys import key_of
from tests.serving import running, slowed, wait_for
from tests.tiny import WORDS

BODY = {"query": "garden", "documents": ["the garden", "a castle"]}


@pytest.fixture(scope="module")
def reranker(tiny_llama_dir):
    return Reranker(tiny_llama_dir, device="cpu", dtype="fp32")


def raw(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def answering(server) -> bool:
    return server.post("/v1/rerank", BODY).status_code == 200


def test_sizes(reranker):
    with running(reranker, Limits(max_body_bytes=2000, max_documents=5, max_characters=100, max_tokens_per_doc=2)) as server:
        for path, status in (("/rerank", 422), ("/v1/rerank", 422), ("/v2/rerank", 400), ("/score", 400)):
            texts = {"texts": ["a"] * 6} if path == "/rerank" else {"documents": ["a"] * 6}
            answer = server.post(path, {"query": "q", "queries": "q", **texts})
            assert answer.status_code == status and "6 documents are more than 5" in answer.text
        many = server.post("/v2/rerank", {"query": "q", "documents": ["a" * 99, "bb"]})
        assert many.status_code == 400 and many.json()["message"].startswith("102 characters are more than 100; send fewer")
        for more in ({"content": b"x" * 2001}, {"content": iter([b"x" * 500] * 5)}):
            large = server.client.post("/v1/rerank", headers={"content-type": "application/json"}, **more)
            assert large.status_code == 413 and "2000 bytes" in large.json()["detail"]
        capped = server.post("/v1/rerank", BODY | {"max_tokens_per_doc": 50})
        assert capped.headers["x-prorank-truncated-documents"] == "1" and answering(server)


def test_kinds_of_bodies(server):
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/json", "content-encoding": "gzip"}):
        assert server.client.post("/v1/rerank", content=json.dumps(BODY), headers=headers).status_code == 415
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"):
        assert server.client.post("/v1/rerank", content=json.dumps(BODY), headers={"content-type": kind}).status_code == 200


def test_keys(reranker):
    with running(reranker, key="s3cret") as server:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}, {"authorization": "Basic s3cret"}):
            answer = server.post("/rerank", {"query": "q", "texts": ["a"]}, headers=headers)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer" and "s3cret" not in answer.text
        for path in ("/info", "/v1/models"):
            assert server.client.get(path).status_code == 401
            assert server.client.get(path, headers={"authorization": "bearer s3cret"}).status_code == 200
        assert server.post("/v2/rerank", BODY).json().keys() == {"message"}
        assert server.post("/v2/rerank", BODY, headers={"authorization": "Bearer s3cret"}).status_code == 200
        assert server.client.get("/health").status_code == 200 and server.client.get("/metrics").status_code == 200


def test_other_origins_are_allowed_only_on_request(server, reranker):
    ask = {"origin": "http://a.example", "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    assert "access-control-allow-origin" not in server.client.options("/v1/rerank", headers=ask).headers
    with running(reranker, origins=["http://a.example"]) as other:
        allowed = other.client.options("/v1/rerank", headers=ask).headers
        assert allowed["access-control-allow-origin"] == "http://a.example"
        ask["origin"] = "http://b.example"
        assert "access-control-allow-origin" not in other.client.options("/v1/rerank", headers=ask).headers


def test_requests_over_the_limit_get_429_with_retry_after(reranker):
    with running(reranker, Limits(max_requests=3, max_queued_documents=20)) as server:
        slowed(server.service, 0.5)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            some = list(pool.map(lambda path: server.post(path, BODY), ["/rerank", "/v1/rerank", "/v2/rerank", "/rerank"] * 2))
        refused = [answer for answer in some if answer.status_code == 429]
        assert refused and sum(answer.status_code == 200 for answer in some) == len(some) - len(refused) >= 3
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            long = pool.submit(server.post, "/v1/rerank", {"query": "q", "documents": [str(i) for i in range(30)]})
            wait_for(lambda: server.service.admission.documents == 30)
            answer = server.post("/rerank", {"query": "q", "texts": ["a"]})
            assert answer.status_code == 429 and answer.json()["error_type"] == "Overloaded"
            assert long.result().status_code == 200  # one request alone is always taken
        assert (server.service.admission.requests, server.service.admission.documents, server.service.admission.bytes) == (0, 0, 0)


def test_a_deadline_of_the_server_and_one_of_the_request(reranker):
    with running(reranker, Limits(request_timeout=0.4)) as server:
        slowed(server.service, 1.0)
        for path, status in (("/rerank", 424), ("/v1/rerank", 504), ("/v2/rerank", 504), ("/score", 504)):
            texts = {"texts": ["a"]} if path == "/rerank" else {"documents": ["a"]}
            assert server.post(path, {"query": "q", "queries": "q", **texts}).status_code == status
        wait_for(lambda: not server.service.queue.jobs)
    with running(reranker) as server:
        slowed(server.service, 2.0)
        late = server.post("/v1/rerank", BODY, headers={"x-request-timeout": "1"})
        assert late.status_code == 504 and "within 1 seconds" in late.json()["detail"] and answering(server)
        for value in ("soon", "-1", "0.9", "nan", "inf"):
            assert server.post("/v1/rerank", BODY, headers={"x-request-timeout": value}).status_code == 422


def test_work_of_disconnected_clients_is_dropped(reranker):
    with running(reranker, batch_size=100) as server:
        slowed(server.service, 0.2)
        body = json.dumps({"query": "q", "documents": [f"the garden {i}" for i in range(100)]}).encode()
        with raw(server.url) as client:
            head = f"POST /v1/rerank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            wait_for(lambda: server.service.queue.jobs)
        # a hundred batches would take 20 s
        wait_for(lambda: not server.service.queue.jobs and not server.service.admission.requests, 5)
        assert answering(server)
        assert 'prorank_dropped_total{reason="disconnect"} 1.0' in server.client.get("/metrics").text


def test_slow_and_broken_bodies(reranker):
    with running(reranker, Limits(max_body_seconds=0.5)) as server:
        head = b"POST /v1/rerank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
        with raw(server.url) as slow, raw(server.url) as broken:
            slow.sendall(head + b'{"query"')
            broken.sendall(head + b'{"query"')
            broken.close()
            assert answering(server)
            assert b" 408 " in slow.recv(1000)
        wait_for(lambda: not server.service.admission.requests)
        assert answering(server)


def test_ten_documents_are_not_delayed_by_two_requests_of_a_thousand(reranker):
    """In batches: the small request is in one of the next two, each time."""
    with running(reranker) as server:
        stop, seen, queue = threading.Event(), [], server.service.queue
        make_batch, put, queued = queue._make_batch, queue.put, []

        def record():  # with the queue's lock held, as by `put` below, so that no batch is made between the two
            items = make_batch()
            seen.append({len(item.job.texts[0]) for item in items})
            return items

        def note(job, items, more=False):
            with queue.changed:
                queued.extend([len(seen)] if len(job.texts[0]) == 10 and more else [])
                put(job, items, more)

        def both_in_progress():  # past their first batch, which a new request gets before later ones, and far from their end
            with queue.changed:
                return len(queue.long_jobs) == 2 and all(job.served_tokens < 5 * queue.batch_tokens for job in queue.long_jobs)

        queue._make_batch, queue.put = record, note
        large = {"query": "river", "documents": [f"the castle {i}, then a garden" for i in range(1000)]}

        def often():
            with httpx2.Client(base_url=server.url, timeout=300) as client:
                while not stop.is_set():
                    assert client.post("/v1/rerank", json=large).status_code == 200

        threads = [threading.Thread(target=often) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(seen) > 5)
        small = {"query": "garden", "documents": [f"the old garden {i}" for i in range(10)]}
        for _ in range(10):
            wait_for(both_in_progress)
            assert server.post("/v1/rerank", small).status_code == 200
            waited = next(i for i, sizes in enumerate(seen[queued[-1] :]) if 10 in sizes)
            assert waited <= 1  # one may be owed to the long requests
        stop.set()
        for thread in threads:
            thread.join(120)


def test_one_bad_request_fails_alone(reranker):
    with running(reranker) as server:
        run = server.service.workload.run

        def fragile(items):
            if any(item.job.rerank_query.lists[0].query == "bad" for item in items):
                raise RuntimeError("secret of a document")
            return run(items)

        server.service.workload.run = fragile
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            queries = ["bad" if i % 4 == 0 else f"good {i}" for i in range(24)]
            found = list(pool.map(lambda query: server.post("/rerank", {"query": query, "texts": ["a", "b"]}), queries))
        assert [answer.status_code for answer in found] == [424 if query == "bad" else 200 for query in queries]
        assert found[0].json() == {"error": "the model failed on this request", "error_type": "Backend"}
        assert server.post("/v1/rerank", {"query": "bad", "documents": ["a"]}).status_code == 500
        assert answering(server)


def test_scores_that_are_not_finite(reranker):
    with running(reranker) as server:
        server.service.workload.run = lambda items: [(float("nan"), None)] * len(items)
        answer = server.post("/rerank", {"query": "q", "texts": ["a"]})
        assert answer.status_code == 424 and "not finite" in answer.json()["error"]


def test_health_before_and_after(reranker):
    gate = threading.Event()

    def load():
        gate.wait(60)
        return reranker

    with running(load, ready=False) as server:
        for path in ("/health", "/info"):
            answer = server.client.get(path)
            assert answer.status_code == 503 and answer.json() == {"error": "the model is loading", "error_type": "Unhealthy"}
        assert server.post("/v2/rerank", BODY).status_code == 503
        assert server.post("/v2/rerank", BODY).headers["retry-after"] == "5"
        gate.set()
        wait_for(lambda: server.client.get("/health").status_code == 200)
        assert answering(server)


def test_a_model_that_cannot_be_loaded():
    def load():
        raise ModelError("no weights")

    with running(load) as server:
        assert server.client.get("/health").status_code == 503 and str(server.service.error) == "no weights"


def test_logs_hold_no_texts_and_no_messages_of_exceptions(server, caplog, capsys):
    with caplog.at_level(logging.INFO, "prorank.serve"):
        assert server.post("/v1/rerank", {"query": "secret", "documents": ["secret 1", "secret 2"]}).status_code == 200
        assert server.post("/v1/rerank", {"query": "secret", "documents": [3]}).status_code == 422
        try:
            raise ValueError("secret")
        except ValueError as error:
            log_failure("here", error)
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records if record.name == "prorank.serve"]
    assert "secret" not in json.dumps(lines)
    asked = [line for line in lines if line["event"] == "request"]
    assert [line["status"] for line in asked] == [200, 422] and asked[0]["documents"] == 2 and asked[0]["tokens"] > 0
    assert lines[-1]["error"] == "ValueError" and lines[-1]["trace"]


def test_invalid_limits():
    with pytest.raises(ConfigError, match="limit max_documents must be above 0, not 0"):
        Limits(max_documents=0)
    with pytest.raises(ConfigError, match="limit request_timeout"):
        Limits(request_timeout=-1.0)


def test_missing_keys_and_busy_ports(monkeypatch):
    monkeypatch.setenv("EMPTY_KEY", " ")
    for name in ("EMPTY_KEY", "NO_SUCH_KEY"):
        with pytest.raises(ConfigError, match=f"the environment variable {name} is not set or empty"):
            key_of(name)
    monkeypatch.setenv("GOOD_KEY", "k\n")
    assert key_of("GOOD_KEY") == "k" and key_of(None) is None
    with listen("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match="choose another --host or --port"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match="cannot listen on 127.0.0.1:99999"):
        listen("127.0.0.1", 99999)


def test_concurrent_requests_get_the_scores_of_the_library(reranker):
    """Batches are joined over requests; each gets its own scores."""
    rng = random.Random(0)
    text = lambda: " ".join(rng.choices(WORDS, k=rng.randint(0, 60)))  # noqa: E731
    asked = [{"query": rng.choice(WORDS), "documents": [text() for _ in range(rng.randint(1, 30))]} for _ in range(40)]
    with running(reranker, batch_size=700) as server:
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda body: server.post("/v1/rerank", body | {"raw_scores": True}).json()["results"], asked))
        figure = dict(line.rsplit(" ", 1) for line in server.client.get("/metrics").text.splitlines())
        alone, every = (float(figure[f"prorank_batch_requests_{name}"]) for name in ('bucket{le="1.0"}', "count"))
        assert alone < every  # some batches joined several
    for body, results in zip(asked, found):
        scores = {hit["index"]: hit["relevance_score"] for hit in results}
        wanted = reranker.score([(body["query"], document) for document in body["documents"]])
        assert [scores[i] for i in range(len(wanted))] == pytest.approx(wanted.tolist(), abs=1e-4)
