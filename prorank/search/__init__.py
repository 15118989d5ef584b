"""Search a corpus in one step: BM25 (and a bi-encoder) find candidates, and the reranker ranks them.

`prorank.Searcher` is the class; nothing is imported here, so that the command line starts fast.
"""

CANDIDATES = 20  # documents per query to rerank by default: a few seconds on two cores
