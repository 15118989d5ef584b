"""Rank-R1: its text to the letter, thoughts about several documents in ranking, in the supervised start and in rewards.

What the stages train on and what ranking reads are the same ids; that is held here against both.
"""

import json

import numpy as np
import pytest
import torch

from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.data.examples import Group, sample_lists
from prorank.data.extractive_thoughts import label_extractive_lists, think_of_list
from prorank.data.reasoning_examples import ListReasoningExample, read_reasoning_examples
from prorank.engine.sampling import Completion
from prorank.errors import ConfigError, DataError
from prorank.prompts.list_encoder import MAX_DOCUMENTS
from prorank.prompts.prompt import Prompt
from prorank.rank import list_readers
from prorank.reranker import Reranker
from prorank.train.run import train
from prorank.train.settings.stage_settings import Reason, Sft, load_settings, make_settings
from prorank.train.stages.reason_tasks import ListTask
from prorank.train.stages.sft import SftStage
from tests.tiny import byte_tokenizer, write_jsonl

SYSTEM = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant first thinks "
    "about the reasoning process in the mind and then provides the user with the answer. The reasoning process and answer are "
    "enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> "
    "<answer> answer here </answer>."
)
USER = """Given the query: "{query}", which of the following documents is most relevant?
{docs}
After completing the reasoning process, please provide only the label of the most relevant document to the query, enclosed in \
square brackets, within the answer tags. For example, if the third document is the most relevant, the answer should be: <think> \
reasoning process here </think> <answer>[3]</answer>."""
DOCUMENTS = ["the coffee is hot", "the bread is old", "a violin", "coffee and bread"]


def bound_of(style="qwen2", **changes):
    return Prompt.preset("rank-r1", **changes).bind_list(byte_tokenizer(style))


def groups(count=6):
    kinds = ("bread", "coffee", "violin", "old")
    return [Group(f"drink {i}", tuple(f"{kind} {i}" for kind in kinds), (0.0, 1.0, 0.0, 0.0)) for i in range(count)]


@pytest.mark.parametrize("style", ["smollm", "qwen2"])
def test_the_prompt_is_the_published_text(style):
    bound = bound_of(style)
    shown = "\n".join(f"[{i}] {document}" for i, document in enumerate(DOCUMENTS, start=1))
    told = USER.replace("{query}", "hot drinks").replace("{docs}", shown)
    text = bound.render("hot drinks", DOCUMENTS)
    chat = byte_tokenizer(style).apply_chat_template(
        [{"role": "system", "content": SYSTEM}, {"role": "user", "content": told}], tokenize=False, add_generation_prompt=True
    )
    assert text == chat
    found = bound.encode("hot drinks", DOCUMENTS)
    assert bound.tokenizer.decode(found.ids) == text and found.document_cuts == [0] * 4


def test_training_and_ranking_read_the_same_ids(tiny_llama_dir, monkeypatch):
    seen = []

    def generate(_, prompts, keys):
        seen.extend(prompts)
        return [[Completion(torch.zeros(1))]] * len(prompts)

    monkeypatch.setattr(list_readers, "generate", generate)
    reranker = Reranker(tiny_llama_dir, method="setwise", prompt="rank-r1", max_length=1500, max_think_tokens=8, branching=3, k=1)
    settings = Reason(list_size=4, seed=0)
    task = ListTask(groups(), Prompt.preset("rank-r1", max_length=1500).bind_list(reranker.tokenizer), settings)
    for key in range(8):
        example = task.example(key)
        seen.clear()
        reranker.rank(example.shown["query"], example.shown["documents"])
        assert seen[0].ids == example.prompt.ids


def said(texts):
    """A `write` that says these texts, one a prompt."""
    tokenizer, rest = byte_tokenizer("llama"), list(texts)

    def write(writer, prompts, keys):
        return [[Completion(torch.zeros(1), ids=tokenizer(rest.pop(0), add_special_tokens=False)["input_ids"])] for _ in prompts]

    return write


