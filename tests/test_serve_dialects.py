"""Each dialect against its documented examples: fields, order, defaults, scores equal to the library's, refusals in its own form.

Answers are compared with `Reranker.rank` of the same checkpoint, in fp32, to 1e-5.
"""

import math
import uuid

import cohere
import numpy as np
import pytest

from prorank.serve.dialects import cohere as cohere_form
from prorank.serve.dialects import jina, tei, vllm
from tests.tiny import WORDS

QUERY = "where is the garden?"
LONG = "another river, and then a castle " * 60
DOCUMENTS = ["the garden is near the river", "", LONG, " 42\n", "Grüße 🦊", "the old doctor", ""]


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def expected(server, query=QUERY, documents=DOCUMENTS, **more) -> list[tuple[int, float]]:
    return [(hit.index, hit.score) for hit in server.reranker.rank(query, documents, **more)]


def same(results: list[dict], wanted: list[tuple[int, float]], key: str, raw: bool = False) -> None:
    assert [hit["index"] for hit in results] == [index for index, _ in wanted]
    found = [hit[key] if raw else logit(hit[key]) for hit in results]
    np.testing.assert_allclose(found, [score for _, score in wanted], atol=1e-5)


def test_tei_answers_a_list_best_first(server):
    answer = server.post("/rerank", {"query": QUERY, "texts": DOCUMENTS})
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    results = answer.json()
    assert all(set(hit) == {"index", "score"} for hit in results)
    same(results, expected(server), "score")
    for name in ("type", "time", "characters", "tokens"):
        assert answer.headers[f"x-compute-{name}"]
    more = {"raw_scores": True, "return_text": True, "truncate": True}
    raw = server.post("/rerank", {"query": QUERY, "texts": DOCUMENTS} | more).json()
    same(raw, expected(server), "score", raw=True)
    assert [hit["text"] for hit in raw] == [DOCUMENTS[hit["index"]] for hit in raw]


@pytest.mark.parametrize("direction", ["left", "Left", "right", "Right"])
def test_tei_truncates_on_either_side_or_refuses(server, direction):
    long = " ".join(WORDS * 100)
    ids = server.reranker.tokenizer(long, add_special_tokens=False)["input_ids"]
    assert len(ids) > 600
    body = {"query": QUERY, "texts": [long, "short"], "truncation_direction": direction, "raw_scores": True}
    answer = server.post("/rerank", body)
    assert answer.headers["x-prorank-truncated-documents"] == "1" and answer.headers["x-prorank-truncated-indices"] == "0"
    kept = server.reranker.tokenizer.decode(ids[:600] if direction.lower() == "right" else ids[-600:])
    found = next(hit["score"] for hit in answer.json() if hit["index"] == 0)
    encoded = server.reranker.encoder.encode(QUERY, kept)
    room = encoded.document_end - encoded.document_start
    part = server.reranker.tokenizer.decode(ids[:room] if direction.lower() == "right" else ids[-room:])
    assert found == pytest.approx(server.reranker.rank(QUERY, [part])[0].score, abs=1e-4)
    refused = server.post("/rerank", body | {"truncate": False})
    assert refused.status_code == 422 and refused.json()["error_type"] == "Validation"


