"""A cache of documents gives the scores of a Reranker without it and keeps to its size; `prorank serve --document-cache`."""

import concurrent.futures
import random

import pytest
from typer.testing import CliRunner

from prorank import Reranker
from prorank.cli.command_line import app
from prorank.errors import ConfigError
from prorank.index import document_cache
from prorank.index.document_cache import DocumentCache
from prorank.index.index_settings import key_value_model
from prorank.prompts.prompt import Prompt
from tests.serving import running
from tests.tiny import WORDS

PROMPT = Prompt.preset("document-first", max_length=300, chunk_length=48)
LONG = " ".join(WORDS * 15)
DOCUMENTS = [*(f"we saw the {word}" for word in WORDS), LONG, ""]
QUERY = f"where is the {WORDS[0]}?"
MANY = 1 << 30
HITS, MISSES, BYTES = (f"prorank_document_cache_{name}" for name in ("hits_total", "misses_total", "bytes"))


def load(folder, dtype="fp32", prompt=PROMPT, **options) -> Reranker:
    return Reranker(folder, device="cpu", dtype=dtype, prompt=prompt, **options)


@pytest.fixture(scope="module")
def reranker(tiny_llama_dir) -> Reranker:
    return load(tiny_llama_dir)


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """The number of documents in each pass that computes keys and values."""
    calls: list[int] = []
    compute = document_cache.compute_chunks
    monkeypatch.setattr(document_cache, "compute_chunks", lambda m, chunks: calls.append(len(chunks)) or compute(m, chunks))
    return calls


def prompts(reranker, query, documents=DOCUMENTS, instruction=None) -> list:
    return reranker.encoder.encode_many(query, list(documents), instruction)


def scores(reranker, encoded) -> list[float]:
    return reranker.score_encoded([(encoded, [""] * len(encoded))]).scores[0].tolist()


@pytest.mark.parametrize("dtype, tolerance", [("fp32", 1e-5), ("bf16", 0.03), ("int8", 1e-3)])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_scores_are_those_without_a_cache(kind, dtype, tolerance, request):
    reranker = load(request.getfixturevalue(f"tiny_{kind}_dir"), dtype)
    cache = DocumentCache(reranker, MANY)
    mixed = [*prompts(reranker, QUERY), *prompts(reranker, "castle", instruction="find castles"), *prompts(reranker, "castle")]
    for _ in range(2):
        assert cache.score(mixed) == pytest.approx(scores(reranker, mixed), abs=tolerance)
    misses = 2 * (len(DOCUMENTS) - 1)  # an empty document costs nothing
    assert cache.misses == misses and cache.hits == 6 * len(DOCUMENTS) - misses


def test_documents_are_computed_when_they_first_come(reranker, computed):
    cache = DocumentCache(reranker, MANY)
    first = prompts(reranker, QUERY, DOCUMENTS[:3])
    assert not any(prompt in cache for prompt in first)
    cache.score(first)
    assert computed == [1, 3] and all(prompt in cache for prompt in prompts(reranker, "another query", DOCUMENTS[:3]))
    cache.score([*prompts(reranker, "another query", DOCUMENTS[:4]), *prompts(reranker, "castle", DOCUMENTS[:4])])
    assert computed == [1, 3, 0, 1]
    assert cache.take_counts() == (7, 4) and cache.take_counts() == (0, 0)


def test_the_least_recently_used_documents_are_dropped(reranker):
    one, two, three, long = ([prompt] for prompt in prompts(reranker, QUERY, [*DOCUMENTS[:3], LONG]))
    sizes = {}
    for prompt in (one, two, three, long):
        cache = DocumentCache(reranker, MANY)
        cache.score(prompt)
        sizes[id(prompt)] = cache.nbytes  # the head is stored beside the document
    tokens = one[0].document_end
    assert sizes[id(one)] == tokens * key_value_model(reranker).shape.per_token * 4
    head = one[0].document_start * key_value_model(reranker).shape.per_token * 4
    cache = DocumentCache(reranker, sizes[id(one)] + sizes[id(two)] + sizes[id(three)] - 2 * head - 1)
    for prompt in (one, two, one, three):
        cache.score(prompt)
        assert cache.nbytes <= cache.max_bytes
    assert one[0] in cache and three[0] in cache and two[0] not in cache


