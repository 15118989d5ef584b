"""Fields of real clients, invalid bodies, HEAD and OPTIONS.

Supported fields have an effect, harmless ones are accepted, and unsupported ones that would change the answer are refused.
"""

import gzip
import json
from pathlib import Path

import cohere
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.serve.fields import HARMLESS
from tests.tiny import WORDS

QUERY = "where is the garden?"
TEXTS = ["the garden is near the river", "a castle", "the old doctor"]
RANKED = ["/rerank", "/v1/rerank", "/v2/rerank"]
PATHS = {"tei": "/rerank", "vllm": "/rerank", "jina": "/v1/rerank", "cohere": "/v2/rerank", "score": "/score"}
INVALID = {"tei": 422, "vllm": 400, "jina": 422, "cohere": 400, "score": 400}
REFUSAL = {"tei": {"error", "error_type"}, "jina": {"detail"}, "cohere": {"message"}}
OBJECTS = [
    {"title": "the garden", "body": "near the river", "year": 1987, "text": "not read"},
    {"title": "a castle", "body": None, "lang": "en"},
    {"body": "the old doctor"},
]
READ = ["the garden near the river 1987", "a castle", "the old doctor"]


def body_of(dialect: str, texts=TEXTS, **more) -> dict:
    names = {"tei": ("query", "texts"), "score": ("queries", "documents")}.get(dialect, ("query", "documents"))
    return {names[0]: QUERY, names[1]: list(texts)} | more


def scores_of(answer) -> dict[int, float]:
    assert answer.status_code == 200, answer.text
    value = answer.json()
    rows = value if isinstance(value, list) else value.get("results") or value["data"]
    return {hit["index"]: hit.get("relevance_score", hit.get("score")) for hit in rows}


def refused(answer, dialect: str, status: int | None = None) -> str:
    """The refusal's text, held against the dialect's form."""
    assert answer.status_code == (status or INVALID[dialect]), answer.text
    if dialect in REFUSAL:
        assert set(answer.json()) == REFUSAL[dialect]
    else:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert "secret" not in answer.text
    return answer.text


def test_cohere_version_1_reads_the_fields_that_rank_fields_names(server):
    """422 before."""
    client = cohere.Client(api_key="any", base_url=server.url)
    strings = [{name: str(value) for name, value in each.items() if value is not None} for each in OBJECTS]
    found = client.rerank(
        model="rerank-english-v3.0", query=QUERY, documents=strings, rank_fields=["title", "body", "year"], return_documents=True,
        max_chunks_per_doc=10, top_n=2,
    )  # fmt: skip
    wanted = server.reranker.rank(QUERY, READ, top_k=2)
    assert [hit.index for hit in found.results] == [hit.index for hit in wanted]
    for hit in found.results:
        assert hit.document.text == READ[hit.index] and hit.document.title == strings[hit.index].get("title")


def test_cohere_version_2_with_all_that_its_client_sends(server):
    client = cohere.ClientV2(api_key="any", base_url=server.url)
    found = client.rerank(
        model="rerank-v4.0", query=QUERY, documents=TEXTS, top_n=2, max_tokens_per_doc=100, priority=3,
        relevant_spans=cohere.RerankRelevantSpans(mode="disabled"),
    )  # fmt: skip
    assert [hit.index for hit in found.results] == [hit.index for hit in server.reranker.rank(QUERY, TEXTS, top_k=2)]
    with pytest.raises(cohere.BadRequestError, match="relevant_spans: this server returns no spans"):
        client.rerank(model="m", query=QUERY, documents=TEXTS, relevant_spans=cohere.RerankRelevantSpans(mode="enabled"))


@pytest.mark.parametrize("path", RANKED)
def test_documents_as_objects_score_as_the_texts_that_are_read(server, path):
    asked = {"query": QUERY, "documents": [*OBJECTS, "a text"], "rank_fields": ["title", "body", "year"]}
    want = scores_of(server.post(path, {"query": QUERY, "documents": [*READ, "a text"]}))
    assert scores_of(server.post(path, asked)) == pytest.approx(want, abs=1e-6)
    for fields in (None, [], ["title", "text"]):
        one = {"query": QUERY, "documents": [{"text": "near", "title": "garden", "n": 1}], "rank_fields": fields}
        plain = scores_of(server.post(path, {"query": QUERY, "documents": ["garden near"]}))
        assert scores_of(server.post(path, one)) == pytest.approx(plain, abs=1e-6)


