"""The OpenAPI document and the server: valid requests get documented answers, and no request stops the server.

Schemathesis makes requests from the document, valid ones and wrong ones; the slow run makes 5,000.
"""

import json
import random
import socket
import string
import time

import httpx2
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from prorank.serve.app import create_app
from prorank.serve.limits import Limits
from prorank.serve.metrics import Metrics
from prorank.serve.service import Service
from tests.serving import running

DOCUMENT = create_app(Service(lambda: None, "tiny", Limits(), Metrics())).openapi()
OPERATIONS = [(path, method.upper()) for path, some in DOCUMENT["paths"].items() for method in some]
QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


# Why a request that the schema allows may be refused all the same.
REASONS = (
    "leaves no room", "does not think", "1:1, 1:N or N:N", "larger than", "characters are more than",
    "has no text", "no document has the field", "neither a text nor a number", "are different numbers",
    "truncation is switched off",
)  # fmt: skip


def requests_of(path: str, method: str) -> st.SearchStrategy:
    """Requests of an operation, as its schema allows and as it does not."""
    operation = schemathesis.openapi.from_dict(DOCUMENT)[path][method]
    modes = GenerationMode if method == "POST" else [GenerationMode.POSITIVE]
    return st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes))


def check(server, path: str, method: str, examples: int, derandomize: bool) -> None:
    """Send so many requests and hold the answers against the document."""
    seen = []

    @settings(max_examples=examples, derandomize=derandomize, database=None, suppress_health_check=QUIET)
    @given(case=requests_of(path, method))
    def test(case):
        if case.meta.generation.mode is GenerationMode.POSITIVE:
            case.headers.pop("X-Request-Timeout", None)  # a busy machine may need longer
        answer = case.call_and_validate(base_url=server.url, excluded_checks=[positive_data_acceptance])
        seen.append(answer.status_code)
        if case.meta.generation.mode is GenerationMode.POSITIVE and answer.status_code not in (200, 404):
            assert any(reason in answer.text for reason in REASONS), answer.text

    test()
    assert 200 in seen and (method == "GET" or {400, 422} & set(seen))


@pytest.mark.parametrize("path, method", OPERATIONS)
def test_answers_are_those_of_the_document(server, path, method):
    check(server, path, method, 25 if method == "POST" else 1, derandomize=True)


def test_the_document_and_the_server_agree_on_what_is_blank(server):
    query = DOCUMENT["components"]["schemas"]["TeiRequest"]["properties"]["query"]
    for letter in filter(str.isspace, map(chr, range(0x3001))):
        assert not jsonschema_rs.is_valid(query, letter) and jsonschema_rs.is_valid(query, f"{letter}a")
        assert server.post("/rerank", {"query": letter, "texts": ["a"]}).status_code == 422


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("path, method", [each for each in OPERATIONS if each[1] == "POST"])
def test_5000_requests_find_no_fault(server, path, method):
    """Five paths take a body, each a thousand times."""
    check(server, path, method, 1000, derandomize=False)


def hostile(rng: random.Random) -> bytes:
    """A hostile body."""
    scalars = [None, True, 0, -1, 1e308, 10**400, "", "\0", "\ud800", "\U0010ffff", "\u202e", [], {}, [[]], {"text": None}]
    scalars += [{"image": "file:///etc"}]
    some = lambda: rng.choice(scalars)  # noqa: E731
    names = "query queries documents texts items text_1 text_2 top_n instruction max_tokens_per_doc return_documents".split()
    names += ["truncate", "truncate_prompt_tokens", "model", "long_documents", "use_activation", "\0"]
    kind = rng.randrange(10)
    if kind == 0:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(200)))
    if kind == 1:
        return rng.choice([b"[", b'{"a":', b'{"query":"', b"-", b"1"]) * rng.choice([1, 150, 5000])
    if kind == 2:
        deep = rng.choice([50, 150, 250, 20_000])
        return b'{"query":"q","texts":' + b"[" * deep + b"]" * deep + b"}"
    if kind == 3:
        return json.dumps([some() for _ in range(3)] if rng.random() < 0.5 else some()).encode()
    body = {name: some() for name in rng.sample(names, rng.randrange(1, 8))}
    if kind > 6:  # nearly right
        text = "".join(rng.choices(string.printable + "\0\ud834é🦊", k=rng.randrange(300)))
        body = {"query": "q", "queries": "q", "texts": ["a", text], "documents": ["a", text], **{rng.choice(names): some()}}
    encoded = json.dumps(body).encode()
    return encoded[: rng.randrange(len(encoded))] if kind == 4 else encoded.replace(b'"a"', b"NaN") if kind == 5 else encoded


def test_500_hostile_bodies_leave_the_server_answering(server):
    rng, paths = random.Random(0), ["/rerank", "/v1/rerank", "/v2/rerank", "/score"]
    headers, statuses = {"content-type": "application/json"}, set()
    for number in range(500):
        answer = server.client.post(paths[number % 4], content=hostile(rng), headers=headers)
        statuses.add(answer.status_code)
        assert answer.status_code < 500 and answer.status_code != 424
        answer.json()
    assert {200, 400, 422} <= statuses


def test_huge_bodies(server):
    """10 MB in one text, a megabyte in one word, 100,000 empty documents."""
    for path in ("/rerank", "/v1/rerank", "/v2/rerank", "/score"):
        for texts in (["x" * 10_000_000], [""] * 100_000):
            answer = server.post(path, {"query": "q", "queries": "q", "documents": texts, "texts": texts})
            assert 400 <= answer.status_code < 500 and len(answer.content) < 1000
    before = server.post("/v1/rerank", {"query": "q", "documents": ["a", "b"]}).json()["results"]
    beside = server.post("/v1/rerank", {"query": "q", "documents": ["a", "b", "x" * 1_000_000, " " * 1_000_000, "\0" * 1000]})
    assert beside.status_code == 200 and beside.headers["x-prorank-truncated-indices"] == "2,3"  # beyond the last chunk
    scores = {hit["index"]: hit["relevance_score"] for hit in beside.json()["results"]}
    assert [scores[hit["index"]] for hit in before] == pytest.approx([hit["relevance_score"] for hit in before], abs=1e-6)


def test_a_client_that_is_still_sending_receives_the_error(server):
    """Closing the connection during a body resets it, and the answer may be lost."""
    size, part = 40_000_000, b"x" * 8_000_000
    head = f"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n"
    with socket.create_connection(address(server), timeout=20) as client:
        client.sendall(head.encode())
        for _ in range(size // len(part)):
            client.sendall(part)
            time.sleep(0.1)
        answer = b"".join(iter(lambda: client.recv(10_000), b""))
    assert answer.startswith(b"HTTP/1.1 413 ") and json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def address(server) -> tuple[str, int]:
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


def test_headers_and_lines_that_are_no_http(server):
    for sent in (b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n", b"POST /rerank HTTP/1.1\r\ncontent-length: -5\r\n\r\n", b"A" * 70_000):
        with socket.create_connection(address(server), timeout=20) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            client.recv(1000)
    assert httpx2.get(f"{server.url}/health").status_code == 200


def test_keys_are_in_no_answer(tiny_llama_dir):
    from prorank.reranker import Reranker

    with running(Reranker(tiny_llama_dir, device="cpu", dtype="fp32"), key="s3cret") as other:
        for path in ("/openapi.json", "/docs", "/metrics", "/health"):
            assert "s3cret" not in other.client.get(path).text
