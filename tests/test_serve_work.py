"""Thinking models and list models on a server: the same answers as from the library.

Several clients ask at once, so their thoughts and comparisons go through the model together.
"""

import concurrent.futures

import pytest

from prorank.reranker import Reranker
from tests.serving import running
from tests.tiny import WORDS

DOCUMENTS = [f"we saw the {word} near the {other}" for word, other in zip(WORDS, WORDS[3:])]
ASKED = [{"query": word, "documents": DOCUMENTS[i : i + 7]} for i, word in enumerate(WORDS[:4])]


def together(server, bodies: list[dict], path: str = "/v1/rerank") -> list[dict]:
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        found = list(pool.map(lambda body: server.post(path, body), bodies))
    assert [answer.status_code for answer in found] == [200] * len(bodies), found[0].text
    return [answer.json() for answer in found]


@pytest.fixture(scope="module")
def thinker(tiny_qwen2_dir):
    reranker = Reranker(tiny_qwen2_dir, device="cpu", dtype="fp32", prompt="rerank-r0", max_length=900, max_think_tokens=6)
    with running(reranker) as server:
        yield server


def test_thoughts_are_returned_on_request_with_the_librarys_scores(thinker):
    bodies = [body | {"raw_scores": True, "return_thoughts": True} for body in ASKED]
    for body, found in zip(bodies, together(thinker, bodies)):
        hits = thinker.reranker.rank(body["query"], body["documents"])
        got = {hit["index"]: hit for hit in found["results"]}
        for hit in hits:
            assert got[hit.index]["relevance_score"] == pytest.approx(hit.score, abs=1e-3)
            assert (got[hit.index]["thought"], got[hit.index]["thought_cut"]) == (hit.thought, hit.thought_cut)
    plain = thinker.post("/rerank", {"query": "garden", "texts": DOCUMENTS[:2]}).json()
    assert all(set(hit) == {"index", "score"} for hit in plain)
    for path, name in (("/v2/rerank", "results"), ("/rerank", "results"), ("/score", "data")):
        asked = {"query": "garden", "queries": "garden", "documents": DOCUMENTS[:2], "return_thoughts": True}
        assert all(isinstance(hit["thought"], str) for hit in thinker.post(path, asked).json()[name])


def test_a_document_in_parts_has_the_thought_of_its_best_part(thinker):
    found = thinker.post("/v1/rerank", {
        "query": "garden", "documents": [" ".join(WORDS * 120)], "long_documents": "chunk", "return_thoughts": True,
    })  # fmt: skip
    assert found.status_code == 200 and isinstance(found.json()["results"][0]["thought"], str)


@pytest.fixture(scope="module", params=["setwise", "listwise"])
def lister(tiny_llama_dir, request):
    options = {"setwise": {"branching": 3, "k": 4}, "listwise": {"window": 4, "step": 2}}[request.param]
    reranker = Reranker(tiny_llama_dir, device="cpu", dtype="fp32", method=request.param, **options)
    with running(reranker) as server:
        yield server


def test_orders_of_lists_are_the_librarys(lister):
    bodies = ASKED + [{"query": "q", "documents": ["one alone"]}, {"query": "q", "documents": ["twin", "twin", "other"]}]
    for body, found in zip(bodies, together(lister, bodies)):
        hits = lister.reranker.rank(body["query"], body["documents"])
        count = len(hits)
        assert [hit["index"] for hit in found["results"]] == [hit.index for hit in hits]
        assert [hit["relevance_score"] for hit in found["results"]] == pytest.approx([1 - i / count for i in range(count)])
    with_instruction = {"query": "garden", "documents": DOCUMENTS, "instruction": "find castles"}
    hits = lister.reranker.rank("garden", DOCUMENTS, instruction="find castles")
    assert [hit["index"] for hit in together(lister, [with_instruction, ASKED[0]])[0]["results"]] == [hit.index for hit in hits]


def test_scores_of_lists_are_places_and_say_so(lister):
    found = lister.post("/rerank", {"query": "garden", "texts": DOCUMENTS, "raw_scores": True})
    assert found.headers["x-prorank-scores"] == "place" and [hit["score"] for hit in found.json()] == [-i for i in range(9)]
    assert lister.client.get("/info").json()["scores"] == "place"
    assert int(found.headers["x-compute-tokens"]) > 0


def test_truncation_in_lists_is_reported(lister):
    long = " ".join(WORDS * 400)
    found = lister.post("/v2/rerank", {"query": "garden", "documents": [long, *DOCUMENTS[:3]]})
    assert found.headers["x-prorank-truncated-indices"] == "0" and found.json()["meta"]["warnings"]
    capped = lister.post("/v1/rerank", {"query": "garden", "documents": DOCUMENTS[:4], "max_tokens_per_doc": 3})
    assert capped.headers["x-prorank-truncated-documents"] == "4"
    assert lister.post("/rerank", {"query": "garden", "texts": [long, "a"], "truncate": False}).status_code == 422


def test_unsupported_options_of_list_models(lister):
    for path, more in (("/v1/rerank", {"long_documents": "chunk"}), ("/v1/rerank", {"return_thoughts": True})):
        assert lister.post(path, {"query": "garden", "documents": DOCUMENTS} | more).status_code == 422
    assert lister.post("/score", {"queries": ["a", "b"], "documents": ["c", "d"]}).status_code == 400
    one = lister.post("/score", {"queries": "garden", "documents": DOCUMENTS[:4]}).json()["data"]
    order = [hit.index for hit in lister.reranker.rank("garden", DOCUMENTS[:4])]
    assert [each["score"] for each in one] == pytest.approx([1 - order.index(i) / 4 for i in range(4)])


def test_a_calibrated_model_answers_with_probabilities(calibrated_dir):
    reranker = Reranker(calibrated_dir, device="cpu", dtype="fp32")
    with running(reranker) as server:
        hits = reranker.rank("garden", DOCUMENTS)
        found = server.post("/v1/rerank", {"query": "garden", "documents": DOCUMENTS})
        assert found.headers["x-prorank-scores"] == "probability" == server.client.get("/info").json()["scores"]
        scores = [hit["relevance_score"] for hit in found.json()["results"]]
        assert scores == pytest.approx([hit.probability for hit in hits], abs=1e-5)
        assert not any("probability" in hit for hit in found.json()["results"])  # said once is enough
        raw = server.post("/v1/rerank", {"query": "garden", "documents": DOCUMENTS, "raw_scores": True}).json()["results"]
        assert [hit["probability"] for hit in raw] == scores
        more = {"query": "garden", "documents": DOCUMENTS, "instruction": "another"}
        assert server.post("/v1/rerank", more).headers["x-prorank-scores"] == "sigmoid"
        other = server.post("/v1/rerank", more | {"raw_scores": True})
        assert not any("probability" in hit for hit in other.json()["results"])
        in_chunks = {"query": "garden", "documents": ["river " * 2000, "garden"]}
        chunked = server.post("/v1/rerank", in_chunks)
        assert chunked.headers["x-prorank-scores"] == "probability"
        expected = [hit.probability for hit in reranker.rank("garden", in_chunks["documents"])]
        assert [hit["relevance_score"] for hit in chunked.json()["results"]] == pytest.approx(expected, abs=1e-5)
