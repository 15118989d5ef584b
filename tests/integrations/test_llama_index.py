"""LlamaIndex's postprocessor: order, metadata, tracing, async.

The nodes that go in are compared with copies made before.
"""

import asyncio
import copy

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from prorank.integrations.llama_index import ProRankRerank
from tests.integrations.conftest import QUERY, TEXTS


@pytest.fixture
def nodes():
    return [NodeWithScore(node=TextNode(text=text, id_=f"n{i}"), score=1 / (i + 1)) for i, text in enumerate(TEXTS)]


def test_nodes_come_back_in_order_with_their_scores(reranker, wanted, nodes):
    before, rerank = copy.deepcopy(nodes), ProRankRerank(model=reranker)
    found = rerank.postprocess_nodes(nodes, query_str=QUERY)
    assert isinstance(rerank, BaseNodePostprocessor) and nodes == before
    assert [(node.node_id, node.score) for node in found] == [(f"n{hit.index}", hit.score) for hit in wanted]
    assert asyncio.run(rerank.apostprocess_nodes(nodes, QueryBundle(QUERY))) == found
    assert rerank.postprocess_nodes([], query_str=QUERY) == asyncio.run(rerank.apostprocess_nodes([], QueryBundle(QUERY))) == []


def test_metadata_is_read_and_kept(reranker, nodes):
    nodes[0].node.metadata = {"place": "garden"}
    nodes[1].node.metadata = {"hidden": "x"}
    nodes[1].node.excluded_embed_metadata_keys = ["hidden"]
    found = {node.node_id: node for node in ProRankRerank(model=reranker).postprocess_nodes(nodes, query_str=QUERY)}
    want = reranker.score([(QUERY, "place: garden\n\n" + TEXTS[0]), (QUERY, TEXTS[1])])
    assert [found["n0"].score, found["n1"].score] == pytest.approx(want.tolist(), abs=1e-5)
    assert found["n0"].metadata == {"place": "garden"} and found["n1"].metadata == {"hidden": "x"}


def test_options_reach_the_reranker(checkpoint, wanted, nodes):
    rerank = ProRankRerank(model=str(checkpoint), top_n=2, keep_retrieval_score=True, options={"dtype": "fp32"})
    found = rerank.postprocess_nodes(nodes, query_str=QUERY)
    assert [node.node_id for node in found] == [f"n{hit.index}" for hit in wanted[:2]]
    assert [node.metadata for node in found] == [{"retrieval_score": 1 / (hit.index + 1)} for hit in wanted[:2]]
    assert all(not node.metadata for node in nodes)
    assert rerank.to_dict()["class_name"] == "ProRankRerank" and rerank.to_dict()["top_n"] == 2


def test_tracing_hears_of_it(reranker, wanted, nodes):
    heard = LlamaDebugHandler(print_trace_on_end=False)
    rerank = ProRankRerank(model=reranker, top_n=1, callback_manager=CallbackManager([heard]))
    rerank.postprocess_nodes(nodes, query_str=QUERY)
    ((begin, end),) = heard.get_event_pairs(CBEventType.RERANKING)
    assert begin.payload["query_str"] == QUERY and end.payload["nodes"][0].node_id == f"n{wanted[0].index}"


def test_a_query_is_needed(reranker, nodes):
    with pytest.raises(ValueError, match="needs a query"):
        ProRankRerank(model=reranker).postprocess_nodes(nodes)