def test_vllm_rerank_holds_documents_and_jina_does_not_unless_asked(server):
    body = {"query": QUERY, "documents": DOCUMENTS}
    found = server.post("/rerank", body | {"model": "tiny"}).json()
    assert set(found) == {"id", "model", "usage", "results"} and found["model"] == "tiny"
    documents = [{"text": DOCUMENTS[i], "multi_modal": None} for i, _ in expected(server)]
    assert [hit["document"] for hit in found["results"]] == documents
    same(found["results"], expected(server), "relevance_score")
    encoder, truncation = server.reranker.encoder, server.reranker.strategy.truncation
    chunks = encoder.encode_chunks(QUERY, list(dict.fromkeys(DOCUMENTS)), truncation=truncation)
    tokens = sum(len(prompt.ids) for row in chunks for prompt in row)
    assert found["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    found = server.post("/v1/rerank", body | {"model": "jina-reranker-v2-base-multilingual"}).json()
    assert set(found) == {"model", "object", "usage", "results"} and found["object"] == "list"
    assert all(set(hit) == {"index", "relevance_score"} for hit in found["results"])
    same(found["results"], expected(server), "relevance_score")
    asked = server.post("/v1/rerank", body | {"return_documents": True, "top_n": 2}).json()["results"]
    assert [hit["document"] for hit in asked] == [{"text": DOCUMENTS[i]} for i, _ in expected(server)[:2]]
    assert "document" not in server.post("/rerank", body | {"return_documents": False}).json()["results"][0]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_top_n_null_absent_and_0_are_all(server, path):
    body = {"query": QUERY, "documents": DOCUMENTS, "unknown": {"field": [1]}, "user": None}
    lengths = [len(server.post(path, body | more).json()["results"]) for more in ({}, {"top_n": None}, {"top_n": 0}, {"top_n": 99})]
    assert lengths == [len(DOCUMENTS)] * 4
    assert [len(server.post(path, body | {"top_n": n}).json()["results"]) for n in (1, 3, 3.0)] == [1, 3, 3]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_documents_as_objects_are_read_with_their_titles(server, path):
    documents = [{"text": "near the river", "title": "the garden", "id": 7}, {"text": "a castle"}, "plain"]
    found = server.post(path, {"query": QUERY, "documents": documents, "return_documents": True}).json()["results"]
    same(found, expected(server, documents=["the garden near the river", "a castle", "plain"]), "relevance_score")
    assert {hit["document"]["text"] for hit in found} == {"the garden near the river", "a castle", "plain"}


def test_cohere_speaks_through_its_own_client(server):
    client = cohere.ClientV2(api_key="any", base_url=server.url)
    found = client.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS, top_n=3)
    same([{"index": hit.index, "score": hit.relevance_score} for hit in found.results], expected(server)[:3], "score")
    assert uuid.UUID(found.id) and found.meta.api_version.version == "2" and found.meta.billed_units.search_units == 1
    assert found.meta.tokens.input_tokens > 0 and found.meta.warnings is None
    truncate = {"additional_body_parameters": {"long_documents": "truncate"}}
    cut = client.rerank(model="any", query=QUERY, documents=DOCUMENTS, request_options=truncate)
    assert cut.meta.warnings == ["1 of 7 documents were cut"]
    cut = client.rerank(model="any", query=QUERY, documents=DOCUMENTS, max_tokens_per_doc=3)
    assert cut.meta.warnings == ["5 of 7 documents were cut"]
    with pytest.raises(cohere.BadRequestError) as caught:
        client.rerank(model="any", query=QUERY, documents=[])
    assert caught.value.body == {"message": "invalid request: list of documents must not be empty"}
    old = cohere.Client(api_key="any", base_url=server.url)
    found = old.rerank(model="any", query=QUERY, documents=DOCUMENTS[:2], return_documents=True)  # version 1 is Jina's path
    assert {hit.document.text for hit in found.results} == set(DOCUMENTS[:2])


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize("names", vllm.SIDES)
def test_vllm_scores_come_in_input_order(server, path, names):
    first, second = names
    found = server.post(path, {first: QUERY, second: DOCUMENTS, "use_activation": False}).json()
    assert set(found) == {"id", "object", "created", "model", "data", "usage"} and found["object"] == "list"
    assert [(each["index"], each["object"]) for each in found["data"]] == [(i, "score") for i in range(len(DOCUMENTS))]
    wanted = server.reranker.score([(QUERY, document) for document in DOCUMENTS])
    np.testing.assert_allclose([each["score"] for each in found["data"]], wanted, atol=1e-5)
    queries = [QUERY, "castle", QUERY]
    pairs = server.post(path, {first: queries, second: DOCUMENTS[:3], "request_id": "mine"}).json()
    wanted = server.reranker.score(list(zip(queries, DOCUMENTS[:3])))
    np.testing.assert_allclose([logit(each["score"]) for each in pairs["data"]], wanted, atol=1e-5)
    assert pairs["id"] == "mine"
    one = server.post(path, {first: [QUERY], second: "the garden"}).json()
    assert len(one["data"]) == 1


