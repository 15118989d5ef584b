"""Search a corpus in one step: BM25 (and a bi-encoder) find candidates, the reranker puts them in order.

`prorank.Searcher` is the class; nothing is imported here, so that the command line starts fast.
"""

CANDIDATES = 30  # documents of a query that are reranked by default: a few seconds on two cores
