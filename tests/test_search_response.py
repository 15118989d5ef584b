"""Responses of OpenSearch and Elasticsearch: order, scores, what stays as it was, fields, and bad input.

The responses have the form of the engines' documentation; the real clients are used by `make test-exports`.
"""

import copy
import json
import re
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prorank.errors import ConfigError, DataError
from prorank.integrations.opensearch import rerank_response
from prorank.reranker import Reranker

QUERY = "where is the garden?"
TEXTS = ["a river", "the garden is near the river", "bread and coffee", "", "another garden, another day"]


@pytest.fixture(scope="module")
def reranker(tiny_llama_dir) -> Reranker:
    return Reranker(tiny_llama_dir, device="cpu", dtype="fp32")


def respond(sources: list, **more) -> dict:
    """A response as `_search` returns it, with falling scores."""
    hits = [{"_index": "docs", "_id": f"d{i}", "_score": 9.0 - i, "_source": source} for i, source in enumerate(sources)]
    outer = {"total": {"value": 1234, "relation": "eq"}, "max_score": 9.0, "hits": hits, **more}
    return {"took": 3, "timed_out": False, "_shards": {"total": 1, "successful": 1, "skipped": 0, "failed": 0}, "hits": outer}


def test_hits_come_in_the_rerankers_order(reranker):
    response = respond([{"text": text, "page": i} for i, text in enumerate(TEXTS)])
    before, wanted = copy.deepcopy(response), reranker.rank(QUERY, TEXTS)
    got = rerank_response(response, QUERY, reranker)
    assert response == before
    assert [hit.index for hit in wanted] != sorted(hit.index for hit in wanted)
    assert [hit["_source"]["page"] for hit in got["hits"]["hits"]] == [hit.index for hit in wanted]
    assert [hit["_score"] for hit in got["hits"]["hits"]] == [hit.score for hit in wanted]
    assert [hit["previous_score"] for hit in got["hits"]["hits"]] == [9.0 - hit.index for hit in wanted]
    assert got["hits"]["max_score"] == wanted[0].score and got["hits"]["total"]["value"] == 1234 and got["took"] == 3
    assert json.loads(json.dumps(got)) == got
    top = rerank_response(response, QUERY, reranker, top_k=2, instruction="find rivers")
    assert [h["_score"] for h in top["hits"]["hits"]] == [
        h.score for h in reranker.rank(QUERY, TEXTS, top_k=2, instruction="find rivers")
    ]


VALUES = st.one_of(st.sampled_from(TEXTS), st.lists(st.sampled_from(TEXTS), min_size=1, max_size=2))
SOURCES = st.fixed_dictionaries({"text": VALUES}, optional={"title": st.one_of(st.none(), VALUES), "page": st.integers()})


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(SOURCES, max_size=6), st.integers(1, 7))
def test_every_hit_comes_back_once_with_falling_scores(reranker, sources, top_k):
    response = respond(sources)
    fields = ["title", "text"] if any(source.get("title") is not None for source in sources) else "text"
    before, got = copy.deepcopy(response), rerank_response(response, QUERY, reranker, fields)
    hits = got["hits"]["hits"]
    assert response == before
    assert sorted(hit["_id"] for hit in hits) == [f"d{i}" for i in range(len(sources))]
    keys = [(-hit["_score"], hit["_id"]) for hit in hits]  # equal scores keep the engine's order
    assert keys == sorted(keys) and got["hits"]["max_score"] == (hits[0]["_score"] if hits else None)
    restored = sorted(({**hit, "_score": hit["previous_score"]} for hit in hits), key=lambda hit: hit["_id"])
    assert [{key: value for key, value in hit.items() if key != "previous_score"} for hit in restored] == before["hits"]["hits"]
    assert rerank_response(response, QUERY, reranker, fields, top_k=top_k)["hits"]["hits"] == hits[:top_k]


def texts_read(sources: list, fields, **hit) -> list[str]:
    """The texts that a reranker is given."""
    seen: list[str] = []
    response = respond(sources)
    for each in response["hits"]["hits"]:
        each.update(hit)
    rerank_response(response, QUERY, SimpleNamespace(rank=lambda query, texts, **_: seen.extend(texts) or []), fields)
    return seen


