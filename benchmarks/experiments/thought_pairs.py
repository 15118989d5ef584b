"""Make the pairs of the experiments on thoughts: balanced training pairs, and 400 held-out pairs that share no text with them.

    PRORANK_DATA=... python -m benchmarks.experiments.thought_pairs --out data/thoughts
    prorank label data/thoughts/train.jsonl data/thoughts/quoting.jsonl --extractive --quote prorank-smollm2-135m

Training pairs come from the train splits of wikiqa and trecqa, held-out pairs from their test splits; the default model was trained
on neither. Two consecutive sentences of wikiqa, which is labelled by sentence, make a document; it is relevant if one of them is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from random import Random

from benchmarks.common import data_folder
from prorank.data.beir import read_beir
from prorank.data.examples import Group, normalised, query_key
from prorank.data.formats import write_groups

SENTENCES = 2  # of a document of wikiqa
PER_QUERY = {"wikiqa": 2, "trecqa": 4}  # pairs of each label per query, at most


def documents_of(name: str, split: str) -> list[Group]:
    """Return the judged documents of each query of a set."""
    collection = read_beir(data_folder() / name, split)
    size = SENTENCES if name == "wikiqa" else 1
    groups = []
    for query, row in collection.qrels.items():
        ids = sorted(row, key=lambda doc: int(doc.rsplit("-", 1)[1]))  # ids end with the position in the article
        parts = [ids[i : i + size] for i in range(0, len(ids), size)]
        texts = tuple(" ".join(collection.corpus[doc] for doc in part) for part in parts)
        labels = tuple(float(max(row[doc] for doc in part) > 0) for part in parts)
        groups.append(Group(collection.queries[query], texts, labels, f"{name}/{query}"))
    return groups


def balanced(groups: Sequence[Group], per_label: int, seed: int) -> list[Group]:
    """Return groups with equal numbers of relevant and other documents, at most `per_label` each; other groups are left out."""
    rng, kept = Random(f"thought pairs/{seed}"), []
    for group in groups:
        sides = [[i for i, label in enumerate(group.labels) if (label > 0) == relevant] for relevant in (True, False)]
        count = min(per_label, *map(len, sides))
        if count:
            kept.append(group.take([i for side in sides for i in rng.sample(side, count)]))
    return rng.sample(kept, len(kept))


def without_texts(groups: Sequence[Group], known: Sequence[Group]) -> list[Group]:
    """Return the groups that share neither query nor document with `known`."""
    queries = {query_key(group.query) for group in known}
    texts = {normalised(text) for group in known for text in group.documents}
    return [g for g in groups if query_key(g.query) not in queries and not texts & {normalised(text) for text in g.documents}]


def heads(groups: Sequence[Group], pairs: int) -> list[Group]:
    """Return groups with `pairs` pairs in all; the last group is cut to equal numbers of both labels."""
    kept: list[Group] = []
    for group in groups:
        half = min(len(group.documents), pairs) // 2
        if half:
            relevant = len(group.documents) // 2  # relevant documents come first
            kept.append(group.take([*range(half), *range(relevant, relevant + half)]))
            pairs -= 2 * half
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of train.jsonl and held-out.jsonl")
    parser.add_argument("--held-out", type=int, default=400, help="held-out pairs, equally many of each set and label")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train: list[Group] = []
    held_out: list[Group] = []
    for name, count in PER_QUERY.items():
        train += balanced(documents_of(name, "train"), count, options.seed)
    for name, count in PER_QUERY.items():
        fresh = balanced(without_texts(documents_of(name, "test"), train), count, options.seed)
        held_out += heads(fresh, options.held_out // len(PER_QUERY))
    options.out.mkdir(parents=True, exist_ok=True)
    for groups, file in ((train, "train.jsonl"), (held_out, "held-out.jsonl")):
        write_groups(options.out / file, groups)
        labels = [label for group in groups for label in group.labels]
        print(f"{options.out / file}: {len(groups)} queries, {len(labels)} pairs, {sum(labels):.0f} relevant")


if __name__ == "__main__":
    main()
