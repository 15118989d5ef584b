"""Stage `order` and the losses beside it: what they compute, and that a model learns from the measure itself.

The losses are held against loops over pairs, written out.
"""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.data.formats import read_groups
from prorank.errors import ConfigError, DataError
from prorank.evaluate.benchmark import evaluate
from prorank.evaluate.gains import GAINS
from prorank.prompts.prompt import Prompt
from prorank.reranker import Reranker
from prorank.train.curves import read_metrics
from prorank.train.dev_set import DevSet
from prorank.train.objectives.ranking_losses import lambdarank, listnet, margin_mse, ranknet
from prorank.train.run import train
from prorank.train.settings.stage_settings import Order, Warmup, make_settings
from prorank.train.stages.order import OrderStage
from prorank.train.stages.warmup import WarmupStage
from tests.test_train_run import coffee_lists, same
from tests.tiny import WORDS, write_jsonl

LISTS = st.lists(st.tuples(st.floats(-4, 4), st.integers(0, 3)), min_size=2, max_size=12, unique_by=lambda row: row[0])


def columns(rows):
    return torch.tensor([row[0] for row in rows], dtype=torch.float64), torch.tensor([float(row[1]) for row in rows])


@given(rows=LISTS)
def test_ranknet_is_the_mean_over_pairs(rows):
    pairs = [(a, b) for a, x in rows for b, y in rows if x > y]
    wanted = sum(math.log1p(math.exp(b - a)) for a, b in pairs) / max(1, len(pairs))
    assert float(ranknet(*columns(rows))) == pytest.approx(wanted, abs=1e-6)


@settings(max_examples=50)
@given(rows=LISTS)
@pytest.mark.parametrize("gain", GAINS)
def test_lambdarank_weighs_pairs_by_what_a_swap_changes(rows, gain):
    def worth(grade):
        return 2**grade - 1 if gain == "exponential" else grade

    def ndcg(order):
        gained = sum(worth(rows[i][1]) / math.log2(place + 2) for place, i in enumerate(order[:10]))
        best = sorted((worth(grade) for _, grade in rows), reverse=True)[:10]
        return gained / max(1e-12, sum(gain / math.log2(place + 2) for place, gain in enumerate(best)))

    order = sorted(range(len(rows)), key=lambda i: -rows[i][0])
    wanted = 0.0
    for i, (a, x) in enumerate(rows):
        for j, (b, y) in enumerate(rows):
            if x > y:
                swapped = [{i: j, j: i}.get(k, k) for k in order]
                wanted += abs(ndcg(order) - ndcg(swapped)) * math.log1p(math.exp(b - a))
    assert float(lambdarank(*columns(rows), gain=gain)) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(("gain", "gains"), [("linear", [3, 1, 0.5, 0]), ("exponential", [7, 1, 2**0.5 - 1, 0])])
def test_listnet_targets_are_the_gains(gain, gains):
    """The loss `listnet` has the gain of the measure."""
    scores, grades = torch.tensor([0.2, -1.0, 2.0, 0.0]).double(), torch.tensor([3.0, 1.0, 0.5, 0.0]).double()
    wanted = -sum(value / sum(gains) * float(p) for value, p in zip(gains, scores.log_softmax(-1)))
    assert float(listnet(scores, grades / 3, grades, gain=gain)) == pytest.approx(wanted, abs=1e-9)


def graded_folder(folder):
    """A BEIR folder of six queries with five judged documents each, grades 0 to 3."""
    (folder / "qrels").mkdir(parents=True)
    names = [(f"d{i}{j}", ("old", "new")[j % 2], WORDS[(5 * i + j) % len(WORDS)], i) for i in range(6) for j in range(5)]
    documents = {key: f"the {age} {word} is near {i}" for key, age, word, i in names}
    write_jsonl(folder / "corpus.jsonl", [{"_id": key, "text": text} for key, text in documents.items()])
    write_jsonl(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"what is near {i}"} for i in range(6)])
    labels = [f"q{i}\td{i}{j}\t{(3 * i + 2 * j) % 4}\n" for i in range(6) for j in range(5)]
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(labels))
    return folder