VALUES = st.one_of(st.sampled_from(WORDS), st.none(), st.integers(), st.booleans(), st.just([]), st.floats(allow_nan=False))


OBJECT = st.dictionaries(st.sampled_from(["text", "title", "body", "n"]), VALUES)


@given(
    documents=st.lists(st.just("a text") | OBJECT, min_size=1, max_size=3),
    fields=st.none() | st.lists(st.sampled_from(["text", "title", "body", "n", "x"]), max_size=3),
)
def test_any_objects_are_read_or_refused(server, documents, fields):
    asked = {"query": QUERY, "documents": documents, "rank_fields": fields, "return_documents": True}
    answer = server.client.post("/v1/rerank", content=json.dumps(asked), headers={"content-type": "application/json"})
    if answer.status_code != 200:
        assert refused(answer, "jina")
        return
    names = fields or ["title", "text"]
    for hit in answer.json()["results"]:
        given_one = documents[hit["index"]]
        said = [given_one[n] for n in names if given_one.get(n) is not None] if isinstance(given_one, dict) else [given_one]
        assert hit["document"]["text"] == " ".join(map(str, said)).strip()
        assert isinstance(given_one, str) or hit["document"].keys() == {*given_one, "text"}


@pytest.mark.parametrize(
    "documents, fields, said",
    [
        ([{"secret": "a"}], None, "document 0 has no text; add a field text"),
        (["a", {"text": None}], None, "document 1 has no text"),
        ([{"image": "https://secret"}], None, "document 0 has no text"),
        ([{"content": [{"type": "image_url", "image_url": {}}]}], None, "document 0 has no text"),
        ([{"title": "a"}, {"body": "b"}], ["title"], "document 1 has no text"),
        ([{"title": "a"}], ["title", "secret"], "no document has the field that rank_fields.1 names"),
        ([{"body": ["secret"]}], ["body"], "document 0: a field of rank_fields is neither a text nor a number"),
        ([{"body": True}], ["body"], "neither a text nor a number"),
    ],
)
def test_objects_that_cannot_be_read_are_refused(server, documents, fields, said):
    for dialect in ("jina", "cohere", "vllm"):
        answer = server.post(PATHS[dialect], {"query": QUERY, "documents": documents, "rank_fields": fields})
        assert said in refused(answer, dialect)


def test_vllms_contents_of_text_are_read(server):
    documents = [{"content": [{"type": "text", "text": "the garden"}]}, {"content": "a castle"}]
    want = scores_of(server.post("/score", {"queries": QUERY, "documents": ["the garden", "a castle"]}))
    for names in (("queries", "documents"), ("data_1", "data_2")):
        assert scores_of(server.post("/score", {names[0]: QUERY, names[1]: documents})) == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("dialect", PATHS)
def test_harmless_fields_change_nothing(server, dialect):
    plain = server.post(PATHS[dialect], body_of(dialect))
    for value in (None, 3, "x", {"a": [1]}, True):
        fields = {name: value for name in HARMLESS - {"model", "request_id"}}
        answer = server.post(PATHS[dialect], body_of(dialect) | fields | {"request_id": "mine"})
        assert scores_of(answer) == scores_of(plain) and "x-prorank-ignored-fields" not in answer.headers


def test_the_docs_name_each_field():
    page = (Path(__file__).parents[1] / "docs/guides/serve.md").read_text()
    names = {*HARMLESS, "rank_fields", "top_k", "max_chunks_per_doc", "truncation", "return_embeddings", "relevant_spans"}
    names |= {"chat_template", "chat_template_kwargs", "score_threshold", "x-prorank-ignored-fields"}
    assert not {name for name in names if f"`{name}`" not in page}


