"""Rule rewards: the values of the specification, every form that models write, and TRL's calling convention.

Hard fact: tokens are counted by a toy counter (one a word) here; the real tokenizer counts in the slow tests.
"""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from prorank.cli import app
from prorank.errors import ConfigError, DataError
from prorank.rewards import PARTS, RuleReward, Rules, judge_file, parse, rules_of
from prorank.settings import read_values


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
    with pytest.raises(ValueError):
        REWARD(completions=texts, label=[1])


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
    arguments = ["reward", "--config", str(tmp_path / "c.yaml"), "-m", str(tiny_llama_dir), str(tmp_path / "in.jsonl")]
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
