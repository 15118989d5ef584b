"""Training lists with shared documents: similar queries of a source, a few candidates of each, teacher scores for all pairs.

With a document-first prompt each document is encoded once for all queries, so four queries over twelve documents cost little more
than one query over twelve. Candidates of similar queries are hard negatives for each other.

    python -m recipes.default.blocks data/lists/train.jsonl data/lists/blocks.jsonl

Queries and texts come from the lists of `lists.py`; scores are computed again in the same way. Takes ten minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import numpy as np

from prorank.data.bm25 import Bm25
from prorank.data.examples import Group
from prorank.data.formats import read_groups, write_groups
from prorank.rank.text_encoders import TextEncoder

from .lists import LABEL_WEIGHT, encoder, encoder_in, spreads, teacher

QUERIES = 4  # queries per block
HARD, OTHERS = 10, 2  # a block takes OTHERS of the first HARD non-relevant documents of each query


def sources_of(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Return the groups by source, which is the prefix of their ids."""
    sources: dict[str, list[Group]] = {}
    for group in groups:
        sources.setdefault(group.query_id.partition("/")[0], []).append(group)
    return sources


def neighbours(vectors: np.ndarray, size: int, rng: Random) -> Iterator[list[int]]:
    """Yield disjoint sets of `size` similar vectors: one sampled from the remaining ones, and its nearest neighbours.

    Args:
        vectors: unit vectors [n, d].
        size: vectors per set.
        rng: random generator.

    Yields:
        Indices of the vectors of a set.
    """
    left = set(range(len(vectors)))
    while len(left) >= size:
        first = rng.choice(sorted(left))
        near = [int(i) for i in np.argsort(-(vectors @ vectors[first]), kind="stable") if i in left and i != first][: size - 1]
        left -= {first, *near}
        yield [first, *near]


def documents_of(groups: Sequence[Group], rng: Random) -> list[str]:
    """Sample distinct documents for the queries of a block, in random order: of each query a relevant one and OTHERS others."""
    chosen: list[str] = []
    for group in groups:
        parts = [[d for d, label in zip(group.documents, group.labels) if (label > 0) == relevant] for relevant in (True, False)]
        for members, count in ((parts[0], 1), (parts[1][:HARD], OTHERS)):
            chosen += rng.sample(members, min(count, len(members)))
    chosen = list(dict.fromkeys(chosen))
    return rng.sample(chosen, len(chosen))


def blocks_of(
    groups: Sequence[Group], encoders: Sequence[TextEncoder], seed: int, weight: float = LABEL_WEIGHT
) -> list[list[Group]]:
    """Make blocks of one source: groups with the same documents, with labels and teacher scores for all pairs.

    Args:
        groups: the lists of one source.
        encoders: whose cosines are the teacher; the first one finds similar queries.
        seed: of the choice of queries and documents.
        weight: weight of the label in the teacher score.
    """
    rng = Random(f"blocks/{seed}/{groups[0].query_id.partition('/')[0]}")
    queries = [encoder.queries([group.query for group in groups]) for encoder in encoders]
    similar = neighbours(queries[0], QUERIES, rng)
    made = [([groups[i] for i in places], [vectors[places] for vectors in queries]) for places in similar]
    shown = [documents_of(members, rng) for members, _ in made]
    texts = list(dict.fromkeys(text for members in shown for text in members))
    place = {text: i for i, text in enumerate(texts)}
    documents_of_all = [encoder.documents(texts) for encoder in encoders]
    index = Bm25({str(i): text for text, i in place.items()})
    rows = []
    for (members, query_vectors), documents in zip(made, shown):
        places = [place[text] for text in documents]
        for group, *vectors in zip(members, *query_vectors):
            relevant = {d for d, label in zip(group.documents, group.labels) if label > 0}
            labels = tuple(float(text in relevant) for text in documents)
            lexical = np.asarray(index.scores(group.query, [str(i) for i in places]), float)
            cosines = [of_one[places] @ vector for of_one, vector in zip(documents_of_all, vectors)]
            rows.append((group, tuple(documents), labels, cosines, lexical))
    scale = spreads([(*cosines, lexical) for *_, cosines, lexical in rows])
    block_groups = [
        Group(group.query, documents, labels, group.query_id, (), teacher(labels, cosines, lexical, scale, weight))
        for group, documents, labels, cosines, lexical in rows
    ]
    return [block_groups[i : i + QUERIES] for i in range(0, len(block_groups), QUERIES)]


def all_blocks(
    sources: dict[str, list[Group]], encoders: Sequence[TextEncoder], seeds: Sequence[int], weight: float = LABEL_WEIGHT
) -> list[list[Group]]:
    """Make the blocks of every source, once per seed."""
    made: list[list[Group]] = []
    for name, groups in sources.items():
        blocks = [block for seed in seeds for block in blocks_of(groups, encoders, seed, weight)]
        made += blocks
        print(f"{name}: {len(blocks)} blocks of {len(groups)} queries", flush=True)
    return made


def shuffled(blocks: list[list[Group]], name: str) -> list[list[Group]]:
    """Shuffle blocks with a seed that depends on `name`."""
    return Random(name).sample(blocks, len(blocks))


def main() -> None:
    """Write blocks from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lists", type=Path, help="training lists of lists.py")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half", type=Path, help="lists for half of the blocks, used twice with double label weight")
    parser.add_argument("--teacher", type=Path, nargs="*", default=[], help="further bi-encoders whose cosines count")
    options = parser.parse_args()
    encoders = [encoder(), *map(encoder_in, options.teacher)]
    sources, seed = sources_of(read_groups(options.lists)), options.seed
    labelled = sources_of(read_groups(options.half)) if options.half else {}
    made = all_blocks({name: groups for name, groups in sources.items() if name not in labelled}, encoders, [seed])
    if labelled:
        half = shuffled(all_blocks(labelled, encoders, [seed, seed + 1], 2 * LABEL_WEIGHT), f"blocks/{seed}")
        made = shuffled(half + shuffled(made, f"blocks/{seed}")[: len(half)], f"halves/{seed}")
    else:
        Random(f"blocks/{seed}").shuffle(made)  # not `shuffled`, to keep the order in which the fourth step was trained
    write_groups(options.out, [group for block in made for group in block])
    print(f"{options.out}: {len(made)} blocks, {sum(len(g.documents) for block in made for g in block)} pairs")


if __name__ == "__main__":
    main()
