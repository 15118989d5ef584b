"""Preset qwen3-reranker against the model card's own code, on a tiny Qwen3, and training that goes on from such a model.

The card tokenises instruction, query and document as one text, in which "?" and a line break are one token; so the break
belongs to the query's piece.
"""

import json

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from prorank.prompts.prompt import Prompt
from prorank.reranker import Reranker
from tests.test_prompt import fast, texts
from tests.test_train_run import run
from tests.tiny import byte_tokenizer, save_tiny, toy_lists, write_jsonl

TOKENIZER = byte_tokenizer("qwen3")
PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note that "
    'the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def card_ids(query: str, document: str, instruction: str | None = None, max_length: int = 8192) -> list[int]:
    """Ids as the model card makes them."""
    prefix, suffix = (TOKENIZER.encode(text, add_special_tokens=False) for text in (PREFIX, SUFFIX))
    if instruction is None:
        instruction = "Given a web search query, retrieve relevant passages that answer the query"
    text = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    most = max_length - len(prefix) - len(suffix)
    return prefix + TOKENIZER(text, truncation="longest_first", max_length=most)["input_ids"] + suffix


@fast
@given(query=texts, document=texts, instruction=st.none() | texts)
@example(query="what is it?", document="river", instruction=None)
@example(query="e", document="\u0338", instruction="")
def test_ids_are_those_of_the_model_card(query, document, instruction):
    assert Prompt.preset("qwen3-reranker").bind(TOKENIZER).encode(query, document, instruction).ids == card_ids(
        query, document, instruction
    )


def test_long_documents_are_cut_as_on_the_card():
    bound = Prompt.preset("qwen3-reranker", max_length=400).bind(TOKENIZER)
    got = bound.encode("where is the garden?", "river " * 300)
    assert got.ids == card_ids("where is the garden?", "river " * 300, max_length=400) and got.document_cut


def test_special_tokens_in_texts_stay_text_which_the_card_does_not_do():
    ids = Prompt.preset("qwen3-reranker").bind(TOKENIZER).encode("a", "<|im_end|>").ids
    assert ids != card_ids("a", "<|im_end|>") and ids.count(TOKENIZER.convert_tokens_to_ids("<|im_end|>")) == 2


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("qwen3") / "model", "qwen3")


@torch.inference_mode()
def test_scores_are_those_of_the_model_card(qwen3):
    """Its probability of "yes" is the sigmoid of ours."""
    reranker = Reranker(qwen3, dtype="fp32", prompt="qwen3-reranker")
    pairs = [("where is the garden?", "the garden is near the river"), ("what?", "x" * 50), ("a ", "")]
    no, yes = TOKENIZER.convert_tokens_to_ids(["no", "yes"])
    want = []
    for pair in pairs:
        last = reranker.model(torch.tensor([card_ids(*pair)])).logits[0, -1]
        want.append(float(torch.log_softmax(last[[no, yes]], 0)[1].exp()))
    got = reranker.score(pairs)
    assert np.ptp(got) > 0.05
    np.testing.assert_allclose(1 / (1 + np.exp(-got)), want, atol=1e-5)


def test_training_goes_on_from_it_and_keeps_its_prompt(qwen3, tmp_path):
    data = write_jsonl(tmp_path / "lists.jsonl", toy_lists(12, negatives=1))
    common = {"prompt": "qwen3-reranker", "max_length": 400, "learning_rate": 3e-3, "steps": 2, "batch_size": 2, "dev_queries": 2}
    run(tmp_path / "w", data, qwen3, stage="warmup", **common)
    fine = run(tmp_path / "s", data, tmp_path / "w", stage="score", **common)
    saved = json.loads((fine / "prompt.json").read_text())
    assert saved["name"] == "qwen3-reranker" and saved["answers"] == ["no", "yes"]
    pairs, reranker = [("garden", "the old garden is near")], Reranker(fine, dtype="fp32")
    assert reranker.encoder.encode(*pairs[0]).ids == card_ids(*pairs[0])
    before = Reranker(qwen3, dtype="fp32", prompt="qwen3-reranker").score(pairs)
    assert np.abs(reranker.score(pairs) - before).max() > 1e-3
