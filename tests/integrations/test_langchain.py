"""LangChain's compressor: order, metadata, options, async, and its place in a chain.

The documents that go in are compared with copies made before.
"""

import asyncio
import copy

import pytest
from langchain_core.documents import BaseDocumentCompressor, Document

from prorank.errors import ConfigError, DataError
from prorank.integrations.langchain import ProRankCompressor
from tests.integrations.conftest import QUERY, TEXTS


@pytest.fixture
def documents():
    return [Document(page_content=text, id=f"d{i}", metadata={"source": i}) for i, text in enumerate(TEXTS)]


def test_documents_come_back_in_order_with_their_scores(reranker, wanted, documents):
    before, compressor = copy.deepcopy(documents), ProRankCompressor(model=reranker)
    found = compressor.compress_documents(documents, QUERY)
    assert isinstance(compressor, BaseDocumentCompressor) and documents == before
    assert [document.id for document in found] == [f"d{hit.index}" for hit in wanted]
    assert [document.metadata for document in found] == [{"source": h.index, "relevance_score": h.score} for h in wanted]
    assert asyncio.run(compressor.acompress_documents(documents, QUERY)) == found


def test_options_reach_the_reranker(checkpoint, reranker, wanted, documents):
    compressor = ProRankCompressor(model=str(checkpoint), top_n=2, options={"dtype": "fp32"})
    assert [document.metadata["source"] for document in compressor.compress_documents(documents, QUERY)] == [
        hit.index for hit in wanted[:2]
    ]
    least = ProRankCompressor(model=reranker, min_score=wanted[1].score)
    assert len(least.compress_documents(documents, QUERY)) == 2
    told = ProRankCompressor(model=reranker, instruction="find rivers").compress_documents(documents, QUERY)
    assert told[0].metadata["relevance_score"] == reranker.rank(QUERY, TEXTS, instruction="find rivers")[0].score
    assert compressor.compress_documents([], QUERY) == []


def test_mistakes_are_named(reranker, documents):
    with pytest.raises(ValueError, match="top_k"):
        ProRankCompressor(model=reranker, top_k=3)
    with pytest.raises(ConfigError, match="'dtype' comes too late for a Reranker"):
        ProRankCompressor(model=reranker, options={"dtype": "fp32"})
    with pytest.raises(DataError, match="expected a text that is not empty"):
        ProRankCompressor(model=reranker).compress_documents(documents, " ")
