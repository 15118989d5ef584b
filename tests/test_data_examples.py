"""Examples: draws are aligned, balanced, held apart by query, and the same in every process.

Only another process can show that a draw does not hang on PYTHONHASHSEED, so one test starts two.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from prorank.data.examples import Group, fold_groups, near_duplicates, normalised, sample_lists, split_groups
from prorank.errors import DataError


def test_group_checks_itself() -> None:
    for bad in [(" ", ("a",), (1.0,)), ("q", (), ()), ("q", ("a",), (1.0, 0.0)), ("q", ("a",), (-1.0,))]:
        with pytest.raises(DataError):
            Group(*bad)
    with pytest.raises(DataError, match="1 documents but 2 teacher"):
        Group("q", ("a",), (1.0,), teacher=(1.0, 2.0))


SOME = [
    Group(f"q{i}", tuple(f"d{i}-{j}" for j in range(7)), (2.0, 1.0, 1.0, 0, 0, 0, 0), str(i), teacher=tuple(range(7)))
    for i in range(9)
]


@pytest.mark.parametrize("size", [2, 4, 6, 7, 20])
def test_sampled_lists_stay_aligned(size: int) -> None:
    lists = sample_lists(SOME, size, seed=1, epoch=0)
    assert Counter(group.query for group in lists) == Counter(group.query for group in SOME)
    for group in lists:
        assert len(set(group.documents)) == len(group.documents) == min(size, 7)
        places = [int(document.split("-")[1]) for document in group.documents]
        source = SOME[int(group.query_id)]
        assert group.labels == tuple(source.labels[i] for i in places)
        assert group.teacher == tuple(source.teacher[i] for i in places)
        assert max(group.labels) == 2.0 and min(group.labels) == 0.0
    assert len({tuple(label > 0 for label in group.labels) for group in lists}) > 1  # positions are shuffled
    assert lists != sample_lists(SOME, size, seed=1, epoch=1) != sample_lists(SOME, size, seed=2, epoch=1)


def test_draws_do_not_depend_on_the_process() -> None:
    code = (
        "from tests.test_data_examples import SOME; from prorank.data.examples import *;"
        "from prorank.data.balanced_pairs import *;"
        "print(sample_lists(SOME, 4, 3, 5), balanced_pairs(SOME, 3), split_groups(SOME, 2, 3))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1 and said.pop()


def test_split_keeps_queries_apart() -> None:
    twins = [Group(g.query.upper() + "?", g.documents, g.labels) for g in SOME]
    hopeless = Group("no other", ("a",), (1.0,))
    train, dev = split_groups([*SOME, *twins, hopeless], dev_queries=2, seed=0)
    held = {g.query for g in dev}
    assert len(dev) == 4 and len(train) == 15 and hopeless in train
    assert not {q.lower().rstrip("?") for q in held} & {g.query.lower().rstrip("?") for g in train}
    assert len(split_groups(SOME, 40, 0)[1]) == 2  # a quarter at most
    assert split_groups(SOME, 0, 0) == (SOME, [])


def test_folds_hold_every_query_out_once_that_tells_of_order() -> None:
    twins = [Group(g.query.upper() + "?", g.documents, g.labels) for g in SOME]
    hopeless = Group("no other", ("a",), (1.0,))
    folds = fold_groups([*SOME, *twins, hopeless], 4, seed=0)
    for train, held in folds:
        assert hopeless in train and len(train) + len(held) == 2 * len(SOME) + 1
        assert not {g.query.lower().rstrip("?") for g in held} & {g.query.lower().rstrip("?") for g in train}
    held_out = Counter(g.query for _, held in folds for g in held)
    assert held_out == Counter(g.query for g in [*SOME, *twins])


def test_normalised_forgets_case_and_marks() -> None:
    assert normalised("  The CAT—sat,\n on\u00a0 it! ") == "the cat sat on it" == normalised("the cat sat on it")
    assert normalised("ﬁne Straße") == "fine strasse"


def test_near_duplicates_share_four_fifths_of_their_words() -> None:
    nine = frozenset("abcdefghi")
    assert near_duplicates(nine, nine | {"j"}) and near_duplicates(nine, frozenset("abcdefgh"))
    assert not near_duplicates(nine, frozenset("abcdefg")) and not near_duplicates(nine, frozenset("abcdefgzy"))
    assert not near_duplicates(frozenset(), frozenset())
