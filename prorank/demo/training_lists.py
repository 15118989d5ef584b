"""The demo's training lists: for the warm-up a relevant and other documents a query, for score learning blocks of queries.

A block is a few queries and their documents; each document is relevant to its own query, and all are candidates of every query.
With a prompt that has the document first, training reads each document once for all queries of its block.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

from ..data.beir import Collection
from ..data.bm25 import Bm25
from ..data.examples import Group
from ..data.formats import write_groups
from ..data.negatives import mine_negatives

DEPTH = 50  # BM25 ranks that a block's hard documents come from


def write_warmup_lists(collection: Collection, queries: int, path: Path, seed: int) -> None:
    """Write lists of the first queries unless `path` exists: the relevant document and a random one, easy to tell apart."""
    if not path.is_file():
        labels = dict(list(collection.qrels.items())[:queries])
        groups, _ = mine_negatives(replace(collection, qrels=labels, qrels_path=None), negatives=1, random=1, seed=seed)
        write_groups(path, groups)


def write_blocks(collection: Collection, size: int, blocks: int, path: Path, seed: int, max_words: int | None = None) -> None:
    """Write the lists of `blocks` blocks unless `path` exists.

    A block begins with the next query that is in none yet. Its other queries are those whose documents BM25 ranks highest for it;
    where these are too few, random ones fill it.

    Args:
        collection: each query has one relevant document of its own.
        size: queries of a block, and so documents.
        blocks: their number, or fewer if the queries run out.
        path: file to write.
        seed: of the random queries.
        max_words: of a document; the rest is cut off. None keeps whole documents.
    """
    if path.is_file():
        return
    rng, index = Random(f"blocks/{seed}"), Bm25(collection.corpus)
    query_of = {document: query for query, labels in collection.qrels.items() for document in labels}
    unused, groups = dict.fromkeys(collection.qrels), list[Group]()
    while len(groups) < blocks * size and len(unused) >= size:
        first = next(iter(unused))
        ranking = index.search({first: collection.queries[first]}, DEPTH)[first]
        hard = [query_of[document] for document in ranking if query_of.get(document, first) != first]
        members = [first, *[query for query in hard if query in unused][: size - 1]]
        others = [query for query in unused if query not in members]
        members += rng.sample(others, size - len(members))
        groups += _block(collection, members, max_words)
        for query in members:
            del unused[query]
    write_groups(path, groups)


def _block(collection: Collection, queries: list[str], max_words: int | None) -> list[Group]:
    """A list for each query, with the relevant documents of all."""
    ids = tuple(document for query in queries for document in collection.qrels[query])
    texts = tuple(" ".join(collection.corpus[document].split()[:max_words]) for document in ids)
    labels = [tuple(float(collection.qrels[query].get(document, 0)) for document in ids) for query in queries]
    return [Group(collection.queries[query], texts, row, query, ids) for query, row in zip(queries, labels)]
