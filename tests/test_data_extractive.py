"""Thoughts by rule: they say what can be counted, nothing of the label, and are marked.

Whatever the texts, a thought holds no tag, so that the form around it stays whole.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from prorank.cli.command_line import app
from prorank.data.examples import Group
from prorank.data.extractive_thoughts import key_terms, label_extractive, think, window
from prorank.errors import DataError
from prorank.rewards.rules import parse

QUERY = "how do vaccines cause immunity in children?"


def test_thoughts_say_what_is_there_and_how_near():
    text = "Vaccination is old. A vaccine causes immunity in the child that has it, say doctors everywhere in the world."
    assert think(QUERY, text) == (
        'Key concepts of the query: "vaccines", "cause", "immunity" and "children". The document has "vaccines", "cause" and '
        '"immunity". It does not mention "children". They stand together, as in "Vaccination is old A vaccine causes immunity in '
        'the child that has it say …".'
    )
    assert think(QUERY, "Rain.").endswith("The document mentions none of them.")
    far = "immunity " + "x " * 30 + "vaccine"
    for part in ('"vaccines" and "immunity". It does not mention', "32 words apart"):
        assert part in think(QUERY, far)
    assert think("cats", "a cat sat").endswith('has all of them. It is in "a cat sat".')


def test_key_terms_leave_out_small_words_unless_there_are_no_others():
    assert key_terms("what is the capital of France") == ["capital", "France"]
    assert key_terms("who is who") == ["who", "is"]
    assert key_terms("???") == ["???"] and key_terms("什么是猫") == ["什么是猫"]


@given(stems=st.lists(st.sampled_from("abcx"), min_size=1, max_size=30))
def test_the_window_is_the_shortest(stems):
    wanted = set(stems) - {"x"}
    if wanted:
        begin, end = window(stems, wanted)
        spans = [(i, j) for i in range(len(stems)) for j in range(i + 1, len(stems) + 1) if wanted <= set(stems[i:j])]
        assert wanted <= set(stems[begin:end]) and end - begin == min(j - i for i, j in spans)


@given(query=st.text(min_size=1), document=st.text())
def test_thoughts_never_break_the_form(query, document):
    said = parse(f"<think>{think(query, document)}</think><answer>yes</answer>")
    assert said.in_form


def test_labelled_pairs_come_once_with_their_mark(tmp_path):
    groups = [Group("q one", ("a one", "b", ""), (2.0, 0.0, 1.0)), Group("q one", ("b", "a one"), (1.0, 0.0))]
    assert label_extractive(groups, tmp_path / "out").endswith("2 rule-based thoughts (2 yes, 0 no)")
    rows = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [(row["document"], row["answer"], row["label"], row["source"]) for row in rows] == [
        ("a one", "yes", 1, "extractive"), ("b", "yes", 1, "extractive"),
    ]  # fmt: skip
    with pytest.raises(DataError, match="no labelled pairs"):
        label_extractive([Group("q", ("",), (1.0,))], tmp_path / "none")


def test_the_command_reads_any_labelled_data(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"query": "cats", "pos": ["a cat"], "neg": ["a dog"]}\n')
    said = CliRunner().invoke(app, ["label", str(tmp_path / "in.jsonl"), str(tmp_path / "out"), "--extractive"])
    assert said.exit_code == 0 and "2 rule-based thoughts (1 yes, 1 no)" in said.stdout
