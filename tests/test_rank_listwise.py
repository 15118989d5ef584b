"""Prompts of several documents, and rankings by them: nothing is lost, a judge that knows finds the order, turns average.

The label logits are held against the model's own forward over the same ids.
"""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.cli.command_line import app
from prorank.errors import ConfigError, PromptError
from prorank.prompts.list_encoder import MAX_DOCUMENTS, fair_shares
from prorank.prompts.prompt import Prompt
from prorank.rank.methods import read_method
from prorank.reranker import Reranker
from tests.tiny import WORDS, byte_tokenizer

TEXTS = st.lists(st.text(max_size=60), min_size=1, max_size=MAX_DOCUMENTS)


def bound_of(style="smollm", **changes):
    return Prompt.preset("setwise", **changes).bind_list(byte_tokenizer(style))


@pytest.mark.parametrize("style", ["smollm", "qwen2", "plain", "r1"])
def test_all_documents_are_shown_under_their_labels(style):
    bound = bound_of(style)
    found = bound.encode("hot drinks", ["the coffee", "the bread", "the violin"])
    text = bound.tokenizer.decode(found.ids)
    for label, document in zip(bound.labels, ("the coffee", "the bread", "the violin")):
        assert f"[{label}] {document}\n" in text
    assert text.count("hot drinks") == 2 and found.document_cuts == [0, 0, 0] and found.query_cut == 0
    assert len(set(bound.answer_ids)) == MAX_DOCUMENTS and bound.tokenizer.decode(bound.answer_ids[:2]) == "".join(bound.labels[:2])


def test_the_query_can_come_again_behind_each_document():
    form = "[{label}] {document}{close}\nQuery: {query}\nLabel [{label}]"
    bound = bound_of(document_format=form, system="", user="{documents}\nFor {query}:", query_share=0.5)
    found = bound.encode("hot drinks", ["the coffee", "the bread"])
    block = "[{}] the {}<|im_end|>\nQuery: hot drinks\nLabel [{}]\n"
    shown = block.format("A", "coffee", "A") + block.format("B", "bread", "B") + "For hot drinks:"
    assert shown in bound.render("hot drinks", ["the coffee", "the bread"]) == bound.tokenizer.decode(found.ids)
    long = bound_of(document_format=form, max_length=900, query_share=0.5).encode("q" * 5000, ["a" * 3000, "b" * 3000])
    assert len(long.ids) <= 900 and long.query_cut > 0 and all(long.document_cuts)


@settings(max_examples=40)
@given(query=st.text(min_size=1, max_size=80), documents=TEXTS, length=st.integers(420, 900))
def test_prompts_keep_their_length_and_count_every_cut(query, documents, length):
    bound = bound_of(max_length=length)
    found = bound.encode(query, documents)
    whole = bound_of(max_length=100_000).encode(query, documents)
    assert len(found.ids) <= length and not any(whole.document_cuts)
    lost = sum(found.document_cuts) + found.query_cut * bound.repeats
    assert len(whole.ids) - len(found.ids) == lost or found.query_cut
    assert found.ids[-len(bound._literal[len(bound.segments) - 1]) :] == bound._literal[len(bound.segments) - 1]


@given(lengths=st.lists(st.integers(0, 300), min_size=1, max_size=MAX_DOCUMENTS), room=st.integers(20, 2000))
def test_shares_are_fair(lengths, room):
    shares = fair_shares(lengths, room)
    assert all(0 <= share <= length for share, length in zip(shares, lengths))
    assert sum(shares) == min(room, sum(lengths)) or sum(shares) <= room
    cut = [share for share, length in zip(shares, lengths) if share < length]
    if cut:  # none that was cut has less than another, and no room was left over
        assert sum(shares) == room and max(shares) - min(cut) <= 1


def test_instructions_and_special_tokens():
    bound = bound_of(user="{instruction}Query: {query}\n{documents}\nBest?", system="", instruction_format="Note: {instruction}\n")
    told = bound.tokenizer.decode(bound.encode("tea", ["a<|im_end|>b"], "be strict").ids)
    assert "Note: be strict\nQuery: tea" in told and told.count("a<|im_end|>b") == 1
    end = bound.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert bound.encode("tea", ["a<|im_end|>b"]).ids.count(end) == bound.encode("tea", ["ab"]).ids.count(end)


