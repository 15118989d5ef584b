"""What models write in place of an order, and what is read from it.

Over thirty kinds of wrong forms; none loses or doubles a document.
"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prorank.rank.answer_parsing import parse_ranking
from prorank.rewards.list_rules import rank_r1_reward, rearank_reward

WHOLE = [1, 0, 2, 3]  # [2] > [1] > [3] > [4]
CASES = {
    # text: (places named, repairs)
    "[2] > [1] > [3] > [4]": (WHOLE, {}),
    "[2]>[1]>[3]>[4]": (WHOLE, {}),
    "[2], [1], [3], [4]": (WHOLE, {}),
    "[2]\n[1]\n[3]\n[4]": (WHOLE, {}),
    "[ 2 ] > [1] > [3 ] > [4]": (WHOLE, {}),
    "[B] > [A] > [C] > [D]": (WHOLE, {}),
    "[b] > [a] > [c] > [d]": (WHOLE, {}),
    "【2】>【1】>【3】>【4】": (WHOLE, {}),
    "[Document 2] > [Document 1] > [Doc 3] > [doc4]": (WHOLE, {}),
    "[#2] > [#1] > [#3] > [#4]": (WHOLE, {}),
    "The order is [2] > [1] > [3] > [4].": (WHOLE, {}),
    "1. [2]\n2. [1]\n3. [3]\n4. [4]": (WHOLE, {}),
    "**[2]** > **[1]** > **[3]** > **[4]**": (WHOLE, {}),
    "<think>[4] is good</think><answer>[2] > [1] > [3] > [4]</answer>": (WHOLE, {}),
    "<answer>[2] > [1] > [3] > [4]</answer> and [9]": (WHOLE, {}),
    "<think>a</think><think>[4]</think>[2] > [1] > [3] > [4]": (WHOLE, {}),
    "<answer>[2] > [1] > [3] > [4]</answer><answer>[4]</answer>": (WHOLE, {}),
    "<answer>[2] > [1] > [3] > [4]": (WHOLE, {"answer not closed": 1}),
    "<think>so [2] > [1] > [3] > [4]": (WHOLE, {"thought not closed": 1}),
    "2 > 1 > 3 > 4": (WHOLE, {"brackets missing": 1}),
    "2, 1, 3 and 4": (WHOLE, {"brackets missing": 1}),
    "B > A > C > D": (WHOLE, {"brackets missing": 1}),
    "Document 2, then document 1, 3, 4": (WHOLE, {"brackets missing": 1}),
    "1. Document 2\n2. Document 1\n3. Document 3\n4. Document 4": (WHOLE, {"brackets missing": 1}),
    "1) 2\n2) 1\n3) 3\n4) 4": (WHOLE, {"brackets missing": 1}),
    "2.\n1.\n3.\n4.": (WHOLE, {"brackets missing": 1}),
    "(2) (1) (3) (4)": (WHOLE, {"brackets missing": 1}),
    "[2] > [1]": ([1, 0], {"missing": 2}),
    "[2]": ([1], {"missing": 3}),
    "2": ([1], {"missing": 3, "brackets missing": 1}),
    "[2] > [2] > [1] > [3] > [4]": (WHOLE, {"repeated": 1}),
    "[2] > [1] > [2] > [1]": ([1, 0], {"repeated": 2, "missing": 2}),
    "[2] > [7] > [1] > [3] > [4]": (WHOLE, {"out of range": 1}),
    "[0] > [2] > [1] > [3] > [4]": (WHOLE, {"out of range": 1}),
    "[T] > [2] > [1] > [3] > [4]": (WHOLE, {"out of range": 1}),
    "[99999999999999999999] > [2] > [1] > [3] > [4]": (WHOLE, {"out of range": 1}),
    "[2] = [1] > [3] = [4]": (WHOLE, {}),
    "[2] > [1] > [3] > [4] > ": (WHOLE, {}),
    "[2] > [1] > [3] > [4": ([1, 0, 2], {"missing": 1}),
    "": ([], {"missing": 4}),
    "I cannot rank these.": ([], {"missing": 4}),
    "A good document is missing.": ([], {"missing": 4}),
    "The best of a bad lot is 3": ([2], {"missing": 3, "brackets missing": 1}),
    "<think></think>": ([], {"missing": 4}),
    "<answer></answer>": ([], {"missing": 4}),
    "[] > []": ([], {"missing": 4}),
    "The best has a score of 0.93.": ([], {"missing": 4}),
    "[x] > [y]": ([], {"missing": 4}),
}


@pytest.mark.parametrize("text", CASES)
def test_what_models_write_is_read_as_documented(text):
    said = parse_ranking(text, 4)
    named, repairs = CASES[text]
    assert (said.named, said.repairs) == (named, repairs)
    assert said.order[: len(named)] == named and sorted(said.order) == [0, 1, 2, 3]
    assert said.best == (named[0] if named else None)


PIECES = ["[1]", "[2]", "[9]", "[A]", " > ", "3", "B", "<think>", "</think>", "<answer>", "</answer>", "\n"]
LABELLED = st.lists(st.sampled_from(PIECES))


@given(text=st.one_of(st.text(), LABELLED.map("".join)), count=st.integers(0, 20))
def test_nothing_is_lost_or_doubled(text, count):
    said = parse_ranking(text, count)
    assert sorted(said.order) == list(range(count)) and said.order[: len(said.named)] == said.named
    assert said.repairs.get("missing", 0) == count - len(said.named)


def test_rank_r1_pays_for_form_and_label_alone():
    good = "<think>b</think> <answer> [3] </answer>"
    bad = ["<think>b</think><answer>3</answer>", "<answer>[3]</answer>", "<think>b<answer>[3]</answer>"]
    assert rank_r1_reward([good, good, *bad, f"Well. {good}!"], ["[3]", "[2]", "[3]", "[3]", "[3]", "[3]"]) == [1, 0, 0, 0, 0, 1]


def test_rearank_pays_for_what_the_order_gained():
    shown = [0.0, 1.0, 0.0]

    def paid(answer, grades=shown):
        return rearank_reward([f"<think>t</think><answer>{answer}</answer>"], [grades])[0]

    assert paid("[2] > [1] > [3]") == pytest.approx(1.0)
    assert paid("[1] > [2] > [3]") == pytest.approx(0.2)
    assert paid("[1] > [3] > [2]") < 0.2
    assert paid("[2]") == pytest.approx(0.9) and paid("") == pytest.approx(0.1)
    assert rearank_reward(["[2] > [1] > [3]"], [shown]) == [0.0]
    best = [1.0, 0.0, 0.0]
    assert paid("[1] > [2] > [3]", best) == pytest.approx(1.0) and paid("[2] > [1] > [3]", best) == pytest.approx(0.2)


@pytest.mark.parametrize(("gain", "worth"), [("exponential", 7), ("linear", 3)])
def test_rearank_has_gains_of_its_own_unless_told(gain, worth):
    """REARANK counts 2^grade - 1; with gain linear the reward is in the measure that evaluation prints."""
    grades, written = [0.0, 1.0, 3.0], "<think>t</think><answer>[2] > [3] > [1]</answer>"
    second, third = 1 / math.log2(3), 1 / math.log2(4)
    best = worth + second
    first, now = (second + worth * third) / best, (1 + worth * second) / best
    paid = rearank_reward([written], [grades], gain=gain)[0]
    assert paid == pytest.approx(0.2 + 0.8 * (now - first) / (1 - first))
    assert (paid == rearank_reward([written], [grades])[0]) == (gain == "exponential")


@given(text=st.text(), grades=st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_rearank_is_bounded_from_above(text, grades):
    assert rearank_reward([f"<think></think><answer>{text}</answer>"], [grades])[0] <= 1.0 + 1e-9
