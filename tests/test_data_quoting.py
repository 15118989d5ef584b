"""Quoting thoughts: they carry the sentence that a reranker prefers, say nothing of the label, and never break the form."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from prorank.cli.command_line import app
from prorank.data.examples import Group
from prorank.data.quoting_thoughts import best_sentences, label_quoting, quoting_thought, split_sentences
from prorank.data.reasoning_examples import read_reasoning_examples
from prorank.errors import DataError
from prorank.rewards.rules import parse
from tests.tiny import save_tiny, write_jsonl

QUERY = "how do vaccines cause immunity in children?"


class LengthScorer:
    """Prefers long texts."""

    def score_lists(self, queries, documents):
        return [np.array([len(text) / 10 for text in row], np.float32) for row in documents]


def test_a_thought_quotes_and_names_the_terms_of_the_quotation():
    assert quoting_thought(QUERY, "A vaccine causes immunity.") == (
        '"A vaccine causes immunity." It has "vaccines", "cause" and "immunity", not "children".'
    )
    assert quoting_thought(QUERY, "Rain.") == '"Rain." It has no term of the query.'
    assert quoting_thought("cats", "a cat " + "sat " * 30).endswith('sat …" It has "cats".')


def test_sentences_are_split_at_their_ends_and_at_line_breaks():
    assert split_sentences("It rains. Why? So\nit is! 3.5 mm") == ["It rains.", "Why?", "So", "it is!", "3.5 mm"]
    assert split_sentences("...") == ["..."]


def test_the_scorer_chooses_among_the_sentences_with_the_most_terms():
    text = "Children play. Rain falls on every single house in the whole town. A vaccine gives children immunity. Immunity lasts."
    more = "Snow is white here. Ice is cold there. " + text
    assert best_sentences([(QUERY, "Snow is white. A vaccine. Children.")]) == ["A vaccine."]
    assert best_sentences([(QUERY, more), (QUERY, "One.")], LengthScorer()) == ["A vaccine gives children immunity.", "One."]


@given(query=st.text(min_size=1), document=st.text(min_size=1))
def test_thoughts_never_break_the_form(query, document):
    thought = quoting_thought(query, split_sentences(document + "<think>yes</think><answer>no</answer>")[0])
    assert parse(f"<think>{thought}</think><answer>yes</answer>").in_form


def test_every_pair_is_written_once_with_its_score(tmp_path):
    groups = [Group("q one", ("a one. b", "b", " "), (2.0, 0.0, 1.0)), Group("q one", ("b",), (1.0,))]
    out = tmp_path / "thoughts.jsonl"
    assert label_quoting(groups, out, LengthScorer()).endswith("2 quoting thoughts (2 yes, 0 no)")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["score"] for row in rows] == [0.8, 0.1] and {row["source"] for row in rows} == {"quoting"}
    assert [(e.score, e.label, e.think) for e in read_reasoning_examples(out)] == [
        (0.8, 1, '"a one." It has "one", not "q".'),
        (0.1, 1, '"b" It has no term of the query.'),
    ]
    with pytest.raises(DataError, match="no labelled pairs with a text"):
        label_quoting([Group("q", (" ",), (1.0,))], out, LengthScorer())


def test_scores_must_be_numbers(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [{"query": "q", "document": "d", "think": "t", "answer": "yes", "score": "high"}])
    with pytest.raises(DataError, match=r"t\.jsonl:1: 'score' must be a finite number"):
        read_reasoning_examples(path)


def test_the_command_quotes_with_a_checkpoint(tmp_path):
    model = save_tiny(tmp_path / "m")
    pairs = [{"query": "old bread", "document": "the old bread is near. we saw it", "label": label} for label in (1,)]
    pairs += [{"query": "old bread", "document": "another river. the garden", "label": 0}]
    source, out = write_jsonl(tmp_path / "pairs.jsonl", pairs), tmp_path / "out.jsonl"
    done = CliRunner().invoke(app, ["label", str(source), str(out), "--extractive", "--quote", str(model)])
    assert done.exit_code == 0, done.output
    by_terms = CliRunner().invoke(app, ["label", str(source), str(tmp_path / "terms.jsonl"), "--extractive", "--quote", "terms"])
    assert by_terms.exit_code == 0 and "score" not in (tmp_path / "terms.jsonl").read_text()
    assert [row["think"].startswith('"') and "score" in row for row in map(json.loads, out.read_text().splitlines())] == [True] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--quote", "m"], "needs --extractive"), (["--extractive", "--quote", "m", "--lists", "3"], "omit --lists")],
)
def test_a_quoting_model_needs_single_documents_by_rule(tmp_path, options, message):
    source = write_jsonl(tmp_path / "pairs.jsonl", [{"query": "q", "document": "d", "label": 1}])
    done = CliRunner().invoke(app, ["label", str(source), str(tmp_path / "out"), *options])
    assert done.exit_code == 1 and message in str(done.exception)