@pytest.mark.parametrize("max_bytes", [1, 40_000, 120_000])
def test_the_bound_holds_and_scores_stay_right(reranker, max_bytes):
    cache, rng, seen = DocumentCache(reranker, max_bytes), random.Random(0), []
    for number in range(20):
        some = prompts(reranker, f"{number} {QUERY}", rng.sample(DOCUMENTS, rng.randrange(1, 9)))
        seen += some
        assert cache.score(some) == pytest.approx(scores(reranker, some), abs=1e-5)
        assert cache.nbytes <= max_bytes
        assert cache.nbytes == sum(segment.nbytes for segment in cache._segments.values())
    empty = sum(prompt.document_start == prompt.document_end for prompt in seen)
    assert (cache.hits > empty) == (max_bytes > 1) and cache.hits + cache.misses == len(seen)


def test_a_server_with_a_cache_gives_many_clients_the_scores_of_the_library(tiny_llama_dir, reranker):
    bodies = [
        {"query": f"{word} near here", "documents": DOCUMENTS[i % 5 :], "raw_scores": True}
        | ({"instruction": "find castles"} if i % 3 == 0 else {})
        for i, word in enumerate(WORDS * 2)
    ]
    with running(load(tiny_llama_dir), cache_bytes=150_000) as server, concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda body: server.post("/v1/rerank", body).json(), bodies))
        value = server.service.metrics.registry.get_sample_value
        assert value(HITS) > 0 and value(MISSES) > 0 and 0 < value(BYTES) <= 150_000
        page = server.client.get("/metrics").text
    assert all(name in page for name in (HITS, MISSES, BYTES))
    for body, answer in zip(bodies, answers, strict=True):
        hits = reranker.rank(body["query"], body["documents"], instruction=body.get("instruction"))
        assert [hit["index"] for hit in answer["results"]] == [hit.index for hit in hits]
        assert [hit["relevance_score"] for hit in answer["results"]] == pytest.approx([hit.score for hit in hits], abs=1e-4)


def test_index_and_cache_go_together(tiny_llama_dir, reranker, tmp_path):
    reranker.index(DOCUMENTS[:4], folder=tmp_path / "index")
    body = {"query": QUERY, "documents": DOCUMENTS, "raw_scores": True}
    expected = [hit.score for hit in reranker.rank(QUERY, DOCUMENTS)]
    with running(load(tiny_llama_dir), index_folder=tmp_path / "index", cache_bytes=MANY) as server:
        value = server.service.metrics.registry.get_sample_value
        for _ in range(2):
            answer = server.post("/v1/rerank", body)
            assert answer.headers["x-prorank-stored-documents"] == "4"
            assert [hit["relevance_score"] for hit in answer.json()["results"]] == pytest.approx(expected, abs=1e-4)
    encoded = reranker.encoder.encode_chunks(QUERY, DOCUMENTS[4:-1], None, reranker.strategy.truncation)
    chunks = [prompt for row in encoded for prompt in row]
    assert value(MISSES) == len({tuple(prompt.ids) for prompt in chunks}) > len(DOCUMENTS[4:-1])
    assert value(HITS) == 2 * (len(chunks) + 1) - value(MISSES)


def test_prompts_that_share_no_documents_are_refused(tiny_llama_dir):
    with running(load(tiny_llama_dir, prompt=Prompt.preset("echo")), cache_bytes=MANY) as server:
        assert isinstance(server.service.error, ConfigError)
        message = "a cache of documents needs a prompt with order: document-first, not query-first"
        assert message in str(server.service.error)


def test_a_size_of_zero_is_refused(tiny_llama_dir):
    result = CliRunner().invoke(app, ["serve", "--model", str(tiny_llama_dir), "--document-cache", "0"])
    assert isinstance(result.exception, ConfigError) and "--document-cache" in str(result.exception)
