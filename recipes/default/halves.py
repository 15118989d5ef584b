"""Lists with long queries: one half of a document asks for the other half, among documents of the same source.

The queries of the other lists have at most 40 words. In use a query can be a paragraph: an abstract, a claim, a ticket.

    python -m recipes.default.halves data/lists/train.jsonl data/lists/halves.jsonl

Documents are the relevant ones of `lists.py`, so they have passed the same checks of overlap. Takes ten minutes on one core.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random

from prorank.data.beir import Collection
from prorank.data.examples import Group
from prorank.data.formats import read_groups, write_groups

from .blocks import sources_of
from .lists import encoder, groups_of, source_of

WORDS = (100, 400)  # range of a document's length
QUERY = 150  # maximum words of a query
PER_SOURCE = 120  # queries of a source
FEW = 40  # a source with fewer such documents is left out
OTHERS = 800  # further documents of a source that candidates are drawn from
SENTENCE = re.compile(r"(?<=[.!?])\s+")


def halves(text: str, draw: Random) -> tuple[str, str] | None:
    """Return (query, document): the two halves of a text in random order, cut between sentences; None if it is one sentence."""
    sentences = SENTENCE.split(text)
    ends = [len(" ".join(sentences[:i]).split()) for i in range(1, len(sentences))]
    if not ends:
        return None
    half = len(text.split()) / 2
    middle = min(range(len(ends)), key=lambda i: abs(ends[i] - half)) + 1
    parts = [" ".join(sentences[:middle]), " ".join(sentences[middle:])]
    query, document = draw.sample(parts, 2)
    return " ".join(query.split()[:QUERY]), document


def halved(name: str, groups: Sequence[Group], seed: int) -> Collection | None:
    """Return a source's texts as a collection whose queries are halves, or None if too few of its documents are long."""
    draw = Random(f"halves/{seed}/{name}")
    texts = sorted({text for group in groups for text in group.documents})
    relevant = {text for group in groups for text, label in zip(group.documents, group.labels) if label > 0}
    long = [text for text in texts if text in relevant and WORDS[0] <= len(text.split()) <= WORDS[1]]
    chosen = {text: pair for text in draw.sample(long, min(PER_SOURCE, len(long))) if (pair := halves(text, draw))}
    if len(chosen) < FEW:
        return None
    others = [text for text in texts if text not in chosen]
    corpus = {f"o{i}": text for i, text in enumerate(draw.sample(others, min(OTHERS, len(others))))}
    corpus |= {f"h{i}": document for i, (_, document) in enumerate(chosen.values())}
    queries = {f"h{i}": query for i, (query, _) in enumerate(chosen.values())}
    return Collection(f"{name}-halves", corpus, queries, {query_id: {query_id: 1} for query_id in queries})


def main() -> None:
    """Write the lists from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lists", type=Path, help="training lists of lists.py")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    loaded, made = encoder(), []
    for name, groups in sources_of(read_groups(options.lists)).items():
        if collection := halved(name, groups, options.seed):
            made += groups_of(source_of(collection, PER_SOURCE, loaded, options.seed), options.seed)
            print(f"{collection.name}: {len(collection.queries)} queries of {len(collection.corpus)} documents", flush=True)
    write_groups(options.out, made)
    print(f"{options.out}: {len(made)} lists")


if __name__ == "__main__":
    main()