@pytest.mark.parametrize("gain", GAINS)
def test_reward_dev_figure_and_evaluation_are_one_measure(gain, tmp_path, tiny_llama_dir):
    """On graded labels what stage order rewards, its dev figure and nDCG@10 of `prorank.evaluate` are one number."""
    data = graded_folder(tmp_path / "graded")
    stage, model = stage_of(tiny_llama_dir, data, list_size=5, gain=gain)
    rewarded = stage.loss(model, [stage.example(i) for i in range(6)])[1]["reward_sorted"]
    reranker = Reranker(tiny_llama_dir, dtype="fp32", prompt="prorank", max_length=96)
    found = evaluate([data], [reranker], split="train", judged_only=True, gain=gain, sample=0, out=tmp_path / "out")
    printed = found.rows[1].measures["nDCG@10"]
    groups = read_groups(str(data), "train")
    dev = DevSet(groups, reranker.prompt, reranker.tokenizer, False, gain=gain).measure(model)["ndcg@10"]
    assert 0.3 < printed < 0.99 and rewarded == pytest.approx(printed, abs=1e-6) and dev == pytest.approx(printed, abs=1e-6)
    other = evaluate([data], [reranker], split="train", judged_only=True, gain=GAINS[GAINS[0] == gain], sample=0)
    assert abs(other.rows[1].measures["nDCG@10"] - printed) > 1e-3  # or equality would say nothing
    assert json.loads((tmp_path / "out" / "results.json").read_text())["settings"]["gain"] == gain
    assert f"nDCG@10 with {gain} gains" in (tmp_path / "out" / "report.html").read_text()


@given(rows=LISTS, shift=st.floats(-5, 5))
def test_margin_mse_sees_gaps_alone(rows, shift):
    scores, grades = columns(rows)
    teacher = torch.linspace(-1, 2, len(rows), dtype=torch.float64)
    pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if rows[i][1] > rows[j][1]]
    pairs = pairs or [(i, j) for i in range(len(rows)) for j in range(i + 1, len(rows))]
    wanted = sum(float((scores[i] - scores[j] - teacher[i] + teacher[j]) ** 2) for i, j in pairs) / len(pairs)
    assert float(margin_mse(scores + shift, grades, teacher)) == pytest.approx(wanted, abs=1e-6)


def stage_of(folder, data, **changes):
    chosen = Order(data=str(data), out="", dev_queries=0, **changes)
    resolved = resolve(folder)
    model = load_model(resolved, torch.float32, torch.device("cpu"))
    tokenizer, several = load_tokenizer(resolved), chosen.prompt == "setwise"
    bound = Prompt.preset("setwise").bind_list(tokenizer) if several else Prompt.preset("prorank", max_length=96).bind(tokenizer)
    return OrderStage(read_groups(str(data), "train"), bound, chosen, model, None), model


def gradient(stage, model, examples):
    model.zero_grad()
    loss, figures = stage.loss(model, examples)
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), figures


def optimised(stage, model, examples, steps, rate=3e-3):
    """Figures of the last of so many steps on the same examples."""
    optimiser = torch.optim.Adam(model.parameters(), rate)
    for _ in range(steps):
        optimiser.zero_grad()
        loss, figures = stage.loss(model, examples)
        loss.backward()
        optimiser.step()
    return figures


def test_sampled_orders_give_the_exact_gradient_in_the_mean(tmp_path, tiny_llama_dir):
    data = coffee_lists(tmp_path / "lists.jsonl")
    common = {"list_size": 4, "batch_size": 2, "answer_mass_weight": 0.0}
    stage, model = stage_of(tiny_llama_dir, data, **common)
    examples = [stage.example(i) for i in range(2)]
    exact, figures = gradient(stage, model, examples)
    assert figures["kl"] == pytest.approx(0, abs=1e-6) and 0 < figures["reward"] < 1
    sampling, model = stage_of(tiny_llama_dir, data, **common, advantage="leave-one-out", num_generations=2000)
    sampled, seen = gradient(sampling, model, examples)
    assert float(torch.nn.functional.cosine_similarity(exact, sampled, dim=0)) > 0.99
    assert float(exact.norm()) == pytest.approx(float(sampled.norm()), rel=0.1)
    assert seen["reward"] == pytest.approx(figures["reward"], abs=0.02)
    again, _ = gradient(sampling, model, examples)
    assert torch.equal(sampled, again)  # a list draws by its own place in the run


