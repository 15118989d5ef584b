"""Rule rewards: the values of the specification, every form that models write, and TRL's calling convention.

Tokens are counted by a toy counter (one a word) here; the real tokenizer counts in the slow tests.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from prorank.cli.command_line import app
from prorank.errors import ConfigError, DataError
from prorank.rewards.list_rules import rank_r1_reward, rearank_reward
from prorank.rewards.rules import PARTS, RuleReward, Rules, judge_file, parse, rules_of
from prorank.utils.config_files import read_values


def words(text: str) -> int:
    return len(text.split())


def thought(count: int) -> str:
    return "<think>" + " ".join(["word"] * count) + "</think>"


REWARD = RuleReward(Rules(), words)
YES = "<answer>yes</answer>"


@pytest.mark.parametrize(
    "text, label, finished, want",
    [
        (thought(100) + YES, 1, True, 1.2),
        (thought(100) + YES, 0, True, 0.7),
        (thought(100) + YES + " This is extra text!", 1, True, 1.0),
        (thought(10) + YES, 1, True, 0.9),
        ("no tags at all", 1, True, -0.8),
        (thought(400) + YES, 1, True, 0.85),  # .05 for every 200 tokens above 200
        (thought(300) + YES, 1, True, 0.875),
        (thought(100) + YES, 1, False, 0.7),
        (thought(100) + "\n" + YES + "\n", 1, True, 1.2),
        (thought(64) + YES, 1, True, 1.2),  # both ends of the bonus count
        (thought(63) + YES, 1, True, 0.9),
        (thought(200) + YES, 1, True, 1.2),
        (thought(201) + YES, 1, True, 0.89975),
        ("<think></think>" + YES, 1, True, 0.9),
        (YES, 1, True, 0.4),  # no thought: the tags are wrong
        (thought(100) + YES + "<answer>no</answer>", 1, True, 1.0),  # a hedge
        (thought(100) + YES + "<answer>no</answer>", 0, True, 0.5),
        (thought(100) + "<answer><answer>yes</answer></answer>", 1, True, -0.4),
        (thought(100) + "<answer>Yes.</answer>", 1, True, 0.3),
        (thought(100) + "<answer> yes </answer>", 1, True, 0.3),
        (thought(100) + "<answer>yes", 1, True, -0.2),  # an answer was begun
        (YES + thought(100), 1, True, 0.2),  # answered first: what follows is extra text
        ("<think>" + "word " * 100 + YES + "</think>", 1, True, -0.5),
        ("<think>so <answer>no</answer> it is</think>" + YES, 1, True, 0.4),
        ("<think>" + "word " * 100 + YES, 1, True, 0.4),  # the thought never ends
        ("<think>a</think><think>b</think>" + YES, 1, True, 0.4),
        ("<think>a<think>b</think>" + YES, 1, True, 0.4),
        ("", 0, False, -1.3),
    ],
)
def test_rewards_of_the_specification(text, label, finished, want):
    verdict = REWARD.judge(text, label, finished)
    assert verdict.reward == pytest.approx(want, abs=1e-9)
    assert sum(verdict.parts.values()) == pytest.approx(want, abs=1e-9)


def test_a_thought_that_the_prompt_opened_counts_as_opened():
    rest = thought(100).removeprefix("<think>") + YES
    assert REWARD.judge(rest, 1, opened=True) == REWARD.judge(thought(100) + YES, 1)
    assert REWARD.judge("\n" + thought(100) + YES, 1, opened=True).reward == 1.2  # opened twice: once too often to punish
    assert REWARD.judge(rest, 1).reward == 0.4
    assert RuleReward(Rules(), words, opened=True).judge(rest, 1).reward == 1.2


PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "yes", "no", " ", "word", "\n", "<", "é", "\x00"])
)


@given(text=st.text() | PIECES.map("".join), label=st.integers(0, 1), finished=st.booleans(), opened=st.booleans())
@example(text="</think><answer>", label=0, finished=True, opened=True)
def test_any_text_has_a_bounded_reward(text, label, finished, opened):
    verdict = REWARD.judge(text, label, finished, opened)
    assert set(verdict.parts) == set(PARTS)
    assert verdict.reward <= 1.2 and verdict.parts["length_penalty"] <= 0
    assert (verdict.answer is not None) == (verdict.parts["format_weight"] > 0)
    if verdict.reward == 1.2:
        said = parse(text, opened)
        assert said.in_form and not said.extra and said.answer == ("no", "yes")[label]


@given(count=st.integers(0, 1000))
def test_longer_than_allowed_never_pays(count):
    verdict = REWARD.judge(thought(count) + YES, 1)
    assert verdict.think_tokens == count
    assert verdict.reward == pytest.approx(0.9 + 0.3 * (64 <= count <= 200) - 0.05 * max(0, count - 200) / 200)


def test_trl_calls_it_as_it_stands():
    texts = [thought(100) + YES, [{"role": "assistant", "content": "nothing"}]]
    ids = [[5, 2], [5, 6]]
    whole = RuleReward(Rules(), words, eos=2)
    both = whole(prompts=["p", "p"], completions=texts, completion_ids=ids, label=[1, 0], trainer_state=None)
    assert both == [1.2, -1.3]
    parts = [RuleReward(Rules(), words, only=[name], eos=2) for name in PARTS]
    rows = [part(completions=texts, completion_ids=ids, label=[1, 0]) for part in parts]
    assert [sum(row) for row in zip(*rows)] == pytest.approx(both)
    assert [part.__name__ for part in parts] == list(PARTS)
    with pytest.raises(DataError, match="2 completions but 1 rows of the column 'label'"):
        REWARD(completions=texts, label=[1])
    with pytest.raises(DataError, match="the column 'label' is missing"):
        REWARD(completions=texts)


GOOD = thought(100) + YES


@pytest.mark.parametrize("label", [1, 1.0, np.int64(1), np.float32(1), np.array(1), torch.tensor(1)])
def test_labels_are_read_as_files_have_them(label):
    assert REWARD(completions=[GOOD] * 2, label=[0, label]) == [0.7, 1.2]
    assert REWARD(completions=[GOOD], label=np.array([label])) == REWARD(completions=[GOOD], label=(label,)) == [1.2]


@pytest.mark.parametrize(
    "label, message",
    [
        (-1, "row 1: 'label' must be a finite number >= 0, got -1"),
        (2, "row 1: 'label' must be 0 or 1, got 2"),
        (0.5, "row 1: 'label' must be 0 or 1, got 0.5"),
        ("1", "row 1: 'label' must be a finite number >= 0, got \"1\""),
        ("yes", "row 1: 'label' must be a finite number >= 0, got \"yes\""),
        (None, "row 1: 'label' must be a finite number >= 0, got nothing"),
        (True, "row 1: 'label' must be a finite number >= 0, got true"),
        (float("nan"), "row 1: 'label' must be a finite number >= 0, got NaN"),
        (np.int64(-1), "got -1"),
        ([1], "row 1: 'label' must be a finite number >= 0, got \"list [1]\""),
        (np.array([1, 0]), "row 1: 'label' must be"),
        (object, "row 1: 'label' must be"),
    ],
)
def test_a_label_that_is_none_names_row_and_value(label, message, tmp_path):
    """In the words of the file's reader, which refuses the same."""
    with pytest.raises(DataError) as caught:
        REWARD(completions=[GOOD] * 2, label=[1, label])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError):
        REWARD.judge(GOOD, label)
    if isinstance(label, (int, float, str, list, type(None))) and not isinstance(label, np.generic):
        (tmp_path / "in.jsonl").write_text(json.dumps({"completion": GOOD, "label": label}) + "\n")
        with pytest.raises(DataError):
            list(judge_file(tmp_path / "in.jsonl", REWARD))


