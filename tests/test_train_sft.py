"""Stage `sft`: completions joined as ids, a loss on them alone, and a checkpoint that thinks where it was taught to.

The loss is held against transformers' own over the same ids, padded and one by one.
"""

import json

import pytest
import torch

from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.data.reasoning_examples import ReasoningExample, read_reasoning_examples, split_reasoning_examples
from prorank.engine.packing import pack_completions
from prorank.errors import ConfigError, DataError
from prorank.prompts.prompt import Prompt
from prorank.reranker import Reranker
from prorank.rewards.rules import parse
from prorank.train.curves import read_metrics
from prorank.train.run import train
from prorank.train.settings.stage_settings import Sft, make_settings
from prorank.train.stages.sft import SftStage
from tests.tiny import byte_tokenizer, save_tiny

CPU = torch.device("cpu")


def bound_of(style: str, **changes):
    return Prompt.preset("rerank-r0", max_length=2000, **changes).bind(byte_tokenizer(style))


def thoughts(count: int) -> list[ReasoningExample]:
    return [
        ReasoningExample(f"what to drink {i}", f"the old {word} is near {i}", f"it is {word}", int(word == "coffee"))
        for i in range(count)
        for word in ("coffee", "bread")
    ]


def write(path, rows):
    lines = [vars(t) | {"answer": ("no", "yes")[t.label]} for t in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("style", ["smollm", "qwen2", "plain", "r1"])
def test_completions_are_in_form_and_end(style):
    bound = bound_of(style)
    assert bound.opened == (style == "r1")
    ids, cut = bound.completion("the coffee is near", 1)
    text = bound.tokenizer.decode(ids[:-1])
    said = parse(text, bound.opened)
    assert ids[-1] == bound.tokenizer.eos_token_id and cut == 0
    assert said.in_form and said.answer == "yes" and said.thought.strip() == "the coffee is near" and not said.extra
    short, cut = bound.completion("the coffee is near", 0, max_tokens=2)
    assert cut == len(ids) - len(short) > 0 and parse(bound.tokenizer.decode(short[:-1]), bound.opened).answer == "no"


@pytest.mark.parametrize("style", ["smollm", "qwen2", "plain", "r1"])
def test_asked_at_once_the_answer_stands_where_training_puts_it(style):
    bound = bound_of(style)
    direct = bound.direct()
    prompt, ids = bound.encode("q", "d").ids, bound.completion("", 1)[0]
    place = ids.index(bound.answer_ids[1])
    assert direct.encode("q", "d").ids == prompt + ids[:place]
    assert direct.answer_ids == bound.answer_ids and direct.prompt.kind == "binary" and direct.direct() is direct


def test_the_system_text_is_rerank_r0s():
    system = Prompt.preset("rerank-r0").system
    assert system.startswith("[system]\nYou are a document relevance evaluator.") and system.endswith("requirements.\n")
    assert system in bound_of("smollm").render("q", "d").replace("<|im_end|>", "\n")


@pytest.mark.parametrize(("kind", "weight"), [("llama", 1.0), ("qwen2", 1.0), ("llama", 7.0)])
def test_the_loss_is_that_of_the_completions_alone(tmp_path, kind, weight):
    resolved = resolve(save_tiny(tmp_path, kind))
    model = load_model(resolved, torch.float32, CPU)
    bound = Prompt.preset("rerank-r0", max_length=1500, system="Judge.").bind(load_tokenizer(resolved))
    settings = Sft(data="", out="", max_think_tokens=5, batch_size=6, answer_weight=weight)
    stage = SftStage(thoughts(3), bound, settings, [], False)
    examples = [stage.example(i) for i in range(6)]
    loss, figures = stage.loss(model, examples)
    sums, count, tokens, right = 0.0, 0.0, 0, 0
    for example in examples:
        ids = torch.tensor([[*example.pack.ids, example.target[-1]]])
        begin = ids.shape[1] - len(example.target)
        assert ids[0, begin:].tolist() == example.target
        rows = model(input_ids=ids).logits[0, begin - 1 : -1].detach()
        each = torch.nn.functional.cross_entropy(rows, ids[0, begin:], reduction="none")
        answer = len(example.target) - 2 - len(bound._tokens("</answer>"))  # before "</answer>" and the end token
        assert example.target[answer] == bound.answer_ids[example.label]
        sums += float(each.sum()) + (weight - 1) * float(each[answer])
        count += len(example.target) + weight - 1
        tokens += len(example.target)
        right += bool(rows[answer, bound.answer_ids[example.label]] > rows[answer, bound.answer_ids[1 - example.label]])
    assert float(loss) == pytest.approx(sums / count, abs=1e-5)
    assert figures["completion_tokens"] == pytest.approx(tokens / 6) and figures["accuracy"] == pytest.approx(right / 6)
    found = SftStage(thoughts(3), bound, settings, thoughts(3), False).evaluate(model)
    assert found["loss"] == pytest.approx(sums / count, abs=1e-5) and found["accuracy"] == pytest.approx(right / 6)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_every_pass_has_every_pair_once_in_an_order_of_its_own():
    stage = SftStage(thoughts(4), bound_of("smollm"), Sft(data="", out=""), [], False)
    first, second = ([stage.example(8 * epoch + i).pack.ids for i in range(8)] for epoch in (0, 1))
    assert first != second and sorted(first) == sorted(second)


def test_balanced_passes_alternate_and_repeat_the_scarcer_side():
    some = [t for t in thoughts(6) if t.label or t.query.endswith(("0", "3"))]  # 6 of yes, 2 of no
    stage = SftStage(some, bound_of("smollm"), Sft(data="", out="", balanced=True), [], False)
    examples = [stage.example(i) for i in range(len(stage))]
    answers = [example.target[-2 - len(stage.encoder._tokens("</answer>"))] for example in examples]
    assert len(stage) == 12 and answers == list(stage.encoder.answer_ids) * 6
    assert len({tuple(u.pack.ids) for u in examples}) == 8
    with pytest.raises(DataError, match="pairs of one answer only"):
        SftStage([t for t in some if t.label], bound_of("smollm"), Sft(data="", out="", balanced=True), [], False)


def test_completed_rows_end_where_nothing_follows():
    row = pack_completions([1, 2, 3], [7, 8, 9])
    assert row.ids == [1, 2, 3, 7, 8] and row.answers == [2, 3, 4] and row.ends == [5] and row.prefix_length == 0


def test_a_model_learns_to_think_and_keeps_its_prompt(tmp_path, tiny_llama_dir):
    data = write(tmp_path / "train.jsonl", thoughts(24))
    values = {"stage": "sft", "data": str(data), "out": str(tmp_path / "run"), "base": str(tiny_llama_dir), "steps": 40}
    values |= {"prompt": {"preset": "rerank-r0", "system": "Judge."}, "max_length": 200, "batch_size": 8, "learning_rate": 3e-3}
    folder = train(make_settings(values | {"dtype": "fp32", "log_every": 1, "dev_queries": 4, "num_evaluations": 2}))
    lines = read_metrics(tmp_path / "run")
    trained, dev = [line for line in lines if "token_accuracy" in line], [line for line in lines if "dev_loss" in line]
    assert trained[-1]["loss"] < trained[0]["loss"] / 2 and trained[-1]["token_accuracy"] > 0.8
    assert dev[-1]["dev_loss"] < dev[1]["dev_loss"] < dev[0]["dev_loss"] and dev[0]["step"] == 0
    assert (tmp_path / "run" / "train_curves.png").is_file()
    prompt = Prompt.load(folder)
    assert prompt.kind == "thinking" and prompt.system == "Judge."
    hits = Reranker(folder, device="cpu").rank("what to drink 3", ["the old bread is near 3", "the old coffee is near 3"])
    assert len(hits) == 2 and all(hit.thought is not None for hit in hits)


def test_bad_thoughts_name_the_line(tmp_path):
    good = {"query": "q", "document": "d", "think": "t", "answer": "yes", "label": 1}
    for change, message in (
        ({"answer": "Yes"}, ":2: 'answer' must be yes or no, got 'Yes'"),
        ({"label": 0}, ":2: answer 'yes' and label 0 contradict each other"),
        ({"think": "a </think> b"}, ":2: 'think' contains the tag </think>"),
        ({"query": " "}, ":2: the query is empty"),
        ({"document": None}, ":2: 'document' must be a string"),
    ):
        (tmp_path / "t").write_text(f"{json.dumps(good)}\n{json.dumps(good | change)}\n")
        with pytest.raises(DataError) as caught:
            read_reasoning_examples(tmp_path / "t")
        assert message in str(caught.value)


def test_dev_queries_are_held_out_whole():
    kept, held = split_reasoning_examples([*thoughts(10), ReasoningExample("What to drink, 3?", "d", "t", 1)], 3, seed=0)
    assert len({t.query for t in held}) in (2, 3) and len(kept) + len(held) == 21
    assert not {t.query.lower().strip("?").replace(",", "") for t in kept} & {t.query for t in held}


def test_the_stage_wants_a_thinking_prompt(tmp_path, tiny_llama_dir):
    data = write(tmp_path / "train.jsonl", thoughts(4))
    values = {"stage": "sft", "data": str(data), "out": str(tmp_path / "run"), "base": str(tiny_llama_dir), "prompt": "echo"}
    with pytest.raises(ConfigError, match="needs a prompt of kind thinking, such as rerank-r0, but echo is binary"):
        train(make_settings(values))
    assert not (tmp_path / "run").exists()


def scored(count: int, score: float = 1.0) -> list[ReasoningExample]:
    return [ReasoningExample(t.query, t.document, t.think, t.label, score * (2 * t.label - 1)) for t in thoughts(count)]


def test_a_teacher_s_probability_is_part_of_the_answer_s_target(tmp_path):
    """With half of the weight on a teacher of log-odds +-2, the answer's loss is the cross-entropy with the mixed target."""
    resolved = resolve(save_tiny(tmp_path))
    model = load_model(resolved, torch.float32, CPU)
    bound = Prompt.preset("rerank-r0", max_length=1500, system="Judge.").bind(load_tokenizer(resolved))
    shared = {"data": "", "out": "", "batch_size": 4}
    plain = SftStage(scored(2, 2.0), bound, Sft(**shared), [], False)
    taught = SftStage(scored(2, 2.0), bound, Sft(**shared, teacher_weight=0.5, teacher_temperature=2.0), [], False)
    examples = [plain.example(i) for i in range(4)]
    expected = float(plain.loss(model, examples)[0])
    tokens = sum(len(e.target) for e in examples)
    for example in examples:
        ids = torch.tensor([[*example.pack.ids, example.target[-1]]])
        row = model(input_ids=ids).logits[0, ids.shape[1] - len(example.target) - 1 + example.answer.start].detach().log_softmax(-1)
        no, yes = (float(row[i]) for i in bound.answer_ids)
        right, wrong = (yes, no) if example.label else (no, yes)
        target = 0.5 + 0.5 * torch.tensor(1.0).sigmoid().item()  # the teacher is on the label's side
        expected += (right - (target * right + (1 - target) * wrong)) / tokens
    loss, _ = taught.loss(model, [taught.example(i) for i in range(4)])
    assert float(loss) == pytest.approx(expected, abs=1e-5)


def test_a_teacher_without_scores_is_refused_before_the_weights_are_read(tmp_path):
    settings = make_settings(
        {"stage": "sft", "base": "no-such-model", "data": str(write(tmp_path / "t.jsonl", thoughts(8))), "out": str(tmp_path / "r"),
         "teacher_weight": 0.5}
    )  # fmt: skip
    with pytest.raises(DataError, match="'teacher_weight' needs a 'score'"):
        train(settings)


def test_a_share_of_the_thoughts_is_left_out_in_training_and_none_on_the_dev_set():
    bound = bound_of("smollm")
    stage = SftStage(thoughts(40), bound, Sft(data="", out="", empty_thoughts=0.5), [], False)
    empty = [bound.completion("", label)[0] for label in (0, 1)]
    emptied = [stage.example(i).target in empty for i in range(80)]
    assert 25 < sum(emptied) < 55 and emptied == [stage.example(i).target in empty for i in range(80)]
    assert all(stage._example(-1, thought).target not in empty for thought in stage.thoughts)
    with pytest.raises(ConfigError, match="empty_thoughts"):
        make_settings({"stage": "sft", "data": "d", "out": "o", "empty_thoughts": 1.0})