@pytest.mark.parametrize(("method", "options", "texts", "order", "unparsed_answers"), [
    ("setwise", {"k": 1, "branching": 3}, ["<think>\na\n</think>\n<answer>[3]</answer>"], [2, 0, 1, 3], 0),
    ("setwise", {"k": 1, "branching": 3}, ["<think>\n[4] is\n</think>\n<answer>I do not know</answer>"], [0, 1, 2, 3], 1),
    ("listwise", {}, ["<think>\na\n</think>\n<answer>[4] > [2] > [4] > [9]</answer>"], [3, 1, 0, 2], 0),
    ("listwise", {}, [""], [0, 1, 2, 3], 1),
    ("setwise", {"k": 1, "branching": 3, "permutations": 2}, ["<answer>[1]</answer>", "<answer>[3]</answer>"], [0, 1, 2, 3], 0),
])  # fmt: skip
def test_what_is_written_becomes_an_order(tiny_llama_dir, monkeypatch, method, options, texts, order, unparsed_answers):
    reranker = Reranker(tiny_llama_dir, method=method, prompt="rank-r1", max_length=1500, max_think_tokens=8, **options)
    monkeypatch.setattr("tests.test_rank_r1.byte_tokenizer", lambda _: reranker.tokenizer)
    monkeypatch.setattr(list_readers, "generate", said(texts))
    hits = reranker.rank("hot drinks", DOCUMENTS)
    assert [hit.index for hit in hits] == order and reranker.cost.unparsed_answers == unparsed_answers
    assert ("name no document" in str(reranker.cost)) == bool(unparsed_answers)


@pytest.mark.parametrize(("preset", "method"), [("rank-r1", "setwise"), ("rank-r1", "listwise"), ("listwise", "listwise")])
def test_a_model_that_writes_what_it_likes_loses_nothing(tiny_llama_dir, preset, method):
    options = {"max_think_tokens": 6} if preset == "rank-r1" else {}
    reranker = Reranker(tiny_llama_dir, dtype="fp32", method=method, prompt=preset, max_length=1500, **options)
    lists = [DOCUMENTS, DOCUMENTS[:2], [], DOCUMENTS * 7]
    found = reranker.rank_many(["hot drinks", "music", "tea", "bread"], lists)
    assert [sorted(hit.index for hit in hits) for hits in found] == [list(range(len(some))) for some in lists]
    assert reranker.cost.generated_tokens > 0 and reranker.cost.calls >= 3 and reranker.cuts.total >= len(DOCUMENTS)
    alone = [reranker.rank(query, some) for query, some in zip(["hot drinks", "music"], lists)]
    assert [[hit.index for hit in hits] for hits in alone] == [[hit.index for hit in hits] for hits in found[:2]]


def test_a_thought_is_opened_closed_and_followed_by_an_answer(tiny_llama_dir, monkeypatch):
    rows, generate = [], list_readers.generate
    monkeypatch.setattr(list_readers, "generate", lambda *given: rows.extend(generate(*given)) or rows)
    reranker = Reranker(tiny_llama_dir, dtype="fp32", method="setwise", prompt="rank-r1", max_length=1500, max_think_tokens=5)
    reranker.rank("hot drinks", DOCUMENTS[:2])
    (row,), bound = rows[0], reranker.encoder
    text = reranker.tokenizer.decode(row.ids)
    assert text.startswith("<think>\n") and "\n</think>\n<answer>" in text and row.thought_truncated
    assert len(row.ids) <= 5 + len(bound.opener) + len(bound.shut) + 16
    assert set(row.forced_positions) >= set(range(len(bound.opener)))
    assert reranker.cost.generated_tokens == len(row.ids) - len(row.forced_positions)


GOOD = "<think>so</think> <answer>[2]</answer>"


@pytest.mark.parametrize(("kind", "text", "reward", "in_form", "right"), [
    ("rank-r1", GOOD, 1.0, True, True),
    ("rank-r1", "<think>so</think>\n<answer> [2] </answer>", 1.0, True, True),
    ("rank-r1", GOOD.replace("2", "1"), 0.0, True, False),
    ("rank-r1", "<answer>[2]</answer>", 0.0, False, False),
    ("rank-r1", GOOD.replace("[2]", "2"), 0.0, True, False),
    ("rearank", GOOD.replace("[2]", "[2] > [1] > [3] > [4]"), 1.0, True, True),
    ("rearank", GOOD, 0.9, True, True),
    ("rearank", GOOD.replace("[2]", "[1] > [2] > [3] > [4]"), 0.2, True, False),
    ("rearank", "[2] > [1]", 0.0, False, False),
])  # fmt: skip
def test_completions_are_judged(kind, text, reward, in_form, right):
    task = ListTask(groups(), bound_of(), Reason(list_reward=kind, missing_eos_penalty=0.25))
    verdict, *found = task.judge(text, (0.0, 1.0, 0.0, 0.0), True)
    assert (verdict.reward, *found) == (pytest.approx(reward), in_form, right)
    assert task.judge(text, (0.0, 1.0, 0.0, 0.0), False)[0].reward == pytest.approx(reward - 0.25)
    assert sum(verdict.parts.values()) == pytest.approx(reward)