@pytest.mark.parametrize(("changes", "message"), [
    ({"user": "{query} {document}"}, "must hold {documents}, exactly once"),
    ({"user": "{documents}"}, "must hold {query}"),
    ({"document_format": "{document}"}, "must hold {label} exactly once"),
    ({"document_format": "{document} [{label}]"}, "must name {label} before {document}"),
    ({"max_length": 40}, "tokens for 2 documents; raise it or show fewer"),
])  # fmt: skip
def test_prompts_that_cannot_work_are_refused(changes, message):
    with pytest.raises(PromptError, match=message):
        bound_of(**changes).encode("tea", ["a", "b"])


def test_kinds_are_not_mixed_up():
    with pytest.raises(PromptError, match="shows several documents at once"):
        Prompt.preset("setwise").bind(byte_tokenizer())
    with pytest.raises(PromptError, match="list methods need a prompt of kind setwise"):
        Prompt.preset("prorank").bind_list(byte_tokenizer())
    with pytest.raises(PromptError, match="is for prompts of kind setwise"):
        Prompt(user="{query} {document} {documents}")
    with pytest.raises(PromptError, match="shows 1 to 20 documents, not 21"):
        bound_of().encode("tea", ["a"] * 21)


def documents_of(count):
    return [f"the {WORDS[i % len(WORDS)]} is near {i}" for i in range(count)]


def reranker_of(folder, method, **options):
    return Reranker(folder, dtype="fp32", method=method, prompt=Prompt.preset("setwise", max_length=1500), **options)


@pytest.mark.parametrize("kind", ["tiny_llama_dir", "tiny_qwen2_dir"])
def test_log_probs_are_those_of_the_model(kind, request):
    folder = request.getfixturevalue(kind)
    reranker = reranker_of(folder, "listwise")
    resolved = resolve(folder)
    model = load_model(resolved, torch.float32, torch.device("cpu"))
    bound = Prompt.preset("setwise", max_length=1500).bind_list(load_tokenizer(resolved))
    shown = [("drinks", documents_of(7)), ("music", documents_of(3))]
    for (query, some), ours in zip(shown, reranker.strategy.values(shown)):
        ids = torch.tensor([bound.encode(query, some).ids])
        theirs = model(input_ids=ids).logits[0, -1, bound.answer_ids[: len(some)]].log_softmax(-1)
        assert np.allclose(ours, theirs.detach().numpy(), atol=1e-4)


def test_turns_are_averaged(tiny_llama_dir):
    once, thrice = (reranker_of(tiny_llama_dir, "setwise", permutations=n).strategy for n in (1, 3))
    some = documents_of(6)
    by_hand = np.zeros(6)
    for shift in (0, 2, 4):
        row = once.values([("drinks", some[shift:] + some[:shift])])[0]
        by_hand[[(i + shift) % 6 for i in range(6)]] += row / 3
    assert np.allclose(thrice.values([("drinks", some)])[0], by_hand, atol=1e-5)


METHODS = {
    "setwise": [{}, {"branching": 3, "k": 4}, {"sort": "bubblesort", "branching": 4, "k": 3}, {"permutations": 2}],
    "listwise": [{}, {"window": 5, "step": 2}, {"window": 4, "step": 2, "passes": 2}],
}


@pytest.mark.parametrize(("method", "options"), [(name, some) for name, every in METHODS.items() for some in every])
def test_rankings_lose_nothing_and_count_their_cost(method, options, tiny_llama_dir):
    reranker = reranker_of(tiny_llama_dir, method, **options)
    lists = [documents_of(23), documents_of(1), [], documents_of(8)]
    found = reranker.rank_many(["a", "b", "c", "d"], lists)
    for hits, some in zip(found, lists):
        assert sorted(hit.index for hit in hits) == list(range(len(some)))
        assert [hit.score for hit in hits] == [-float(i) for i in range(len(some))]
        assert all(hit.document == some[hit.index] for hit in hits)
    assert found[3] == reranker.rank("d", lists[3])  # other queries do not matter
    cost = reranker.cost
    assert cost.calls > 0 and cost.prompt_tokens > 100 * cost.calls and cost.generated_tokens == 0 and cost.seconds > 0
    assert len(reranker.rank("a", lists[0], top_k=3)) == 3


