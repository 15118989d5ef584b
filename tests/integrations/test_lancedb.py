"""LanceDB's rerank step with the real package: vector, full-text, hybrid and multivector searches, sync and async.

A table of five texts on disk; the wanted order is that of the Reranker itself.
"""

import asyncio

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import FTS
from lancedb.rerankers import Reranker as LanceReranker

from prorank.errors import ConfigError, DataError
from prorank.integrations.lancedb import ProRankReranker
from tests.integrations.conftest import QUERY, TEXTS

WORDS = "garden river bread"  # found by the full-text search in all texts but the empty one


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lancedb")
    vectors = np.random.default_rng(0).standard_normal((len(TEXTS), 8)).astype(np.float32)
    rows = [{"id": f"d{i}", "text": text, "vector": vectors[i]} for i, text in enumerate(TEXTS)]
    table = lancedb.connect(folder).create_table("documents", rows)
    table.create_index("text", config=FTS())
    return folder


@pytest.fixture(scope="module")
def table(folder):
    return lancedb.connect(folder).open_table("documents")


def expected(reranker, places, query=QUERY, **options):
    """[(id, score)] of these texts, as the Reranker itself ranks them."""
    return [(f"d{places[hit.index]}", hit.score) for hit in reranker.rank(query, [TEXTS[i] for i in places], **options)]


def scored(rows: pa.Table):
    return [(row["id"], row["_relevance_score"]) for row in rows.to_pylist()]


def test_a_vector_search_is_reranked(reranker, table):
    ours = ProRankReranker(reranker)
    search = table.search(np.ones(8, np.float32)).limit(5)
    before = [int(row["id"][1:]) for row in search.to_list()]
    found = search.rerank(reranker=ours, query_string=QUERY).to_arrow()
    assert isinstance(ours, LanceReranker) and str(ours) == f"ProRankReranker({reranker.name})"
    assert scored(found) == expected(reranker, before)
    assert found.column_names == ["id", "text", "vector", "_relevance_score"]
    assert found.schema.field("_relevance_score").type == pa.float32()
    assert found.schema.field("vector").type == table.schema.field("vector").type


def test_a_full_text_search_is_reranked(reranker, table):
    before = [int(row["id"][1:]) for row in table.search(WORDS, query_type="fts").limit(5).to_list()]
    assert sorted(before) == [0, 1, 2, 4]
    found = table.search(WORDS, query_type="fts").limit(5).rerank(reranker=ProRankReranker(reranker)).to_arrow()
    assert scored(found) == expected(reranker, before, WORDS) and "_score" not in found.column_names
    every = table.search(WORDS, query_type="fts").limit(5).rerank(reranker=ProRankReranker(reranker, return_score="all")).to_arrow()
    assert scored(every) == scored(found) and min(every["_score"].to_pylist()) > 0


@pytest.mark.parametrize("return_score", ["relevance", "all"])
def test_a_hybrid_search_is_reranked(reranker, table, return_score):
    ours = ProRankReranker(reranker, return_score=return_score)
    search = table.search(query_type="hybrid").vector(np.ones(8, np.float32)).text(WORDS).rerank(reranker=ours).limit(5)
    found = search.to_arrow()
    assert sorted(row["id"] for row in found.to_pylist()) == ["d0", "d1", "d2", "d3", "d4"]  # each once
    assert sorted(scored(found)) == sorted(expected(reranker, range(5), WORDS))
    assert found["_relevance_score"].to_pylist() == sorted(found["_relevance_score"].to_pylist(), reverse=True)
    assert ({"_distance", "_score"} <= set(found.column_names)) == (return_score == "all")
    if return_score == "all":
        by_text = {row["id"]: row["_score"] for row in table.search(WORDS, query_type="fts").limit(5).to_list()}
        assert {row["id"]: row["_score"] for row in found.to_pylist() if row["_score"] is not None} == by_text


def test_several_vectors_are_reranked_together(reranker, table):
    searches = [table.search(sign * np.ones(8, np.float32)).limit(3).with_row_id(True) for sign in (1, -1)]
    found = ProRankReranker(reranker).rerank_multivector(searches, query=QUERY, deduplicate=True)
    places = {int(row["id"][1:]) for search in searches for row in search.to_list()}
    assert sorted(scored(found)) == sorted(expected(reranker, sorted(places)))


def test_async_searches_are_reranked(reranker, folder, table):
    async def search():
        opened = await (await lancedb.connect_async(folder)).open_table("documents")
        hybrid = opened.query().nearest_to(np.ones(8, np.float32)).nearest_to_text(WORDS)
        return await hybrid.rerank(ProRankReranker(reranker)).limit(5).to_arrow()

    assert sorted(scored(asyncio.run(search()))) == sorted(expected(reranker, range(5), WORDS))


def test_options_reach_the_reranker(checkpoint, reranker, table):
    ours = ProRankReranker(str(checkpoint), column="text", instruction="find rivers", dtype="fp32")
    search = table.search(np.ones(8, np.float32)).limit(5)
    before = [int(row["id"][1:]) for row in search.to_list()]
    found = search.rerank(reranker=ours, query_string=QUERY).to_arrow()
    assert scored(found) == expected(reranker, before, instruction="find rivers")


def test_no_rows_stay_none(reranker, table):
    found = table.search("zebra", query_type="fts").limit(5).rerank(reranker=ProRankReranker(reranker)).to_arrow()
    assert found.num_rows == 0 and found.schema.field("_relevance_score").type == pa.float32()
    search = table.search(query_type="hybrid").vector(np.ones(8, np.float32)).text("zebra").limit(2)
    assert search.rerank(reranker=ProRankReranker(reranker)).to_arrow().num_rows == 2


def test_mistakes_are_named(reranker, table, tmp_path):
    search = table.search(np.ones(8, np.float32)).limit(5)
    with pytest.raises(DataError, match="the results have no column 'txt'; did you mean 'text'?"):
        search.rerank(reranker=ProRankReranker(reranker, column="txt"), query_string=QUERY).to_arrow()
    with pytest.raises(DataError, match="document 0 of query 0 must be a string"):
        search.rerank(reranker=ProRankReranker(reranker, column="vector"), query_string=QUERY).to_arrow()
    with pytest.raises(DataError, match="expected a text that is not empty"):
        search.rerank(reranker=ProRankReranker(reranker), query_string=" ").to_arrow()
    with pytest.raises(ConfigError, match="'dtype' comes too late for a Reranker"):
        ProRankReranker(reranker, dtype="fp32")
    with pytest.raises(ValueError, match="score must be"):
        ProRankReranker(reranker, return_score="both")