@pytest.mark.parametrize("dialect", PATHS)
@pytest.mark.parametrize(
    "field, values",
    [
        ("return_embeddings", [True, 1, "secret"]), ("chat_template", ["secret"]), ("chat_template_kwargs", [{"secret": 1}, "x"]),
        ("score_threshold", [0.5, 0]),
    ],
)  # fmt: skip
def test_unsupported_fields_are_refused(server, dialect, field, values):
    for value in values:
        assert field in refused(server.post(PATHS[dialect], body_of(dialect) | {field: value}), dialect)
    neutral = {"return_embeddings": False, "chat_template_kwargs": {}}.get(field)
    for value in (None, neutral):
        assert server.post(PATHS[dialect], body_of(dialect) | {field: value}).status_code == 200


@pytest.mark.parametrize("path", RANKED)
def test_top_k_is_top_n(server, path):
    body = {"query": QUERY, "documents": TEXTS}
    for more, count in (({"top_k": 2}, 2), ({"top_k": 2, "top_n": 2}, 2), ({"top_k": None}, 3), ({"top_k": 0, "top_n": 1}, 1)):
        assert len(scores_of(server.post(path, body | more))) == count
    for more in ({"top_k": 1, "top_n": 2}, {"top_n": -1}, {"top_n": 2.5}, {"top_n": "2"}, {"top_n": True}, {"top_k": 1e400}):
        assert 400 <= server.post(path, body | more).status_code < 423


@pytest.mark.parametrize("dialect", ["jina", "cohere", "vllm"])
def test_max_chunks_per_doc_reads_long_documents_in_parts(server, dialect):
    long = [" ".join(WORDS * 200), "a"]
    asked = lambda **more: server.post(PATHS[dialect], body_of(dialect, long, **more))  # noqa: E731
    chunked, cut = scores_of(asked(long_documents="chunk")), scores_of(asked(long_documents="truncate"))
    assert chunked != cut
    for more, want in (
        ({"max_chunks_per_doc": 99}, chunked), ({"max_chunks_per_doc": 1}, cut), ({"max_chunks_per_doc": 0}, chunked),
        ({}, chunked),
        ({"max_chunks_per_doc": 99, "long_documents": "truncate"}, cut),
    ):  # fmt: skip
        assert scores_of(asked(**more)) == pytest.approx(want, abs=1e-6)
    assert asked(max_chunks_per_doc=2).headers["x-prorank-truncated-documents"] == "1"
    assert "truncation is switched off" in refused(asked(truncation=False, long_documents="truncate"), dialect)
    assert asked(truncation=False).status_code == 200  # nothing has to be cut


def test_null_means_the_default_in_every_form(server):
    for dialect, path in PATHS.items():
        fields = server.client.get("/openapi.json").json()["components"]["schemas"]
        name = {"tei": "TeiRequest", "vllm": "VllmRerankRequest", "jina": "JinaRequest", "cohere": "CohereRequest"}.get(dialect)
        optional = set(fields[name or "VllmQueriesDocuments"]["properties"]) - set(body_of(dialect))
        answer = server.post(path, body_of(dialect) | dict.fromkeys(optional))
        assert len(optional) > 8 and scores_of(answer) == pytest.approx(scores_of(server.post(path, body_of(dialect))), abs=1e-6)


def test_vllms_older_name_for_its_activation(server):
    for path, dialect in (("/score", "score"), ("/rerank", "vllm")):
        raw = scores_of(server.post(path, body_of(dialect, use_activation=False)))
        assert scores_of(server.post(path, body_of(dialect, activation=False))) == raw
        assert scores_of(server.post(path, body_of(dialect, activation=True))) != raw


def test_fields_that_nobody_knows_are_told_in_a_header(server):
    answer = server.post("/v1/rerank", {"query": QUERY, "documents": TEXTS, "topn": 1, "a b\r\nc": 2, "min_score": 3, "user": "x"})
    assert answer.headers["x-prorank-ignored-fields"] == "topn,min_score" and len(scores_of(answer)) == 3


