"""Search a corpus in one step: BM25 (and a bi-encoder) find candidates, the reranker puts them in order."""

from .searcher import Searcher, SearchHit

__all__ = ["SearchHit", "Searcher"]
