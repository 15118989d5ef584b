"""Labelled lists of `adapt`, and their split into training queries and held-out queries."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..data.examples import Group, fold_groups, list_groups, query_key, split_groups
from ..data.formats import is_collection, read_collection, read_groups
from ..data.languages import AUTO, check_language
from ..data.negatives import mine_negatives as mine_negatives
from ..errors import ConfigError, DataError

log = logging.getLogger("prorank")
MIN_DECIDING = 10  # minimum number of held-out queries
MAX_HELD_OUT = 200  # maximum number of held-out queries by default
FOLDS, MIN_QUERIES_FOR_ONE_SPLIT = 3, 150  # with fewer queries, each is held out in one of three trainings


class Fold(NamedTuple):
    """Training lists and held-out lists of a training.

    Attributes:
        training: lists to train on.
        deciding: lists of held-out queries, which decide whether the new model is kept.
    """

    training: list[Group]
    deciding: list[Group]


def check_source_language(sources: Sequence[str | Path], language: str) -> None:
    """Raise ConfigError for an unknown language, or one without use because no source is a collection to mine negatives from."""
    if check_language(language) != AUTO and sources and not any(map(is_collection, sources)):
        raise ConfigError(f"language {language!r} is for BM25, which mines negatives of BEIR folders; omit it for {sources[0]}")


def read_labelled_lists(sources: Sequence[str | Path], language: str = AUTO) -> list[Group]:
    """Read lists from all sources. BEIR folders and ir_datasets get mined negatives in addition to their judged documents.

    Args:
        sources: files and folders.
        language: see `mine_negatives`. A detected language other than English is logged.
    """
    groups: list[Group] = []
    for source in sources:
        if is_collection(source):
            mined, report = mine_negatives(read_collection(source, "train"), negatives=8, random=4, language=language)
            groups += mined
            if report.language:
                log.warning("%s: %s", source, report.language)
        else:
            groups += read_groups(source, "train")
    return list_groups(groups)


def split_folds(groups: list[Group], held_out: int | None, seed: int) -> list[Fold]:
    """Split lists by query into one fold per training.

    Args:
        groups: labelled lists.
        held_out: number of held-out queries. By default a fifth, at most 200; with fewer than 150 queries all of them, each in one
            of three trainings.
        seed: seed of the split.

    Raises:
        DataError: fewer than 10 queries with a relevant and a non-relevant document can be held out.
    """
    queries = len({query_key(group.query) for group in groups})
    if held_out is None and queries < MIN_QUERIES_FOR_ONE_SPLIT:
        folds = [Fold(*parts) for parts in fold_groups(groups, FOLDS, seed)]
    else:
        folds = [Fold(*split_groups(groups, held_out or min(MAX_HELD_OUT, queries // 5), seed))]
    deciding = sum(len(fold.deciding) for fold in folds)
    if deciding < MIN_DECIDING or not all(fold.training for fold in folds):
        why = f"{deciding} of {queries} queries can be held out, but at least {MIN_DECIDING} are needed"
        raise DataError(f"too few queries with a relevant and another document: {why}; label more")
    return folds
