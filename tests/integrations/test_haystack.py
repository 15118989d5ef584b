"""Haystack's ranker: order, metadata, duplicates, pipelines in YAML, async.

The documents that go in are compared with copies made before.
"""

import asyncio
import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
from haystack import Document, Pipeline

from prorank.integrations.haystack import ProRankSimilarityRanker
from prorank.integrations.shared import as_reranker
from tests.integrations.conftest import QUERY, TEXTS


@pytest.fixture
def documents():
    return [Document(content=text or None, id=f"d{i}", meta={"source": i}, score=0.1 * i) for i, text in enumerate(TEXTS)]


def test_documents_come_back_in_order_with_their_scores(reranker, wanted, documents):
    before, ranker = copy.deepcopy(documents), ProRankSimilarityRanker(reranker)
    found = ranker.run(query=QUERY, documents=documents)["documents"]
    assert documents == before
    assert [(document.id, document.score, document.meta) for document in found] == [
        (f"d{hit.index}", hit.score, {"source": hit.index}) for hit in wanted
    ]
    assert asyncio.run(ranker.run_async(query=QUERY, documents=documents)) == {"documents": found}
    assert ranker.run(query=QUERY, documents=[]) == asyncio.run(ranker.run_async(query=QUERY, documents=[])) == {"documents": []}


def test_one_id_is_ranked_once(reranker, wanted, documents):
    found = ProRankSimilarityRanker(reranker).run(query=QUERY, documents=[*documents, documents[2]])["documents"]
    assert [document.id for document in found] == [f"d{hit.index}" for hit in wanted]


def test_arguments_go_before_settings(reranker, wanted, documents):
    ranker = ProRankSimilarityRanker(reranker, top_k=1, score_threshold=wanted[2].score)
    assert len(ranker.run(query=QUERY, documents=documents)["documents"]) == 1
    assert len(ranker.run(query=QUERY, documents=documents, top_k=5)["documents"]) == 3
    assert len(ranker.run(query=QUERY, documents=documents, top_k=5, score_threshold=-1e9)["documents"]) == 5


def test_first_requests_at_once_load_one_model(checkpoint, wanted, documents, monkeypatch):
    """Whoever comes second waits for the model of the first."""
    made = []
    monkeypatch.setattr("prorank.integrations.haystack.as_reranker", lambda *asked: made.append(asked) or as_reranker(*asked))
    ranker = ProRankSimilarityRanker(str(checkpoint), options={"dtype": "fp32"})
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: ranker.run(query=QUERY, documents=documents)["documents"], range(4)))
    assert len(made) == 1 and found == found[:1] * 4
    assert [document.id for document in found[0]] == [f"d{hit.index}" for hit in wanted]


def test_metadata_is_read_where_asked(reranker, documents):
    documents[0].meta["title"] = "The garden"
    ranker = ProRankSimilarityRanker(reranker, meta_fields_to_embed=["title"], instruction="find rivers")
    found = {document.id: document.score for document in ranker.run(query=QUERY, documents=documents)["documents"]}
    want = reranker.score([(QUERY, "The garden\n" + TEXTS[0]), (QUERY, TEXTS[1])], instruction="find rivers")
    assert [found["d0"], found["d1"]] == pytest.approx(want.tolist(), abs=1e-5)


def test_it_runs_in_a_pipeline_that_was_written_down(checkpoint, wanted, documents):
    pipeline = Pipeline()
    pipeline.add_component("ranker", ProRankSimilarityRanker(str(checkpoint), top_k=2, options={"dtype": "fp32"}))
    read = Pipeline.loads(pipeline.dumps(), allowed_modules=["prorank.integrations.haystack"])
    found = read.run({"ranker": {"query": QUERY, "documents": documents}})["ranker"]["documents"]
    assert [document.id for document in found] == [f"d{hit.index}" for hit in wanted[:2]]
    assert asyncio.run(read.run_async({"ranker": {"query": QUERY, "documents": documents}}))["ranker"]["documents"] == found


def test_a_reranker_is_written_down_by_its_checkpoint(checkpoint, reranker):
    written = ProRankSimilarityRanker(reranker, top_k=3).to_dict()["init_parameters"]
    assert written["model"] == str(checkpoint) and written["top_k"] == 3


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_is_checked(reranker, documents, top_k):
    with pytest.raises(ValueError, match="top_k must be above 0"):
        ProRankSimilarityRanker(reranker, top_k=top_k)
    with pytest.raises(ValueError, match="top_k must be above 0"):
        ProRankSimilarityRanker(reranker).run(query=QUERY, documents=documents, top_k=top_k)
