"""Labelled lists of `adapt`, and their split into queries to train on and queries that decide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..data.examples import Group, fold_groups, list_groups, query_key, split_groups
from ..data.formats import is_collection, read_collection, read_groups
from ..data.negatives import mine_negatives as mine_negatives
from ..errors import DataError

MIN_DECIDING = 10  # queries
MAX_HELD_OUT = 200  # queries, by default
FOLDS, MIN_QUERIES_FOR_ONE_SPLIT = 3, 150  # fewer queries are held out in turn, each by one of three trainings


class Fold(NamedTuple):
    """The lists of one training, and those of other queries that decide whether it is kept."""

    training: list[Group]
    deciding: list[Group]


def read_labelled_lists(sources: Sequence[str | Path]) -> list[Group]:
    """Read lists from all sources. BEIR folders and ir_datasets get mined negatives beside their judged documents."""
    groups: list[Group] = []
    for source in sources:
        if is_collection(source):
            groups += mine_negatives(read_collection(source, "train"), negatives=8, random=4)[0]
        else:
            groups += read_groups(source, "train")
    return list_groups(groups)


def split_folds(groups: list[Group], held_out: int | None, seed: int) -> list[Fold]:
    """Split lists by query into one fold a training.

    Args:
        groups: labelled lists.
        held_out: queries that decide. By default a fifth, at most 200; of fewer than 150 queries all decide, each held out by one
            of three trainings.
        seed: of the split.

    Raises:
        DataError: fewer than 10 queries with a relevant and another document could decide.
    """
    queries = len({query_key(group.query) for group in groups})
    if held_out is None and queries < MIN_QUERIES_FOR_ONE_SPLIT:
        folds = [Fold(*parts) for parts in fold_groups(groups, FOLDS, seed)]
    else:
        folds = [Fold(*split_groups(groups, held_out or min(MAX_HELD_OUT, queries // 5), seed))]
    deciding = sum(len(fold.deciding) for fold in folds)
    if deciding < MIN_DECIDING or not all(fold.training for fold in folds):
        why = f"{deciding} of {queries} queries could be held out, and at least {MIN_DECIDING} have to decide"
        raise DataError(f"too few queries with a relevant and another document: {why}; label more")
    return folds