def test_what_a_request_may_ask_for_besides(server):
    body = {"query": QUERY, "documents": DOCUMENTS, "raw_scores": True}
    found = server.post("/v1/rerank", body | {"instruction": "find castles"})
    same(found.json()["results"], expected(server, instruction="find castles"), "relevance_score", raw=True)
    assert found.headers["x-prorank-scores"] == "log-odds"
    assert server.post("/v1/rerank", body | {"raw_scores": None}).headers["x-prorank-scores"] == "sigmoid"
    both = server.post("/score", {"queries": QUERY, "documents": DOCUMENTS, "raw_scores": True, "use_activation": False})
    assert both.headers["x-prorank-scores"] == "log-odds"
    capped = server.post("/v1/rerank", body | {"max_tokens_per_doc": 2})
    assert capped.headers["x-prorank-truncated-indices"] == "0,2,3,4,5"
    assert server.post("/v1/rerank", body | {"max_tokens_per_doc": 0}).json() == server.post("/v1/rerank", body).json()
    asked = server.post("/score", {"queries": " ".join(WORDS * 20), "documents": DOCUMENTS, "max_tokens_per_query": 3})
    assert asked.headers["x-prorank-truncated-queries"] == "1"
    lengths = [len(server.reranker.encoder.encode(QUERY, document).ids) for document in DOCUMENTS]
    short = server.post("/score", {"queries": QUERY, "documents": DOCUMENTS, "truncate_prompt_tokens": 75})
    assert short.headers["x-prorank-truncated-documents"] == str(sum(length > 75 for length in lengths))
    assert short.json()["usage"]["prompt_tokens"] == sum(min(length, 75) for length in lengths[:-1])  # the last is there twice


def test_long_documents_in_parts_score_as_their_best_part(server):
    reranker, long = server.reranker, " ".join(WORDS * 200)
    ids = reranker.tokenizer(long, add_special_tokens=False)["input_ids"]
    encoded = reranker.encoder.encode(QUERY, long)
    room = encoded.document_end - encoded.document_start
    step = room - room // 4
    parts = [reranker.tokenizer.decode(ids[at : at + room]) for at in range(0, len(ids) - room + step, step)]
    found = server.post("/v1/rerank", {"query": QUERY, "documents": [long, "a"], "raw_scores": True})
    score = next(hit["relevance_score"] for hit in found.json()["results"] if hit["index"] == 0)
    assert len(parts) > 3 and score == pytest.approx(max(hit.score for hit in reranker.rank(QUERY, parts)), abs=1e-4)
    assert found.headers["x-prorank-truncated-documents"] == "0"
    plain = server.post("/v1/rerank", {"query": QUERY, "documents": [long, "a"], "long_documents": "truncate"})
    assert plain.headers["x-prorank-truncated-documents"] == "1"