def test_any_of_the_best_is_right():
    task = ListTask(groups(), bound_of(), Reason())
    rewards = [task.judge(GOOD.replace("2", str(k)), (1.0, 2.0, 0.0, 2.0), True)[0].reward for k in (1, 2, 3, 4)]
    assert rewards == [0.0, 1.0, 0.0, 1.0]


def test_a_start_learns_thought_and_label(tmp_path, tiny_llama_dir):
    out = tmp_path / "lists.jsonl"
    assert "6 rule-based thoughts" in label_extractive_lists(groups(), out, 3)
    thoughts = read_reasoning_examples(out)
    assert all(t.think == think_of_list(t.query, t.documents) for t in thoughts)
    assert all(t.documents[int(t.answer[1]) - 1].startswith("coffee") for t in thoughts)
    resolved = resolve(tiny_llama_dir)
    bound = Prompt.preset("rank-r1", max_length=1500).bind_list(load_tokenizer(resolved))
    model = load_model(resolved, torch.float32, torch.device("cpu"))
    stage = SftStage(thoughts, bound, Sft(data="", out="", batch_size=2, answer_weight=3.0), thoughts[:2], False)
    example = stage.example(0)
    answer = bound.tokenizer.decode([example.target[i] for i in example.answer])
    assert answer in ("[1]", "[2]", "[3]")
    assert f"<answer>{answer}</answer>" in bound.tokenizer.decode(example.target)
    assert example.target[-1] == bound.tokenizer.eos_token_id
    with torch.no_grad():
        loss, figures = stage.loss(model, [stage.example(0), stage.example(1)])
    each, weights = [], []
    for one in (stage.example(0), stage.example(1)):
        ids = torch.tensor([[*one.pack.ids, one.target[-1]]])
        rows = model(input_ids=ids).logits[0, -len(one.target) - 1 : -1]
        each.append(torch.nn.functional.cross_entropy(rows, ids[0, -len(one.target) :], reduction="none"))
        weights.append(torch.tensor([3.0 if i in one.answer else 1.0 for i in range(len(one.target))]))
    by_hand = sum((e * w).sum() for e, w in zip(each, weights)) / sum(w.sum() for w in weights)
    assert float(loss) == pytest.approx(float(by_hand), abs=1e-5) and 0 <= figures["accuracy"] <= 1
    assert stage.evaluate(model)["score"] < 0


def test_an_order_in_writing_is_learned_without_a_thought():
    bound = Prompt.preset("listwise").bind_list(byte_tokenizer("qwen2"))
    some = [ListReasoningExample("tea", ("bread", "leaves"), "left out", "[2] > [1]")]
    example = SftStage(some, bound, Sft(data="", out=""), [], False).example(0)
    assert bound.tokenizer.decode(example.target[:-1]) == "[2] > [1]" and example.target[-1] == bound.tokenizer.eos_token_id
    assert list(example.answer) == list(range(len(example.target) - 1)) and bound.answer([1, 0]) == "[2] > [1]"


@pytest.mark.parametrize(("row", "message"), [
    ({"documents": ["a"]}, "'documents' must be a list of at least two texts"),
    ({"documents": ["a", 1]}, "'documents' must be a list of at least two texts"),
    ({"answer": "2"}, "'answer' must be labels in brackets"),
    ({"answer": "[1] and [2]"}, "'answer' must be labels in brackets"),
    ({"answer": "[3]"}, "or one that is not among the 2"),
    ({"answer": "[1] > [1]"}, "names a document twice"),
    ({"think": "<answer>"}, "'think' contains the tag <answer>"),
])  # fmt: skip
def test_lists_with_thoughts_are_checked(tmp_path, row, message):
    good = {"query": "q", "documents": ["a", "b"], "think": "so", "answer": "[2] > [1]"}
    path = write_jsonl(tmp_path / "t.jsonl", [good, good | row])
    with pytest.raises(DataError, match=message) as caught:
        read_reasoning_examples(path)
    assert f"{path}:2" in str(caught.value)


def test_thoughts_and_prompt_have_to_be_about_as_many_documents(tmp_path, tiny_llama_dir):
    row = {"documents": ["a", "b"], "think": "so", "answer": "[2]"}
    data = write_jsonl(tmp_path / "t.jsonl", [row | {"query": f"q{i}"} for i in range(3)])
    common = {"stage": "sft", "base": str(tiny_llama_dir), "data": str(data), "out": str(tmp_path / "run"), "dev_queries": 0}
    with pytest.raises(ConfigError, match="prompt rerank-r0 shows one document, but not all of the data do"):
        train(make_settings(common | {"prompt": "rerank-r0"}))
    with pytest.raises(ConfigError, match="shows several documents with prompts of kind setwise, not thinking"):
        train(make_settings(common | {"stage": "score", "prompt": "rank-r1", "data": str(lists_file(tmp_path))}))
    assert not (tmp_path / "run" / "model").exists()