def test_one_window_is_in_the_order_of_its_labels(tiny_llama_dir):
    reranker = reranker_of(tiny_llama_dir, "listwise")
    some = documents_of(9)
    order = np.argsort(-reranker.strategy.values([("drinks", some)])[0], kind="stable")
    assert [hit.index for hit in reranker.rank("drinks", some)] == order.tolist() and reranker.cost.calls == 2
    best = reranker_of(tiny_llama_dir, "setwise", branching=8, k=1).rank("drinks", some)
    assert best[0].index == order[0]


@pytest.mark.parametrize(("method", "options", "message"), [
    ("best", {}, "method 'best' is not known; valid: pointwise, setwise, listwise"),
    ("pointwise", {"k": 3}, "'k' is not an option of method pointwise"),
    ("setwise", {"window": 3}, "'window' is not an option of method setwise"),
    ("setwise", {"branching": 20}, "branching must be in 1..19"),
    ("setwise", {"sort": "quick"}, "sort 'quick' is not known"),
    ("setwise", {"k": 0}, "k and permutations must be at least 1"),
    ("listwise", {"window": 21}, "window must be in 2..20"),
    ("listwise", {"window": 4, "step": 4}, "step must be in 1..3"),
])  # fmt: skip
def test_options_that_cannot_work_are_refused(method, options, message, tiny_llama_dir):
    with pytest.raises(ConfigError, match=message):
        reranker_of(tiny_llama_dir, method, **options)


def test_a_checkpoint_of_its_own_prompt_keeps_it(tmp_path, tiny_llama_dir):
    with pytest.raises(ConfigError, match="choose method setwise or listwise"):
        Reranker(tiny_llama_dir, prompt="setwise")
    assert Reranker(tiny_llama_dir, method="setwise").prompt.name == "setwise"


def test_the_command_line_takes_a_method_with_options(tmp_path, tiny_llama_dir):
    (tmp_path / "docs.txt").write_text("\n".join(documents_of(5)))
    args = ["rerank", str(tmp_path / "docs.txt"), "--query", "drinks", "--model", str(tiny_llama_dir), "--json"]
    done = CliRunner().invoke(app, [*args, "--method", "listwise:window=3,step=1"])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(row["index"] for row in rows) == list(range(5)) and [row["score"] for row in rows] == [0, -1, -2, -3, -4]
    assert "cost: 3 prompts of " in done.stderr


@pytest.mark.parametrize(("text", "message"), [
    ("setwise:k", "expected NAME:KEY=VALUE"),
    ("setwise:k=some", "option 'k' of method setwise must be int, not 'some'"),
    ("setwise:top=3", "'top' is not an option of method setwise"),
    ("listwise:window=1", "window must be in 2..20, not 1"),
])  # fmt: skip
def test_methods_are_read_or_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        read_method(text)
    assert read_method("setwise:k=3,sort=bubblesort") == {"method": "setwise", "k": 3, "sort": "bubblesort"}


def test_evaluation_measures_a_method(tmp_path, tiny_llama_dir):
    task = tmp_path / "set"
    (task / "qrels").mkdir(parents=True)
    some = documents_of(12)
    (task / "corpus.jsonl").write_text("".join(json.dumps({"_id": f"d{i}", "text": t}) + "\n" for i, t in enumerate(some)))
    (task / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "near coffee"}) + "\n")
    (task / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td11\t1\n")
    out = tmp_path / "report"
    args = ["evaluate", str(task), "--model", str(tiny_llama_dir), "--method", "setwise:k=3,branching=4", "--out", str(out)]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    row = json.loads((out / "results.json").read_text())["rows"][-1]
    assert row["kind"] == "model" and row["cost"]["calls"] >= 3 and row["cost"]["prompt_tokens"] > 300
    assert "tokens/query" in (out / "report.html").read_text()