FORMS = {"/rerank texts": tei.RERANK, "/rerank documents": vllm.RERANK, "/v1/rerank": jina.RERANK, "/v2/rerank": cohere_form.RERANK}
WRONG = {
    "no query": lambda body: body.pop("query"),
    "a number for a query": lambda body: body.update(query=3),
    "an empty query": lambda body: body.update(query=""),
    "a blank query": lambda body: body.update(query=" \n"),
    "a number for a document": lambda body: body.update({key: ["a", 3] for key in ("texts", "documents") if key in body}),
    "null for documents": lambda body: body.update({key: None for key in ("texts", "documents") if key in body}),
    "text for a number": lambda body: body.update(max_tokens_per_doc="3"),
    "a negative number": lambda body: body.update(max_tokens_per_doc=-1),
    "another word": lambda body: body.update(long_documents="summarise"),
    "thoughts of a model that has none": lambda body: body.update(return_thoughts=True),
    "a very long instruction": lambda body: body.update(instruction="find " * 90_000),
    "an instruction without room": lambda body: body.update(instruction="find " * 900),
    "a lone surrogate": lambda body: body.update(query="\ud800"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", FORMS)
def test_wrong_requests_are_refused_in_the_dialects_form(server, name, wrong):
    path, _, key = name.partition(" ")
    body = {"query": "secret", (key or "documents"): ["secret", "words"]}
    WRONG[wrong](body)
    answer = server.post(path, body)
    said, status = answer.json(), answer.status_code
    assert "secret" not in answer.text and "Traceback" not in answer.text
    if FORMS[name] is tei.RERANK:
        assert set(said) == {"error", "error_type"} and said["error_type"] == "Validation"
        assert status == (400 if "surrogate" in wrong else 422)
    elif FORMS[name] is vllm.RERANK and "surrogate" not in wrong:  # no JSON, so nobody can tell whose it is
        assert set(said["error"]) == {"message", "type", "param", "code"}
        assert status == said["error"]["code"] == 400 and said["error"]["type"] == "BadRequestError"
    elif FORMS[name] is jina.RERANK:
        assert set(said) == {"detail"} and status == 422
    elif FORMS[name] is cohere_form.RERANK:
        assert set(said) == {"message"} and status == 400


def test_no_documents_and_numbers_that_do_not_fit(server):
    empty = server.post("/rerank", {"query": QUERY, "texts": []})
    assert empty.status_code == 400 and empty.json() == {"error": "`texts` cannot be empty", "error_type": "Empty"}
    assert server.post("/v1/rerank", {"query": QUERY, "documents": []}).status_code == 422
    for body, message in (
        ({"queries": ["a", "b"], "documents": ["c"]}, "Input lengths must be either 1:1, 1:N or N:N"),
        ({"queries": [], "documents": ["c"]}, "At least one text element must be given"),
        ({"text_1": "a", "text_2": []}, "At least one text_pair element must be given"),
    ):
        answer = server.post("/score", body)
        assert answer.status_code == 400 and answer.json()["error"]["message"] == message
    neither = server.post("/rerank", {"query": QUERY})
    assert neither.status_code == 422 and "texts" in neither.json()["error"]


def test_vllm_knows_its_model_and_the_others_take_any(server):
    refused = server.post("/score", {"model": "other", "queries": "a", "documents": "b"})
    assert refused.status_code == 404
    assert refused.json()["error"]["type"] == "NotFoundError" and refused.json()["error"]["param"] == "model"
    assert server.post("/score", {"model": "tiny", "queries": "a", "documents": "b"}).status_code == 200
    assert server.post("/v2/rerank", {"model": "other", "query": "a", "documents": ["b"]}).status_code == 200


def test_what_is_asked_with_get(server):
    assert server.client.get("/health").status_code == 200
    info = server.client.get("/info").json()
    assert info["model_id"] == "tiny" and set(info["model_type"]) == {"reranker"} and info["max_input_length"] == 512
    assert info["scores"] == "sigmoid" and info["prompt"] == "prorank" and info["auto_truncate"] is True
    models = server.client.get("/v1/models").json()
    assert models["object"] == "list" and models["data"][0]["id"] == "tiny" and models["data"][0]["object"] == "model"
    metrics = server.client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain") and "prorank_documents_total" in metrics.text
    page = server.client.get("/docs")
    assert page.status_code == 200 and "://" not in page.text  # nothing from other hosts
    assert server.client.get("/openapi.json").json()["openapi"].startswith("3.")


def test_other_paths_and_methods(server):
    assert server.client.get("/nowhere").status_code == 404
    for path, key in (("/rerank", "error_type"), ("/v1/rerank", "detail"), ("/v2/rerank", "message"), ("/score", "error")):
        answer = server.client.get(path)
        assert answer.status_code == 405 and answer.headers["allow"] == "POST" and key in answer.json()