def test_the_divergence_holds_the_scores(tmp_path, tiny_llama_dir):
    stage, model = stage_of(tiny_llama_dir, coffee_lists(tmp_path / "lists.jsonl"), list_size=4, beta=10.0)
    examples = [stage.example(i) for i in range(4)]
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    before = stage.loss(model, examples)[1]["kl"]
    assert optimised(stage, model, examples, 12, 1e-3)["kl"] < before / 2


@pytest.mark.parametrize("changes", [
    {},
    {"advantage": "leave-one-out", "num_generations": 16, "reward": "rr"},
    {"advantage": "group", "reward": "ap", "loss": {"ranknet": 0.2}, "beta": 0.0},
    {"loss": {"lambdarank": 1.0}, "lora": {"r": 8, "alpha": 16}, "learning_rate": 1e-2},
])  # fmt: skip
def test_a_model_learns_from_the_measure(changes, tmp_path, tiny_llama_dir):
    data = coffee_lists(tmp_path / "lists.jsonl")
    values = {"stage": "order", "base": str(tiny_llama_dir), "data": str(data), "out": str(tmp_path / "run"), "steps": 60}
    values |= {"dtype": "fp32", "max_length": 96, "list_size": 4, "learning_rate": 3e-3, "dev_queries": 8, "log_every": 1}
    folder = train(make_settings(values | changes))
    lines = read_metrics(tmp_path / "run")
    rewards = [line["reward_sorted"] for line in lines if "reward_sorted" in line]
    assert rewards[0] < 0.6 and sum(rewards[-5:]) / 5 > 0.95 and (folder / "prompt.json").is_file()
    assert [line["dev_ndcg@10"] for line in lines if "dev_ndcg@10" in line][-1] > 0.85
    trained = next(line for line in lines if "loss" in line)  # behind the dev figures from before the first step
    assert ("kl" in trained) == (changes.get("beta") != 0.0)
    assert {f"loss_{name}" for name in changes.get("loss", {})} <= set(trained)
    assert (tmp_path / "run" / "train_curves.png").is_file()


def test_a_stopped_run_goes_on_as_if_it_had_not(tmp_path, tiny_llama_dir):
    data = coffee_lists(tmp_path / "lists.jsonl")
    values = {"stage": "order", "base": str(tiny_llama_dir), "data": str(data), "dtype": "fp32", "max_length": 96, "list_size": 4}
    values |= {"learning_rate": 3e-3, "dev_queries": 0, "steps": 6, "save_every": 3, "advantage": "group", "log_every": 1}
    whole = train(make_settings(values | {"out": str(tmp_path / "whole")}))
    half = make_settings(values | {"out": str(tmp_path / "half")})

    def stop(share, figures):
        if share >= 0.6:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        train(half, report=stop)
    assert same(whole, train(half, resume=True))