def lists_file(tmp_path):
    rows = [{"query": g.query, "pos": [g.documents[1]], "neg": [g.documents[0], *g.documents[2:]]} for g in groups(12)]
    return write_jsonl(tmp_path / "lists.jsonl", rows)


def test_think_then_choose_end_to_end(tmp_path, tiny_llama_dir):
    thoughts = tmp_path / "thoughts.jsonl"
    label_extractive_lists(groups(12), thoughts, 3)
    common = ["max_length=1500", "dtype=fp32", "device=cpu", "log_every=1", "num_evaluations=1", "dev_queries=2"]
    common += ["steps=2", "batch_size=2"]
    small = ["lora={r: 4, alpha: 8}", "max_new_tokens=24", "max_think_tokens=8", "completions_every=1", "grpo.num_generations=2"]
    root = "configs/rank-r1"
    sft, grpo = tmp_path / "sft", tmp_path / "grpo"
    train(load_settings(f"{root}/smollm2_cpu_sft.yaml", [f"base={tiny_llama_dir}", f"data={thoughts}", f"out={sft}", *common]))
    changes = [f"base={sft}", f"data={lists_file(tmp_path)}", f"out={grpo}", "list_size=[2, 4]", "temperature=1.0", *common, *small]
    folder = train(load_settings(f"{root}/smollm2_cpu.yaml", changes))
    prompt = Prompt.load(folder)
    assert prompt.name == "rank-r1" and prompt.lists and (folder / "adapter_model.safetensors").is_file()
    lines = [json.loads(line) for line in (grpo / "completions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 2 * 2 * 2 and {2, 3, 4} >= {len(line["documents"]) for line in lines}
    assert all(line["label"].count(1.0) == 1 and {"completion", "reward", "finished"} <= set(line) for line in lines)
    figures = [json.loads(line) for line in (grpo / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    figures = [line for line in figures if "loss" in line]
    assert all(name in figures[0] for name in ("reward", "reward_label", "format_rate", "accuracy", "think_tokens"))
    assert list(grpo.glob("*.png"))
    hits = Reranker(folder, method="setwise", k=2, branching=2).rank("drink 1", DOCUMENTS)
    assert sorted(hit.index for hit in hits) == [0, 1, 2, 3]


def test_the_published_recipe_runs(tmp_path, tiny_llama_dir):
    path = "configs/rank-r1/qwen2.5_3b.yaml"
    s = load_settings(path, ["data=d", "out=o"])
    assert (s.lora.r, s.lora.alpha, s.lora.dropout, s.learning_rate, s.num_generations, s.list_size) == (16, 32, 0.05, 1e-5, 8, 20)
    assert s.max_new_tokens == 2048
    changes = [f"base={tiny_llama_dir}", f"data={lists_file(tmp_path)}", f"out={tmp_path / 'run'}", "steps=1", "batch_size=1"]
    small = ["max_length=1500", "max_new_tokens=8", "list_size=4", "device=cpu", "dtype=fp32", "dev_queries=0"]
    small += ["grpo.num_generations=2"]
    assert Prompt.load(train(load_settings(path, [*changes, *small]))).name == "rank-r1"


def test_windows_are_drawn_from_a_range():
    some = [Group(f"q{i}", tuple(f"d{i}{j}" for j in range(9)), (1.0, *[0.0] * 8)) for i in range(200)]
    lists = sample_lists(some, [3, 7], seed=1, epoch=0)
    sizes = [len(group.documents) for group in lists]
    assert set(sizes) == {3, 4, 5, 6, 7} and all(max(g.labels) == 1 for g in lists)
    assert lists == sample_lists(some, (3, 7), seed=1, epoch=0) != sample_lists(some, [3, 7], seed=1, epoch=1)
    places = np.bincount([group.labels.index(1.0) for group in lists if len(group.documents) == 5], minlength=5)
    assert places.min() >= 2  # the best stands anywhere


@pytest.mark.parametrize(("values", "message"), [
    ({"list_size": [5, 3]}, "must be a number or \\[minimum, maximum\\]"),
    ({"list_size": [3]}, "must be a number or \\[minimum, maximum\\]"),
    ({"list_size": 1}, f"must be in 2..{MAX_DOCUMENTS}"),
    ({"list_size": [2, 21]}, f"must be in 2..{MAX_DOCUMENTS}"),
    ({"list_size": "many"}, "expected int or list"),
    ({"list_reward": "mrr"}, "must be rank-r1 or rearank"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        make_settings({"stage": "reason", "data": "d", "out": "o", **values})
