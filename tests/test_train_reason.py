"""Stage `reason`: PPO's and GRPO's arithmetic against plain NumPy and TRL, rollouts that come again, and a policy that learns.

The equations are transcribed here from the papers with loops over rows and tokens, sharing no code with the stage.
"""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.data.examples import Group
from prorank.errors import ConfigError, DataError
from prorank.prompts.prompt import Prompt
from prorank.reranker import Reranker
from prorank.train.curves import read_metrics
from prorank.train.objectives.one_token_grpo import advantages, clipped_surrogate
from prorank.train.objectives.ppo_grpo import estimated_kl, gae, mask_of, padded, token_rewards, value_loss, weights_of, whitened
from prorank.train.run import train
from prorank.train.settings.stage_settings import Reason, make_settings
from prorank.train.stages.reason import ReasonStage
from prorank.train.stages.token_log_probs import token_log_probs
from prorank.train.value_head import PolicyWithValue, make_value_head
from tests.tiny import save_tiny, write_jsonl

CPU = torch.device("cpu")
RULES = {"min_think_tokens": 1, "max_think_tokens": 8}


def drawn(seed, rows=4, longest=7):
    """Random rows of unequal length: {name: [R, T]} and their sizes."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, longest + 1, rows).tolist()
    return {name: rng.normal(size=(rows, max(sizes))) for name in ("now", "old", "then", "values", "before")}, sizes, rng


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), gamma=st.floats(0.5, 1.0), lam=st.floats(0.1, 1.0), coef=st.floats(0, 1), whiten=st.booleans())
def test_ppos_rewards_advantages_and_returns_are_those_of_the_equations(seed, gamma, lam, coef, whiten):
    x, sizes, rng = drawn(seed)
    scores = rng.normal(size=len(sizes))
    # Directly: r_t = -coef (log p - log q), the score on the last token; A_t = sum of (gamma lam)^k delta_(t+k).
    apart = x["now"] - x["then"]
    rewards = [[-coef * apart[i, t] + scores[i] * (t == n - 1) for t in range(n)] for i, n in enumerate(sizes)]
    if whiten:
        everything = np.concatenate([np.array(row) for row in rewards])
        spread = math.sqrt((everything.var(ddof=1) if len(everything) > 1 else 0.0) + 1e-8)
        rewards = [[(r - everything.mean()) / spread + everything.mean() for r in row] for row in rewards]
    want_a, want_r = [], []
    for i, n in enumerate(sizes):
        v = [*x["values"][i, :n], 0.0]
        deltas = [rewards[i][t] + gamma * v[t + 1] - v[t] for t in range(n)]
        row = [sum((gamma * lam) ** k * deltas[t + k] for k in range(n - t)) for t in range(n)]
        want_a += row
        want_r += [a + b for a, b in zip(row, v)]
    t = {name: torch.tensor(value) for name, value in x.items()}
    mask = mask_of(sizes).double()
    each = token_rewards(torch.tensor(scores), t["now"], t["then"], mask, coef)
    each = whitened(each, mask, shift=False) if whiten else each
    got_a, got_r = gae(each, t["values"], mask, gamma, lam)
    np.testing.assert_allclose(got_a[mask > 0], want_a, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(got_r[mask > 0], want_r, rtol=1e-6, atol=1e-8)
    assert float(got_a[mask == 0].abs().sum()) == 0
    if len(want_a) > 1:
        want_w = (np.array(want_a) - np.mean(want_a)) / math.sqrt(np.var(want_a, ddof=1) + 1e-8)
        np.testing.assert_allclose(whitened(got_a, mask)[mask > 0], want_w, rtol=1e-5, atol=1e-6)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), clip=st.floats(0.05, 0.5))
def test_ppos_losses_are_those_of_the_equations(seed, clip):
    x, sizes, rng = drawn(seed)
    gains, returns = rng.normal(size=x["now"].shape), rng.normal(size=x["now"].shape)
    policy, value, count = 0.0, 0.0, sum(sizes)
    for i, n in enumerate(sizes):
        for t in range(n):
            ratio = math.exp(x["now"][i, t] - x["old"][i, t])
            policy += max(-gains[i, t] * ratio, -gains[i, t] * min(max(ratio, 1 - clip), 1 + clip)) / count
            held = x["before"][i, t] + min(max(x["values"][i, t] - x["before"][i, t], -clip), clip)
            value += 0.5 * max((x["values"][i, t] - returns[i, t]) ** 2, (held - returns[i, t]) ** 2) / count
    at = mask_of(sizes) > 0
    flat = {name: torch.tensor(v)[at] for name, v in {**x, "gains": gains, "returns": returns}.items()}
    weights = weights_of("dapo", sizes, count, len(sizes), 99).repeat_interleave(torch.tensor(sizes))
    got = -(clipped_surrogate(flat["now"], flat["old"], flat["gains"], clip) * weights).sum()
    assert float(got) == pytest.approx(policy, rel=1e-5, abs=1e-7)
    got = (value_loss(flat["values"], flat["before"], flat["returns"], clip) * weights).sum()
    assert float(got) == pytest.approx(value, rel=1e-5, abs=1e-7)


def test_rows_come_back_from_their_padded_table():
    flat = torch.arange(6.0)
    table = padded(flat, [1, 3, 2])
    assert table.shape == (3, 3) and torch.equal(table[mask_of([1, 3, 2]) > 0], flat)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_of_groups(scale):
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5]])
    got = advantages(rewards, scale)
    spread = {"group": rewards[0].std() + 1e-4, "batch": rewards.std() + 1e-4, "none": 1.0}[scale]
    torch.testing.assert_close(got[0], torch.tensor([0.5, -0.5, -0.5, 0.5]) / spread)
    assert got[1].abs().max() == 0


def test_an_unknown_loss_is_named():
    with pytest.raises(ConfigError, match="loss 'x' is not known; valid: grpo, dr_grpo, dapo"):
        weights_of("x", [1], 1, 1, 1)


def groups(count=12):
    words = ["coffee", "bread", "horse", "castle"] * 99
    return [Group(words[i], (f"the {words[i]} is here {i}", f"no {words[i + 1]} {i}"), (1.0, 0.0)) for i in range(count)]


def settings_of(**more):
    values = {"stage": "reason", "data": "d", "out": "o", "batch_size": 4, "max_new_tokens": 12, "max_think_tokens": 6}
    return make_settings(values | {"reward": RULES, "temperature": 1.0, "grpo": {"num_generations": 3}} | more)


@pytest.fixture(params=["llama", "qwen2"])
def made(request, tmp_path):
    """(stage, model, settings) of an algorithm and its settings."""

    def make(algorithm="grpo", **more):
        resolved = resolve(save_tiny(tmp_path / "tiny", request.param))
        model = load_model(resolved, torch.float32, CPU)
        bound = Prompt.preset("rerank-r0", max_length=300, system="Judge.").bind(load_tokenizer(resolved))
        model = PolicyWithValue(model) if algorithm == "ppo" else model
        s = settings_of(algorithm=algorithm, out=str(tmp_path), **more)
        return ReasonStage(groups(), bound, s, model, [], False), model, s

    return make


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_on_the_first_pass_the_ratio_is_exactly_1(made, algorithm):
    stage, model, _ = made(algorithm)
    examples = [stage.example(i) for i in range(4)]
    loss, figures = stage.loss(model, examples[:2])
    assert figures["ratio"] == 1.0 and figures["clip_share"] == 0.0
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    _, later = stage.loss(model, examples[:2])  # a second pass over the same rows
    assert later["ratio"] != 1.0 and later["reward"] == figures["reward"]


def test_micro_batches_add_up_to_the_batch(made):
    for algorithm, more in (("ppo", {}), ("grpo", {}), ("grpo", {"grpo": {"num_generations": 3, "loss": "dapo"}})):
        stage, model, _ = made(algorithm, **more)
        examples = [stage.example(i) for i in range(4)]
        whole, _ = stage.loss(model, examples)
        parts = [stage.loss(model, examples[i : i + 1])[0] for i in range(4)]
        assert sum(parts).item() / 4 == pytest.approx(float(whole), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "dapo"])
def test_grpos_loss_is_that_of_the_equation_over_single_rows(made, loss):
    more = {"beta": 0.3, "grpo": {"num_generations": 3, "loss": loss, "bias_correction_kl": False}}
    stage, model, s = made("grpo", **more)
    examples = [stage.example(i) for i in range(4)]
    stage._episodes(model, 0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.02)  # so that the reference is another
    got, _ = stage.loss(model, examples)
    episodes = list(stage._batch[1].values())
    sums = [e for e in episodes]
    tokens, rows, total = sum(len(d) for e in sums for d in e.drawn), sum(len(e.rows) for e in sums), 0.0
    for e in sums:
        rewards = np.array([v.reward for v in e.verdicts])
        gains = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
        for k, ids in enumerate(e.rows):
            logits = [m(torch.tensor([e.prompt + ids])).logits[0] / s.temperature for m in (model, stage.reference.frozen)]
            now, then = (x.log_softmax(-1)[len(e.prompt) - 1 : -1][range(len(ids)), ids] for x in logits)
            at = e.drawn[k]
            each = -gains[k] + 0.3 * ((then - now).exp() - (then - now) - 1)[at]
            weight = {"grpo": 1 / (len(at) * rows), "dapo": 1 / tokens, "dr_grpo": 1 / (rows * s.max_new_tokens)}[loss]
            total += float(each.sum()) * weight
    assert float(got) == pytest.approx(total, rel=1e-3, abs=1e-5)


def test_log_probs_in_parts_are_those_of_the_whole_with_the_same_gradient(made, monkeypatch):
    _, model, _ = made()
    hidden = torch.randn(9, 64, requires_grad=True)
    targets = torch.randint(300, (9,))
    whole, entropy = token_log_probs(model, hidden, targets, 0.7)
    want = torch.autograd.grad(whole.sum(), hidden)[0]
    monkeypatch.setattr("prorank.train.stages.token_log_probs.MAX_LOGITS", 1000)
    parts, also = token_log_probs(model, hidden, targets, 0.7)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(also, entropy)
    torch.testing.assert_close(torch.autograd.grad(parts.sum(), hidden)[0], want)
    logits = model.lm_head(hidden.detach()) / 0.7
    torch.testing.assert_close(whole.detach(), logits.log_softmax(-1)[range(9), targets], rtol=1e-4, atol=1e-5)


def test_estimated_kl_is_never_negative_and_0_at_home():
    now = torch.randn(100)
    assert (estimated_kl(now, torch.randn(100)) >= 0).all() and estimated_kl(now, now).abs().max() == 0


def test_rollouts_depend_on_seed_and_place_alone(made):
    stage, model, _ = made("grpo")
    first = [e.rows for e in stage._episodes(model, 0).values()]
    stage._batch = (-1, {})
    assert [e.rows for e in stage._episodes(model, 0).values()] == first
    other = [e.rows for e in stage._episodes(model, 4).values()]
    assert other != first and len(first[0]) == 3


REASON = ("max_new_tokens", "temperature", "reward", "completions_every")  # keys that stage sft does not have


def run(tmp_path, name, base, **more):
    pairs = [(g.query, d, int(label)) for g in groups(24) for d, label in zip(g.documents, g.labels)]
    data = write_jsonl(tmp_path / "data.jsonl", [dict(zip(("query", "document", "label"), pair)) for pair in pairs])
    values = {
        "stage": "reason", "data": str(data), "out": str(tmp_path / name), "base": str(base), "dtype": "fp32", "dev_queries": 2,
        "prompt": {"preset": "rerank-r0", "system": "Judge."}, "max_length": 200, "batch_size": 4, "log_every": 1,
        "num_evaluations": 2, "max_new_tokens": 16, "max_think_tokens": 8, "temperature": 1.0, "reward": RULES,
        "completions_every": 2,
    }  # fmt: skip
    return make_settings({key: value for key, value in (values | more).items() if key not in REASON or value is not None})


def figures(folder):
    """What was logged, without times."""
    return [{k: v for k, v in line.items() if "second" not in k and k != "minutes"} for line in read_metrics(folder)]


@pytest.mark.parametrize("lora", [None, {"r": 4}])
@pytest.mark.parametrize("more", [{"algorithm": "ppo", "steps": 8}, {"algorithm": "grpo", "steps": 4}])
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path, tiny_llama_dir, monkeypatch, more, lora):
    more = more | {"lora": lora, "save_every": 2, "save_total_limit": 5, "learning_rate": 1e-3}
    train(run(tmp_path, "whole", tiny_llama_dir, **more))
    settings_ = run(tmp_path, "cut", tiny_llama_dir, **more)
    from prorank.train.stage_trainer import StageTrainer

    saved = StageTrainer.checkpoint

    def killed(self):
        if self.state.global_step > 2:
            raise MemoryError
        saved(self)

    monkeypatch.setattr(StageTrainer, "checkpoint", killed)
    with pytest.raises(MemoryError):
        train(settings_)
    monkeypatch.undo()
    train(settings_, resume=True)
    logs = [figures(tmp_path / name) for name in ("whole", "cut")]
    assert len(logs[0]) == len(logs[1]) >= more["steps"]
    for a, b in zip(*logs):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-5), key
    texts = [(tmp_path / n / "completions.jsonl").read_text() for n in ("whole", "cut")]
    assert texts[0] == texts[1] and {"reward", "parts", "completion", "step"} <= json.loads(texts[0].splitlines()[0]).keys()


def test_several_runs_share_a_picture_and_thoughts_are_shown(tmp_path, tiny_llama_dir, capsys, monkeypatch):
    from prorank.cli.command_line import main
    from prorank.train.curves import plot

    runs = [tmp_path / name for name in ("a", "b")]
    for number, folder in enumerate(runs):
        train(run(tmp_path, folder.name, tiny_llama_dir, algorithm="grpo", steps=2, seed=number))
    picture = plot(*runs, out=tmp_path / "both.png")
    assert picture == tmp_path / "both.png" and picture.read_bytes()[:4] == b"\x89PNG"
    some = plot(*runs, out=tmp_path / "some.png", only=["reward"])
    assert some.read_bytes().startswith(b"\x89PNG") and some.stat().st_size < picture.stat().st_size
    with pytest.raises(DataError, match="no run has a figure 'rewards'"):
        plot(*runs, only=["rewards"])
    assert plot(*runs) == runs[0] / "compared_curves.png" and plot(runs[1]) == runs[1] / "train_curves.png"
    (tmp_path / "d.txt").write_text("the coffee\nsome bread\n")
    asked = ["rerank", str(tmp_path / "d.txt"), "-q", "coffee", "-m", str(runs[0]), "--device", "cpu", "--json"]
    for more, thoughts in ((["--show-thoughts"], True), (["--no-think"], False)):
        monkeypatch.setattr("sys.argv", ["prorank", *asked, *more])
        with pytest.raises(SystemExit) as done:
            main()
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert not done.value.code and len(lines) == 2 and all(("thought" in line) == thoughts for line in lines)
    monkeypatch.setattr("sys.argv", ["prorank", *asked, "--no-think", "--show-thoughts"])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 2 and "answers at once and has no thoughts" in capsys.readouterr().err


def test_the_value_head_stays_with_training(tmp_path, tiny_llama_dir):
    from safetensors.torch import load_file

    folder = train(run(tmp_path, "r", tiny_llama_dir, algorithm="ppo", steps=2))
    assert not [key for key in load_file(folder / "model.safetensors") if "value_head" in key]
    assert Prompt.load(folder).max_think_tokens == 8 and (tmp_path / "r" / "train_curves.png").is_file()
    logged = next(line for line in read_metrics(tmp_path / "r") if "loss" in line)
    wanted = {"reward", "reward_acc_weight", "format_rate", "kl", "clip_share", "loss_value", "entropy", "think_tokens"}
    assert wanted <= logged.keys()


def test_an_adapter_that_was_trained_before_is_part_of_the_reference(tmp_path, tiny_llama_dir):
    more = {"algorithm": "ppo", "steps": 2, "lora": {"r": 4}, "learning_rate": 0.05}
    start = train(run(tmp_path, "first", tiny_llama_dir, **more))
    train(run(tmp_path, "second", start, **more))
    first, second = (next(line for line in read_metrics(tmp_path / name) if "loss" in line) for name in ("first", "second"))
    assert abs(first["kl"]) < 1e-4 and abs(second["kl"]) < 1e-4


def test_an_interrupt_amid_the_passes_over_a_batch_waits_for_their_end(tmp_path, tiny_llama_dir):
    from prorank.train.schedule import EvalAndSaveCallback

    done = EvalAndSaveCallback.on_step_end

    def stopped(self, args, state, control, **more):
        self.interrupted |= state.global_step == 3  # the first of two passes
        return done(self, args, state, control, **more)

    settings_ = run(tmp_path, "r", tiny_llama_dir, algorithm="ppo", steps=8, save_every=100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EvalAndSaveCallback, "on_step_end", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(settings_)
    assert (tmp_path / "r" / "checkpoint-4" / "complete").is_file()


@pytest.mark.parametrize("kind, style", [("qwen2", "r1"), ("llama4", "smollm")])
def test_both_bases_of_rerank_r0_start_reason_and_rank(tmp_path, kind, style):
    """DeepSeek-R1-Distill-Qwen's class with a template that opens the thought, and MobileLLM-R1's class."""
    base = save_tiny(tmp_path / "base", kind, style)
    words = [("coffee", "yes", 1), ("bread", "no", 0)] * 8
    keys = ("query", "document", "think", "answer", "label")
    rows = [dict(zip(keys, (f"drink {i}", f"{word} {i}", "so", answer, y))) for i, (word, answer, y) in enumerate(words)]
    data = str(write_jsonl(tmp_path / "t.jsonl", rows))
    start = train(run(tmp_path, "sft", base, data=data, stage="sft", steps=3, **{key: None for key in REASON}))
    assert load_tokenizer(resolve(start)).chat_template
    for algorithm in ("ppo", "grpo"):
        more = {"algorithm": algorithm, "steps": 2, "batch_size": 2, "gradient_checkpointing": algorithm == "grpo"}
        folder = train(run(tmp_path, algorithm, start, data=data, **more))
        hits = Reranker(folder, device="cpu").rank("drink", ["coffee 1", "bread 2"])
        assert len(hits) == 2 and all(hit.thought is not None for hit in hits)


def test_values_start_at_0():
    class Model(torch.nn.Module):
        config = type("C", (), {"hidden_size": 3})

        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(1))

    assert float(make_value_head(Model())(torch.randn(5, 3)).abs().max()) == 0


def test_rerank_r0s_own_keys_are_stage_reason():
    own = {"ppo": {"num_ppo_epochs": 3}, "learning_rate": "6e-6", "missing_eos_penalty": 0.7}
    made = make_settings(own | {"data": "d", "out": "o"})
    assert isinstance(made, Reason) and made.algorithm == "ppo" and made.updates == 3 and made.learning_rate == 6e-6
    assert made.base == "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B" and made.rules.missing_eos_penalty == 0.7
    for bad, message in (
        ({"ppo": {"gamma": 1.5}}, "ppo.gamma' must not be above 1"),
        ({"temperature": 0}, "temperature' must be above 0"),
        ({"reward": {"think_bonus": -1}}, "reward.think_bonus' must not be negative"),
        ({"grpo": {"loss": "x"}}, "grpo.loss' must be grpo, dr_grpo or dapo"),
        ({"reward": {"thinkbonus": 1}}, "unknown key 'reward.thinkbonus'"),
    ):
        with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
            make_settings({"ppo": {}, "data": "d", "out": "o"} | bad)
