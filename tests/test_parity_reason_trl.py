"""GRPO's loss and gradient on thoughts against TRL's GRPOTrainer, on the same completions, away from the reference.

TRL loads its reference from the folder of the policy's weights, so the policy is moved in memory after loading, on both
sides by the same noise.
"""

from collections import Counter

import pytest
import torch

from prorank.checkpoints.loading import load_model, load_tokenizer
from prorank.checkpoints.resolve import resolve
from prorank.data.examples import Group
from prorank.prompts.prompt import Prompt
from prorank.rewards.rules import RuleReward, Rules, counter
from prorank.train.settings.stage_settings import Grpo, Reason
from prorank.train.stages.reason import ReasonStage
from tests.tiny import save_tiny

pytest.importorskip("trl", reason="needs the extra [bench]")

P, G, LONGEST, BETA, TEMPERATURE = 2, 4, 10, 0.2, 0.8


def moved(resolved):
    """The tiny model, moved away from its weights on disk."""
    model = load_model(resolved, torch.float32, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.02)
    return model


def ours(resolved, bound, loss, scale, corrected, out, epsilon_high=None):
    """(loss, gradients, episodes) of one batch. With `epsilon_high` it is a later pass: the old log-probabilities are others."""
    grpo = Grpo(num_generations=G, scale_rewards=scale, loss=loss, bias_correction_kl=corrected, epsilon_high=epsilon_high)
    settings = Reason(
        data="-", out=str(out), algorithm="grpo", batch_size=P, grpo=grpo, beta=BETA, temperature=TEMPERATURE,
        max_new_tokens=LONGEST, max_think_tokens=500, reward={"min_think_tokens": 1},
    )  # fmt: skip
    groups = [Group(f"coffee {i}", (f"the coffee is {i} there",), (float(i % 2),)) for i in range(P)]
    at_home = load_model(resolved, torch.float32, torch.device("cpu"))
    stage = ReasonStage(groups, bound, settings, at_home, [], False)  # the reference is the model at home
    model = moved(resolved)
    # The rewards of a random model are all the same; these are not, and TRL is handed the same ones.
    judged = stage.rollouts._judged

    def uneven(example, rows):
        episode = judged(example, rows)
        verdict = type(episode.verdicts[0])
        episode.verdicts = [verdict((example.key * 3 + k * k) % 5 / 2, v.parts, None, 0) for k, v in enumerate(episode.verdicts)]
        return episode

    stage.rollouts._judged = uneven
    examples = [stage.example(i) for i in range(P)]
    if epsilon_high is not None:
        stage.loss(model, examples)
        for episode in stage._batch[1].values():
            episode.old = [row - 0.5 * torch.sin(7.0 * torch.arange(len(row)) + row) for row in episode.old]
    value, _ = stage.loss(model, examples)
    value.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return float(value.detach()), gradients, list(stage._batch[1].values())