def said(content) -> list[dict]:
    return [{"role": "user", "content": "?"}, {"role": "assistant", "content": content}]


def part(text: str) -> dict:
    return {"type": "text", "text": text}


NO_TEXT = ["", None, [], said(None), said(""), said([]), [{"role": "assistant", "tool_calls": []}], said([{"type": "image_url"}])]
PARTS_OF_ONE = [part(GOOD[:50]), {"type": "image_url"}, part(GOOD[50:])]
SAME = [GOOD, said(GOOD), said([part(GOOD)]), said(PARTS_OF_ONE), said([GOOD]), said(GOOD)[1]]
BROKEN = [3, b"text", [3], said(3), said(b"text"), said([3]), said("\ud83e"), "\ud83e", [["text"]]]
ORDER = "<think>a</think><answer>[2] > [1]</answer>"
REWARDS = {
    "rerank_r0": lambda some: REWARD(completions=some, label=[1] * len(some)),
    "rank-r1": lambda some: rank_r1_reward(completions=some, label=["yes"] * len(some), prompts=some),
    "rearank": lambda some: rearank_reward(completions=some, grades=[[0, 1]] * len(some), prompts=some),
}


@pytest.mark.parametrize("name", list(REWARDS))
def test_completions_in_every_form_that_trl_has(name):
    """No text earns what no answer earns, and messages what their text earns."""
    reward = REWARDS[name]
    assert reward(NO_TEXT) == reward(["no tags at all"]) * len(NO_TEXT)
    assert reward(SAME) == reward([GOOD]) * len(SAME) != reward([""]) * len(SAME)


@pytest.mark.parametrize("name", list(REWARDS))
@pytest.mark.parametrize("broken", BROKEN, ids=repr)
def test_what_is_no_completion_is_named(name, broken):
    with pytest.raises(DataError, match="row 1: "):
        REWARDS[name]([GOOD, broken])


def test_the_column_finished_holds_true_and_false():
    assert REWARD(completions=[GOOD] * 2, label=[1, 1], finished=np.array([True, False])) == [1.2, 0.7]
    assert REWARD(completions=[], label=[]) == []
    for wrong in (["yes", True], [None, True], [1, 0]):
        with pytest.raises(DataError, match="row 0: 'finished' must be true or false"):
            REWARD(completions=[GOOD] * 2, label=[1, 1], finished=wrong)