def raw(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


BODIES = {
    "nothing": ("", None), "blanks": (" \n", None), "a list": ("[]", None), "a text": ('"secret"', None), "null": ("null", None),
    "cut short": ('{"query": "secret"', None), "two values": ('{"query": "q"} {}', None),
    "half a surrogate pair": (r'{"query": "\ud800", KEY: ["a"]}', None),
    "the other half": (r'{"query": "q", KEY: ["\udc00 a"]}', None),
    "NaN": ('{"query": "q", KEY: ["a"], "top_n": NaN}', None), "-Infinity": ('{"query": "q", KEY: ["a"], "x": -Infinity}', None),
    "beyond floats": ('{"query": "q", "queries": "q", KEY: ["a"], "x": 1e999}', None),
    "a key twice": ('{"query": "secret", "queries": "q", "query": "q", KEY: ["a"]}', None),
    "a list twice": ('{"query": "q", "queries": "q", KEY: ["secret"], KEY: ["a"]}', None),
    "a key twice, spelt in two ways": (r'{"query": "q", "queries": "q", "\u0071uery": "q", KEY: ["a"]}', None),
    "a key twice, inside": ('{"query": "q", "queries": "q", KEY: ["a"], "x": [{"a": 1, "a": 1}]}', None),
    "deep": ('{"query": "q", KEY: ' + "[" * 5000 + "]" * 5000 + "}", None),
    "Latin-1": ('{"query": "Grüße", KEY: ["a"]}'.encode("latin-1"), None),
    "UTF-16": ('{"query": "q", KEY: ["a"]}'.encode("utf-16"), None),
    "another charset": ('{"query": "q", KEY: ["a"]}', {"content-type": "application/json; charset=iso-8859-1"}),
    "gzip that is announced": (gzip.compress(b"{}"), {"content-encoding": "gzip"}),
    "gzip that is not": (gzip.compress(b"{}"), None),
    "no kind": ('{"query": "q", KEY: ["a"]}', {"content-type": ""}),
    "a form": ("query=q", {"content-type": "application/x-www-form-urlencoded"}),
}  # fmt: skip


@pytest.mark.parametrize("dialect", PATHS)
@pytest.mark.parametrize("name", BODIES)
def test_ambiguous_bodies_are_refused(server, dialect, name):
    """Each is refused in the format of the dialect, and none is accepted silently."""
    text, headers = BODIES[name]
    key = b'"texts"' if dialect == "tei" else b'"documents"'
    sent = raw(text).replace(b"KEY", key)
    answer = server.client.post(PATHS[dialect], content=sent, headers={"content-type": "application/json"} | (headers or {}))
    assert answer.status_code in ({415} if headers else {400, 422}), answer.text
    known = name.startswith(("a key twice", "a list twice", "beyond"))  # it is JSON, so it can be told whose it is
    refused(answer, dialect if dialect != "vllm" or known else "tei", answer.status_code)


def test_a_byte_order_mark_is_no_part_of_the_body(server):
    """In requests."""
    plain = json.dumps({"query": QUERY, "documents": TEXTS}).encode()
    for kind in ("application/json", 'application/json; charset="UTF-8"', "application/json;charset=utf-8; profile=x"):
        answer = server.client.post("/v1/rerank", content=b"\xef\xbb\xbf" + plain, headers={"content-type": kind})
        assert len(scores_of(answer)) == 3


@pytest.mark.parametrize("path", ["/health", "/info", "/v1/models", "/metrics", "/", "/playground.js", "/docs", "/openapi.json"])
def test_head_and_options_where_get_is_taken(server, path):
    """405 before."""
    get, head = server.client.get(path), server.client.head(path)
    assert (head.status_code, head.content) == (200, b"") and head.headers.get("content-type") == get.headers.get("content-type")
    options = server.client.options(path)
    assert options.status_code == 204 and options.headers["allow"] == "GET, HEAD, OPTIONS"
    other = server.client.delete(path)
    assert other.status_code == 405 and other.headers["allow"] == "GET, HEAD"


def test_options_where_post_is_taken(server):
    for path in ("/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score"):
        options = server.client.options(path)
        assert options.status_code == 204 and options.headers["allow"] == "OPTIONS, POST"
        assert server.client.head(path).status_code == 405 == server.client.get(path).status_code
    assert server.client.head("/nowhere").status_code == 404 == server.client.options("/nowhere").status_code