@pytest.mark.parametrize(
    "source, fields, text",
    [
        ({"title": "A", "text": "b"}, ["title", "text"], "A b"),
        ({"title": "A", "text": "b"}, ("text", "title"), "b A"),
        ({"text": ["a", "b"]}, "text", "a b"),
        ({"author": {"name": "Ada"}, "text": "b"}, ["author.name", "text"], "Ada b"),
        ({"author.name": "Ada"}, "author.name", "Ada"),
        ({"author.name": {"first": "Ada"}, "author": {"name": {"first": "x"}}}, "author.name.first", "x"),
        ({"comments": [{"text": "a"}, {"text": None}, {"text": "b"}, {}]}, "comments.text", "a b"),
        ({"text": ""}, "text", ""),
    ],
)
def test_fields_are_found_and_joined(source, fields, text):
    assert texts_read([source], fields) == [text]


def test_a_field_may_be_missing_where_another_is_there():
    assert texts_read([{"title": "A", "text": "b"}, {"title": None, "text": "c"}, {"title": "D"}], ["title", "text"]) == [
        "A b", "c", "D",
    ]  # fmt: skip


def test_without_source_the_fields_of_a_hit_are_read():
    response = respond([{"text": "x"}])
    hit = response["hits"]["hits"][0]
    del hit["_source"]
    with pytest.raises(DataError, match=re.escape("hit 0 (_id 'd0') has neither _source nor fields; leave _source switched on")):
        rerank_response(response, QUERY, SimpleNamespace(rank=None))
    hit["fields"] = {"author.name": ["Ada", "Eva"]}
    seen = []
    rerank_response(response, QUERY, SimpleNamespace(rank=lambda query, texts, **_: seen.extend(texts) or []), "author.name")
    assert seen == ["Ada Eva"]


def test_a_response_without_hits_stays_without(reranker):
    got = rerank_response(respond([]), QUERY, reranker, ["title", "text"])
    assert got["hits"]["hits"] == [] and got["hits"]["max_score"] is None


@pytest.mark.parametrize(
    "response, fields, message",
    [
        ({"error": {"type": "index_not_found_exception"}}, "text", "the response has no list hits.hits; give the JSON of a"),
        ([], "text", "the response has no list hits.hits"),
        ({"hits": {"hits": {}}}, "text", "the response has no list hits.hits"),
        ({"responses": [respond([])]}, "text", "it has several responses, give one of them"),
        ({"hits": {"hits": ["x"]}}, "text", "hit 0 is str 'x'; expected an object with _source"),
        (respond([{"text": "a"}]), "txt", "no hit has the field 'txt'; did you mean 'text'?"),
        (respond([{"text": "a"}]), ["text", "titel"], "no hit has the field 'titel'"),
        (respond([{"text": "a"}, {"title": "b"}]), "text", "hit 1 (_id 'd1') has no field 'text'; give fields that every hit has"),
        (respond([{"text": "a"}, {"text": 5}]), "text", "hit 1 (_id 'd1'): field 'text' is int 5; expected a text or a list of"),
        (respond([{"text": {"en": "a"}}]), "text", "hit 0 (_id 'd0'): field 'text' is dict {'en': 'a'}; expected a text"),
        (respond([{"text": b"a"}]), "text", "hit 0 (_id 'd0'): field 'text' is bytes b'a'; expected a text"),
    ],
)
def test_bad_responses_are_named(response, fields, message, reranker):
    with pytest.raises(DataError, match=re.escape(message)) as error:
        rerank_response(response, QUERY, reranker, fields)
    assert "\n" not in str(error.value)


def test_bad_arguments_are_named(reranker):
    response = respond([{"text": "a"}])
    with pytest.raises(ConfigError, match="reranker must be a Reranker or a Remote, not str 'model'"):
        rerank_response(response, QUERY, "model")
    for fields in ([], [""], [3]):
        with pytest.raises(ConfigError, match="fields must name one or more fields of _source"):
            rerank_response(response, QUERY, reranker, fields)
    with pytest.raises(DataError, match="expected a text that is not empty"):
        rerank_response(response, " ", reranker)
