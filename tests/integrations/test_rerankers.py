"""The package rerankers: our ranker's results have its shape.

Ids are places in the input where none are given, as that package has it.
"""

import asyncio

import pytest
from rerankers.documents import Document
from rerankers.models.ranker import BaseRanker
from rerankers.results import RankedResults

from prorank.integrations.rerankers import ProRankRanker
from tests.integrations.conftest import QUERY, TEXTS


def test_results_have_the_packages_shape(reranker, wanted):
    ranker = ProRankRanker(reranker)
    found = ranker.rank(QUERY, TEXTS)
    assert isinstance(ranker, BaseRanker) and isinstance(found, RankedResults)
    assert found.query == QUERY and found.has_scores and found.results_count() == 5
    assert [(r.doc_id, r.score, r.rank, r.text) for r in found] == [
        (hit.index, hit.score, rank, TEXTS[hit.index]) for rank, hit in enumerate(wanted, 1)
    ]
    assert found.top_k(2) == found.results[:2]
    assert found.get_score_by_docid(1) == pytest.approx(ranker.score(QUERY, TEXTS[1]), abs=1e-5)
    again = asyncio.run(ranker.rank_async(QUERY, TEXTS))
    assert [(r.doc_id, r.score) for r in again] == [(r.doc_id, r.score) for r in found]


def test_ids_and_metadata_are_kept(checkpoint, wanted):
    ranker = ProRankRanker(checkpoint, dtype="fp32")
    ids, metadata = [f"d{i}" for i in range(5)], [{"source": i} for i in range(5)]
    for found in (
        ranker.rank(QUERY, TEXTS, doc_ids=ids, metadata=metadata),
        ranker.rank(QUERY, [Document(text, doc_id=i, metadata=m) for text, i, m in zip(TEXTS, ids, metadata)]),
    ):
        assert [(r.doc_id, r.metadata) for r in found] == [(f"d{hit.index}", {"source": hit.index}) for hit in wanted]
    assert ranker.rank(QUERY, []).results == []
    assert ranker.rank(QUERY, "one text").results_count() == 1
