"""The experiments on thoughts: pairs that share no text, and scores behind any thought."""

import json

import numpy as np
import pytest
import torch

from benchmarks.experiments import thought_forms, thought_pairs
from benchmarks.experiments.thought_forms import (
    Form,
    Questions,
    is_verbatim,
    names_its_terms,
    pair_figures,
    scores_behind,
    shuffled,
)
from prorank.checkpoints.loading import load_model
from prorank.checkpoints.resolve import resolve
from prorank.data.examples import Group
from prorank.data.quoting_thoughts import quoting_thought
from prorank.prompts.prompt import Prompt
from prorank.reranker import Reranker
from tests.tiny import save_tiny, write_jsonl


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("thinking"), "llama")
    Prompt.preset("rerank-r0", max_length=300, system="Judge.", max_think_tokens=6).save(folder)
    return folder


def tiny_model(folder):
    return load_model(resolve(folder), torch.float32, torch.device("cpu"))


def test_pairs_are_balanced_and_share_no_text():
    groups = [Group(f"q {i}", tuple(f"d {i} {j}" for j in range(5)), (1.0, 1.0, 1.0, 0.0, 0.0)) for i in range(4)]
    chosen = thought_pairs.balanced([*groups, Group("none", ("x",), (0.0,))], 2, seed=0)
    assert len(chosen) == 4 and all(group.labels == (1.0, 1.0, 0.0, 0.0) for group in chosen)
    taken = thought_pairs.heads(chosen, 10)
    assert [group.labels for group in taken] == [(1.0, 1.0, 0.0, 0.0)] * 2 + [(1.0, 0.0)]
    assert thought_pairs.without_texts(groups, [Group("Q 0!", ("other",), (1.0,)), Group("new", ("D 1 3",), (1.0,))]) == groups[2:]


def test_every_thought_stands_at_another_pair():
    texts = [str(i) for i in range(9)]
    mixed = shuffled(texts)
    assert sorted(mixed) == texts and all(a != b for a, b in zip(mixed, texts))


def test_a_thought_is_true_if_its_quotation_and_terms_are():
    query, document = "old bread", "We saw it. The old garden is near the castle."
    thought = quoting_thought(query, "The old garden is near")
    assert is_verbatim(document, thought) and names_its_terms(query, thought)
    assert is_verbatim(document, quoting_thought(query, f"{document} " + "more " * 20)) is False
    other = thought.replace("garden", "bread")
    assert not is_verbatim(document, other) and not names_its_terms(query, other)
    assert not names_its_terms(query, thought.replace('It has "old", not "bread"', 'It has "bread", not "old"'))
    assert not any(is_verbatim(document, text) or names_its_terms(query, text) for text in ("nothing", ""))


def test_balanced_accuracy_weighs_both_labels_alike():
    figures = pair_figures(Form(np.array([1.0, -1.0, -2.0, -3.0, 3.0]), 0, 0), np.array([1, 1, 0, 0, 0]))
    assert figures["accuracy"] == pytest.approx((0.5 + 2 / 3) / 2)
    assert figures["auc"] == pytest.approx((2 + 2) / 6)


def test_scores_behind_a_thought_are_those_of_the_whole_text(folder):
    reranker = Reranker(folder, device="cpu", dtype="fp32", max_think_tokens=200)
    questions = Questions("toy", ["bread", "castle"], [["the old bread", "a river"], ["a castle"]], [[1, 0], [1]])
    empty = Reranker(folder, device="cpu", dtype="fp32", think=False).score(questions.pairs)
    np.testing.assert_allclose(scores_behind(reranker.strategy, questions, [""] * 3), empty, atol=1e-4)
    thoughts = ["it is bread", "a river", "the castle"]
    encoder, model = reranker.strategy.encoder, tiny_model(folder)
    for score, (query, text), thought in zip(scores_behind(reranker.strategy, questions, thoughts), questions.pairs, thoughts):
        ids = encoder.encode(query, text).ids + encoder.completion(thought, 1)[0][: -len(encoder.end) - 1]
        no, yes = model(torch.tensor([ids])).logits[0, -1, list(encoder.answer_ids)].tolist()
        assert score == pytest.approx(yes - no, abs=1e-3)


def test_the_table_is_printed(folder, tmp_path, monkeypatch, capsys):
    texts = {"bread": 1, "horse": 0}
    pairs = [{"query": "old bread", "document": f"the {word} is old. it is near", "label": n} for word, n in texts.items()]
    data = write_jsonl(tmp_path / "pairs.jsonl", pairs)
    monkeypatch.setattr(thought_forms, "DEFAULT", str(folder))
    monkeypatch.setattr("sys.argv", ["x", "--models", str(folder), "--data", str(data)])
    thought_forms.main()
    out = capsys.readouterr().out
    table = json.loads(out.splitlines()[-1])["thought_forms"]
    assert set(table[f"{folder}, pairs"]) == set(thought_forms.FORMS) and "verbatim" in out
    assert table[f"{folder}, pairs"]["empty"]["tokens"] == 0 < table[f"{folder}, pairs"]["by rule"]["tokens"]
