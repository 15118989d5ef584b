"""The prompts of a warm-up: balanced within each query, first uses before repetitions."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.data.balanced_pairs import balanced_pairs
from prorank.data.examples import Group, pairs
from prorank.errors import DataError

SIZES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=6)


def groups_of(sizes: list[tuple[int, int]]) -> list[Group]:
    """A group for each (number of relevant, number of other documents)."""
    return [
        Group(f"q{i}", tuple(f"d{i}-{j}" for j in range(yes + no)), (*[1.0] * yes, *[0.0] * no))
        for i, (yes, no) in enumerate(sizes)
        if yes + no
    ]


@given(SIZES, st.integers(0, 3))
def test_every_query_with_both_kinds_is_balanced(sizes: list[tuple[int, int]], seed: int) -> None:
    some = groups_of(sizes)
    if not (any(yes for yes, _ in sizes) and any(no for _, no in sizes)):
        with pytest.raises(DataError, match="no (non-)?relevant"):
            balanced_pairs(some, seed)
        return
    one_sided = not any(yes and no for yes, no in sizes)
    made = balanced_pairs(some, seed)
    assert made == balanced_pairs(some, seed) and set(made) <= set(pairs(some))
    used = Counter(made)
    for first, second in zip(made[::2], made[1::2]):
        assert (first[2] > 0) != (second[2] > 0)
    for i, (yes, no) in enumerate(sizes):
        mine = {pair: number for pair, number in used.items() if pair[0] == f"q{i}"}
        if yes and no:
            assert len(mine) == yes + no
            for side in (True, False):
                assert sum(number for pair, number in mine.items() if (pair[2] > 0) == side) == max(yes, no)
        elif yes + no and one_sided:
            assert len(mine) == yes + no


def test_repetitions_come_last_and_the_seed_decides_the_order() -> None:
    some = groups_of([(1, 3), (2, 2), (3, 1)])
    made = balanced_pairs(some, 0)
    first_uses = made[: 2 * (1 + 2 + 1)]
    assert len(set(first_uses)) == len(first_uses) and len(made) == 2 * (3 + 2 + 3)
    assert made != balanced_pairs(some, 1) and Counter(made).keys() == Counter(balanced_pairs(some, 1)).keys()


def test_a_pair_has_its_highest_label() -> None:
    made = balanced_pairs([Group("q", ("a", "b"), (0.0, 0.0)), Group("q", ("a",), (2.0,))], 0)
    assert sorted(made) == [("q", "a", 2.0), ("q", "b", 0.0)]


def test_pairs_without_a_partner_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    some = [*groups_of([(1, 1)]), Group("alone", ("x", "y"), (0.0, 0.0))]
    assert {pair[0] for pair in balanced_pairs(some, 0)} == {"q0"}
    assert "2 pairs are not used: their queries have non-relevant documents only" in caplog.text
