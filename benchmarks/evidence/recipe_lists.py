"""Make the training lists of table b: train splits of three sets with mined negatives, and of three with judged documents.

All arms train on the same lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from benchmarks.jobs import claimed
from benchmarks.protocol import DEV
from prorank.data.beir import Collection, read_beir
from prorank.data.examples import Group
from prorank.data.formats import write_groups
from prorank.data.negatives import mine_negatives

TRAIN = {"scifact": 800, "medquad": 1600, "cosqa": 600}  # number of training queries of each set
JUDGED = ("trecqa", "wikiqa", "semeval_cqa_answers")  # sets whose train split has judged non-relevant documents
HARD, RANDOM = 4, 8  # negatives of a list: highly ranked by BM25, then random ones
WORDS = 200  # of a training document, more than a prompt holds
DEV_LISTS = 8  # lists of each dev set, for the single evaluation at the end of a training


def lists(data: Path, out: Path, seed: int, queries: int | None = None) -> tuple[Path, Path]:
    """Return training and dev lists (train.jsonl, dev.jsonl), made once.

    Args:
        data: folder of the collections.
        out: folder of the lists.
        seed: of the random negatives, and of the choice of queries.
        queries: number of training lists, a random sample of all; smaller samples are parts of larger ones. None for all.
    """
    made = out / "train.jsonl", out / "dev.jsonl"
    with claimed(made[0], wait=True):
        if not made[1].is_file():
            groups: list[Group] = []
            for name, limit in TRAIN.items():
                mined, report = mine_negatives(read_beir(data / name, "train"), negatives=HARD + RANDOM, seed=seed, random=RANDOM)
                print(f"{name}: {report}")
                groups += mined[:limit]
            groups += [group for name in JUDGED for group in pool_groups(read_beir(data / name, "train"))]
            chosen = Random(f"lists/{seed}").sample(groups, len(groups))[:queries]
            write_groups(made[0], [replace(g, documents=tuple(" ".join(d.split()[:WORDS]) for d in g.documents)) for g in chosen])
            write_groups(made[1], [g for name in DEV for g in pool_groups(read_beir(data / name, "dev"))[:DEV_LISTS]])
    return made


def labelled(groups: Sequence[Group], labels: int, draw: str, count: Callable[[Group], int]) -> list[Group]:
    """Return groups of whole queries, in an order seeded by `draw`, with at least `labels` labels by `count`, or all groups."""
    chosen: list[Group] = []
    for group in Random(draw).sample(list(groups), len(groups)):
        if labels <= 0:
            break
        chosen.append(group)
        labels -= count(group)
    return chosen


def pool_groups(collection: Collection) -> list[Group]:
    """Return each dev query's judged documents, if some are relevant and some are not."""
    groups = []
    for query, judged in collection.qrels.items():
        known = {d: label for d, label in judged.items() if d in collection.corpus}
        if known and max(known.values()) > 0 >= min(known.values()):
            texts = tuple(collection.corpus[d] for d in known)
            groups.append(Group(collection.queries[query], texts, tuple(map(float, known.values())), query))
    return groups