@pytest.mark.parametrize(("changes", "message"), [
    ({"reward": "map"}, "key 'reward' must be one of ndcg, rr, ap"),
    ({"list_size": 13}, "key 'list_size' must be at most 12 with advantage exact"),
    ({"advantage": "best"}, "key 'advantage' must be exact, leave-one-out or group"),
    ({"advantage": "group", "num_generations": 1}, "key 'num_generations' must be at least 2"),
    ({"loss": {"kl": 1.0}}, "key 'teacher' is needed by loss kl"),
    ({"reward_weight": 0.0}, "for no reward use stage score"),
    ({"gain": "exponental"}, "key 'gain' must be linear or exponential, not 'exponental'"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_settings({"stage": "order", "data": "d", "out": "o", **changes})


@pytest.mark.parametrize("stage", ["warmup", "score", "order", "reason"])
def test_every_stage_that_counts_labels_has_the_setting(stage):
    """Linear as evaluation prints it; of stage reason, whose one nDCG is REARANK's reward, REARANK's own."""
    values = {"stage": stage, "data": "d", "out": "o"}
    assert make_settings(values).gain == ("exponential" if stage == "reason" else "linear")
    assert make_settings(values | {"gain": "exponential"}).gain == "exponential"
    with pytest.raises(ConfigError, match="key 'gain' must be linear or exponential, not 'log'"):
        make_settings(values | {"gain": "log"})


@pytest.mark.parametrize("where", ["data", "dev"])
def test_labels_that_a_gain_cannot_count_are_refused_before_the_weights_are_read(where, tmp_path):
    """Percentages as grades with exponential gains."""
    rows = [{"query": f"q {i}", "pos": ["a"], "neg": ["b"]} for i in range(4)]
    good = write_jsonl(tmp_path / "good.jsonl", rows)
    bad = write_jsonl(tmp_path / "bad.jsonl", [row | {"pos_labels": [85]} for row in rows])
    values = {"stage": "order", "base": "none/such", "dev_queries": 0, "out": str(tmp_path / "run"), "gain": "exponential"}
    values |= {"data": str(bad)} if where == "data" else {"data": str(good), "dev": str(bad)}
    with pytest.raises(DataError, match=r"label 85 is too large for nDCG with exponential gains, 2\^label - 1; use smaller grades"):
        train(make_settings(values))


@pytest.mark.parametrize("stage", ["warmup", "score", "order"])
def test_a_run_on_labels_of_several_documents_leaves_a_whole_checkpoint(stage, tmp_path, tiny_llama_dir):
    """From a checkpoint with a prompt of one document: that of the settings shows several, and is kept with what is trained."""
    data = coffee_lists(tmp_path / "lists.jsonl")
    values = {"base": str(tiny_llama_dir), "data": str(data), "dtype": "fp32", "max_length": 400, "list_size": 4, "log_every": 1}
    first = train(make_settings(values | {"stage": "score", "steps": 1, "dev_queries": 0, "out": str(tmp_path / "first")}))
    values |= {"base": str(first), "stage": stage, "prompt": "setwise", "steps": 2, "dev_queries": 4}
    folder = train(make_settings(values | {"out": str(tmp_path / "run")}))
    lines = read_metrics(tmp_path / "run")
    dev = [line for line in lines if "dev_ndcg@10" in line]
    assert 0 < dev[-1]["dev_ndcg@10"] <= 1 and "dev_accuracy" not in dev[-1]
    assert Prompt.load(folder).kind == "setwise" and not (folder / "modules.json").exists()
    assert 'method="listwise"' in (folder / "README.md").read_text()
    documents = ["the old bread is near 5", "the new violin is near 5", "the old coffee is near 5"]
    for method in ("setwise", "listwise"):
        assert len(Reranker(folder, dtype="fp32", method=method).rank("what to drink 5", documents)) == 3


def test_the_warmup_learns_labels_of_several_documents(tmp_path, tiny_llama_dir):
    chosen = Warmup(data="", out="", list_size=4, num_generations=0, exploration_rate=0.2)
    resolved = resolve(tiny_llama_dir)
    model = load_model(resolved, torch.float32, torch.device("cpu"))
    bound = Prompt.preset("setwise").bind_list(load_tokenizer(resolved))
    groups = read_groups(str(coffee_lists(tmp_path / "lists.jsonl")), "train")
    stage = WarmupStage(groups, bound, chosen, model, None, False)
    examples = [stage.example(i) for i in range(3)]
    assert all(example.answers == 4 and example.row == -1 for example in examples)
    assert len({stage.example(i).label for i in range(20)}) == 4
    figures = optimised(stage, model, examples, 60)
    assert figures["accuracy"] == 1.0 and figures["format_rate"] == 1.0 and figures["reward"] > 1.2


def test_labels_of_several_documents_can_be_learned(tmp_path, tiny_llama_dir):
    data = coffee_lists(tmp_path / "lists.jsonl")
    stage, model = stage_of(tiny_llama_dir, data, prompt="setwise", list_size=4)
    examples = [stage.example(i) for i in range(3)]
    bound, example = stage.encoder, examples[0]
    row = model(input_ids=torch.tensor([example.packs[0].ids])).logits[0, -1]
    scores = stage.scores(row[None], [example])[0]
    assert torch.equal(scores, row[bound.answer_ids[:4]]) and len(example.packs) == 1 and len(example.lists[0].labels) == 4
    figures = optimised(stage, model, examples, 40)
    assert figures["top1"] == 1.0 and figures["format_rate"] == 1.0 and figures["reward_sorted"] == 1.0