@pytest.mark.parametrize("label", [None, 3, "", " ", True, ["[3]"], float("nan")])
def test_labels_of_lists_are_texts(label):
    """A label that is missing must not be what a completion without an answer says."""
    with pytest.raises(DataError, match="row 1: 'label' must be the label of a document as a text"):
        rank_r1_reward(["nothing", "nothing"], label=["[3]", label])
    for columns in ({}, {"label": ["[3]"]}, {"label": "[3]"}):
        with pytest.raises(DataError, match="column 'label'"):
            rank_r1_reward(["nothing", "nothing"], **columns)


@pytest.mark.parametrize("grades", [None, 1, [], "10", [1, None], [1, float("nan")], [1, -1], ["1", 0], [True, 0], [[1], [0]]])
def test_grades_are_numbers(grades):
    assert rearank_reward([ORDER] * 2, grades=np.array([[0, 1], [1, 0]]))[0] == rearank_reward([ORDER], grades=[(0.0, 1.0)])[0]
    with pytest.raises(DataError, match="row 1: 'grades' must be"):
        rearank_reward([ORDER] * 2, grades=[[0, 1], grades])
    for columns in ({}, {"grades": [[0, 1]]}):
        with pytest.raises(DataError, match="column 'grades'"):
            rearank_reward([ORDER] * 2, **columns)


@pytest.mark.parametrize("key", list(PARTS))
def test_every_weight_moves_its_part_alone(key):
    # One completion for each part to show in.
    texts = {
        "length_penalty": thought(400) + YES, "extra_text_penalty": thought(100) + YES + "!", "invalid_tag_penalty": "none",
        "missing_answer_penalty": "none", "missing_eos_penalty": thought(100) + YES,
    }  # fmt: skip
    text, finished = texts.get(key, thought(100) + YES), key != "missing_eos_penalty"
    before = REWARD.judge(text, 1, finished).parts
    values = {"reward": {key: 2 * getattr(Rules(), key)}} if finished else {key: 1.0}
    after = RuleReward(rules_of(values), words).judge(text, 1, finished).parts
    assert before[key] and after == before | {key: pytest.approx(2 * before[key])}


@pytest.mark.parametrize(
    "values, message",
    [
        ({"reward": {"think_bonis": 1}}, "unknown key 'reward.think_bonis'; did you mean 'think_bonus'"),
        ({"reward": {"acc_weight": "much"}}, "key 'reward.acc_weight' is 'much'; expected float"),
        ({"reward": {"acc_weight": -1}}, "'reward.acc_weight' must not be negative"),
        ({"reward": {"min_think_tokens": 300}}, "'reward.max_think_tokens' must be at least 1 and not below"),
        ({"reward": [1]}, "key 'reward' must be a mapping"),
    ],
)
def test_bad_rules_name_the_key(values, message):
    with pytest.raises(ConfigError) as caught:
        rules_of(values)
    assert message in str(caught.value)


STAGE_A = "missing_eos_penalty: 0.25\nlearning_rate: 6e-6\nreward:\n  format_weight: 0.4\n  length_penalty: 5e-2\n"


def test_the_command_shows_the_parts(tmp_path: Path, tiny_llama_dir):
    rows = [
        {"completion": thought(3) + YES, "label": 1, "finished": False},
        {"completion": "a</think>" + YES, "label": 0, "prompt_opens_think": True},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "c.yaml").write_text(STAGE_A)
    assert read_values(tmp_path / "c.yaml")["learning_rate"] == "6e-6"
    arguments = ["score-completions", "--config", str(tmp_path / "c.yaml"), "-m", str(tiny_llama_dir), str(tmp_path / "in.jsonl")]
    said = CliRunner().invoke(app, arguments, catch_exceptions=False)
    first, second = map(json.loads, said.stdout.splitlines())
    assert first["answer"] == "yes" and first["parts"]["missing_eos_penalty"] == -0.25 and first["think_tokens"] == 9
    assert first["reward"] == pytest.approx(0.65) and second["reward"] == pytest.approx(0.4)
    assert CliRunner().invoke(app, [*arguments, str(tmp_path / "out.jsonl")], catch_exceptions=False).stdout == ""
    assert (tmp_path / "out.jsonl").read_text() == said.stdout


@pytest.mark.parametrize(
    "row, message",
    [
        ({"completion": "x", "label": 2}, ":1: 'label' must be 0 or 1, got 2"),
        ({"completion": "x"}, ":1: 'label' must be a finite number >= 0, got nothing"),
        ({"completion": 3, "label": 1}, ":1: 'completion' must be a string"),
        ({"completion": "x", "label": 1, "finished": "yes"}, ":1: 'finished' must be true or false"),
    ],
)
def test_bad_completions_name_the_line(tmp_path, row, message):
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        list(judge_file(tmp_path / "in.jsonl", REWARD))
    assert message in str(caught.value)