def theirs(resolved, bound, episodes, loss, scale, corrected, out, epsilon_high=None):
    """(loss, gradients) of TRL's first step on the same completions."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    texts = [f"prompt {i}" for i in range(P)]
    by_text = dict(zip(texts, episodes))

    def replay(prompts, trainer):
        seen, completions = Counter(), []
        for text in prompts:
            completions.append(by_text[text].rows[seen[text]])
            seen[text] += 1
        return {"prompt_ids": [by_text[t].prompt for t in prompts], "completion_ids": completions, "logprobs": None}

    def reward(prompts, completion_ids, **_):
        seen, found = Counter(), []
        for text in prompts:
            found.append(by_text[text].verdicts[seen[text]].reward)
            seen[text] += 1
        return found

    taken = {}

    class Take(TrainerCallback):
        def on_pre_optimizer_step(self, *_, model, **__):
            taken.update({name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None})

    config = GRPOConfig(
        output_dir=str(out), max_steps=1, num_generations=G, per_device_train_batch_size=P * G, gradient_accumulation_steps=1,
        max_completion_length=LONGEST, beta=BETA, temperature=TEMPERATURE, loss_type=loss, scale_rewards=scale, bf16=False,
        use_bias_correction_kl=corrected, epsilon_high=epsilon_high, gradient_checkpointing=False, max_grad_norm=1e9,
        shuffle_dataset=False, use_cpu=True,
        save_strategy="no", report_to=[], logging_steps=1, disable_tqdm=True, dataloader_pin_memory=False, log_level="error",
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=moved(resolved), reward_funcs=reward, args=config, train_dataset=Dataset.from_list([{"prompt": t} for t in texts]),
        processing_class=bound.tokenizer, rollout_func=replay,
    )  # fmt: skip
    trainer.add_callback(Take())
    trainer.train()
    return trainer.state.log_history[0]["loss"], taken


KINDS = [
    ("grpo", "group", False), ("grpo", "batch", True), ("dr_grpo", "none", True), ("dapo", "group", False), ("dapo", "batch", True),
]  # fmt: skip


@pytest.mark.parametrize("loss, scale, corrected", KINDS)
def test_loss_and_gradient_are_trls(tmp_path, monkeypatch, loss, scale, corrected):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    resolved = resolve(save_tiny(tmp_path / "tiny", "llama"))
    bound = Prompt.preset("rerank-r0", max_length=200, system="Judge.").bind(load_tokenizer(resolved))
    value, gradients, episodes = ours(resolved, bound, loss, scale, corrected, tmp_path)
    wanted, trls = theirs(resolved, bound, episodes, loss, scale, corrected, tmp_path / "trl")
    assert value == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    total = sum(float(g.norm() ** 2) for g in trls.values()) ** 0.5
    apart = sum(float((gradients[name] - trls[name]).norm() ** 2) for name in trls) ** 0.5
    assert total > 1e-3 and apart / total < 1e-3 and gradients.keys() == trls.keys()


@pytest.mark.parametrize(("loss", "epsilon_high"), [("dapo", 0.28), ("dr_grpo", 0.2), ("grpo", 0.4)])
def test_clipping_higher_is_trls(tmp_path, monkeypatch, loss, epsilon_high):
    """A later pass: ratios differ from 1, and TRL is handed the same old log-probabilities."""
    from trl import GRPOTrainer

    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    resolved = resolve(save_tiny(tmp_path / "tiny", "llama"))
    bound = Prompt.preset("rerank-r0", max_length=200, system="Judge.").bind(load_tokenizer(resolved))
    value, gradients, episodes = ours(resolved, bound, loss, "group", False, tmp_path, epsilon_high)
    old = {(*e.prompt, *ids): row for e in episodes for ids, row in zip(e.rows, e.old)}
    compute = GRPOTrainer._compute_loss

    def with_old(self, model, inputs):
        table = torch.zeros(inputs["completion_ids"].shape)
        for i, row in enumerate(table):
            kept = [inputs[f"{part}_ids"][i][inputs[f"{part}_mask"][i] > 0].tolist() for part in ("prompt", "completion")]
            row[: len(kept[1])] = old[*kept[0], *kept[1]]
        return compute(self, model, inputs | {"old_per_token_logps": table})

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", with_old)
    wanted, trls = theirs(resolved, bound, episodes, loss, "group", False, tmp_path / "trl", epsilon_high)
    assert value == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    total = sum(float(g.norm() ** 2) for g in trls.values()) ** 0.5
    apart = sum(float((gradients[name] - trls[name]).norm() ** 2) for name in trls) ** 0.5
    assert total > 1e-3 and apart / total < 1e-3


def test_the_rewards_run_in_trl_as_they_stand(tmp_path):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    resolved = resolve(save_tiny(tmp_path / "tiny", "llama"))
    tokenizer = load_tokenizer(resolved)
    count = counter(tokenizer)
    names = ("format_weight", "missing_eos_penalty")
    parts = [RuleReward(Rules(), count, only=[name], eos=tokenizer.eos_token_id) for name in names]
    config = GRPOConfig(
        output_dir=str(tmp_path), max_steps=1, num_generations=4, per_device_train_batch_size=4, max_completion_length=6,
        use_cpu=True, bf16=False, save_strategy="no", report_to=[], logging_steps=1, disable_tqdm=True, log_level="error",
        dataloader_pin_memory=False,
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": "is it coffee?", "label": 1}, {"prompt": "is it bread?", "label": 0}])
    trainer = GRPOTrainer(model=str(resolved.path), reward_funcs=parts, args=config, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert {"rewards/format_weight/mean", "rewards/missing_eos_penalty/mean"} <= logged.keys()
    assert -0.5 <= logged["rewards/missing_eos_penalty/mean"] <= 0
