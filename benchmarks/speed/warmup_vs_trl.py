"""One-token GRPO: TRL's GRPOTrainer against `prorank.train.stages.warmup`, the same prompts, in one run.

TRL computes G prefills, G reference passes, and G forward and backward passes per prompt; here one forward, one reference and one
backward pass suffice for the group.

    python -m benchmarks.speed.warmup_vs_trl                    # about 7 minutes on two cores
    python -m benchmarks.speed.warmup_vs_trl --prompts 32 --batch 16 --threads 8 --model FOLDER

Prints prompts/s of both (same dtype, G, beta, batch, learning rate; no gradient checkpointing in either), of TRL at its
defaults, and the difference of the gradients for the same samples in fp32; then one JSON line. Exit code 1 if the ratio
is below 10 or the gradients differ by more than 1e-3.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers

from benchmarks.common import machine, say
from benchmarks.jobs import Failures
from prorank.checkpoints.loading import load_config, load_model, load_tokenizer, pick_device
from prorank.checkpoints.resolve import Resolved, resolve
from prorank.data.examples import Group
from prorank.engine.auto import pick_dtype
from prorank.engine.layer_speed import TRAINING
from prorank.prompts.prompt import PairPromptEncoder, Prompt
from prorank.train.objectives import one_token_grpo as policy
from prorank.train.settings.stage_settings import Warmup
from prorank.train.stage_trainer import StageTrainer
from prorank.train.stages import warmup
from prorank.utils.strict_json import dumps

WORDS = (
    "water city music light animal river engine history garden school bridge winter metal forest island machine doctor "
    "letter market planet summer paper castle window energy mountain language coffee village theory camera desert"
).split()
LINKS = "is near was found in the and a with from under an old of this very large".split()
WANTED_RATIO, WANTED_DIFFERENCE = 10.0, 1e-3


@dataclass
class Task:
    """Data of both sides: `groups` of one labelled document each, with one prompt."""

    resolved: Resolved
    encoder: PairPromptEncoder
    groups: list[Group]
    num_generations: int
    beta: float
    batch: int

    def __post_init__(self) -> None:
        self.rows = [(g.query, g.documents[0], int(g.labels[0] > 0)) for g in self.groups]
        self.texts = [self.encoder.render(query, document) for query, document, _ in self.rows]
        self.ids = [self.encoder.encode(query, document).ids for query, document, _ in self.rows]
        # TRL tokenises the rendered string, while we join ids: the comparison is valid only if the ids are equal.
        if [self.encoder.tokenizer(text)["input_ids"] for text in self.texts] != self.ids:
            raise SystemExit("the two sides have different ids; use a model whose rendered prompt has equal ids")
        if len(set(self.texts)) != len(self.texts):
            raise SystemExit("the prompts are not distinct")


@dataclass
class Outcome:
    """Seconds of training (wall-clock and processor time), and gradients of the first step if requested."""

    seconds: float = 0.0
    processor: float = 0.0
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)


def make_groups(encoder: PairPromptEncoder, count: int, tokens: int, seed: int) -> list[Group]:
    """Make `count` distinct prompts of about `tokens` tokens. Every other one is relevant: its document contains the query."""
    rng = random.Random(seed)
    groups = []
    for i in range(count):
        query = " ".join(rng.sample(WORDS, 4))
        document = query if i % 2 == 0 else ""
        while len(encoder.encode(query, document).ids) < tokens:
            document += f" {rng.choice(LINKS)} {rng.choice(WORDS)}"
        groups.append(Group(query, (document.strip(),), (float(i % 2 == 0),), query_id=str(i)))
    return groups


def probe(outcome: Outcome, keep_gradients: bool) -> Any:
    """Return a callback for both trainers that measures the time and stores the gradients before the first update."""
    from transformers import TrainerCallback

    class Probe(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            outcome.seconds, outcome.processor = -time.perf_counter(), -time.process_time()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            outcome.seconds += time.perf_counter()
            outcome.processor += time.process_time()

        def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
            if keep_gradients and not outcome.gradients:
                named = model.named_parameters()
                outcome.gradients.update({n: p.grad.detach().clone() for n, p in named if p.grad is not None})

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop |= keep_gradients  # the comparison needs one step only

    return Probe()


def train_ours(
    task: Task, bf16: bool, out: str, exploration_rate: float = 0.0, gradients: bool = False, exact: bool = False
) -> Outcome:
    """Train one pass over the task's prompts with the sampled (or the exact) advantage."""
    settings = Warmup(
        out=out, data="-", steps=len(task.rows) // task.batch + gradients, batch_size=task.batch, num_evaluations=0, save_every=0,
        advantage="exact" if exact else "sampled", num_generations=task.num_generations, beta=task.beta,
        balance_weight=0.0,  # TRL has no such terms
        entropy_weight=0.0,
        scale_rewards="group",
        exploration_rate=exploration_rate, near_miss_reward=0.0,
        learning_rate=2e-5, warmup_ratio=0.0, max_grad_norm=1e9 if gradients else 1.0, log_every=1000,
    )  # fmt: skip
    model = load_model(task.resolved, torch.float32, torch.device("cpu"))
    model.config.use_cache = False
    stage = warmup.WarmupStage(task.groups, task.encoder, settings, model, None, bf16)
    trainer = StageTrainer(stage, settings, model, bf16, save_best=None)
    outcome = Outcome()
    trainer.add_callback(probe(outcome, gradients))
    trainer.fit(resume=False)
    return outcome


def reward_function(task: Task) -> Any:
    """Return the warm-up's rewards in TRL's calling convention."""
    values = policy.Rewards(near_miss=0.0).of_classes()

    def reward(completion_ids: list[list[int]], label: list[int], **_: Any) -> list[float]:
        tokens = torch.tensor([[ids[0]] for ids in completion_ids])
        return policy.rewards_of_tokens(tokens, torch.tensor(label), task.encoder.answer_ids, [], values)[:, 0].tolist()

    return reward


def train_trl(task: Task, bf16: bool, out: str, samples: dict[str, list[int]] | None = None, defaults: bool = False) -> Outcome:
    """Train the same pass with TRL. `samples` (rendered prompt -> tokens) replace its samples; then gradients are stored.

    With `defaults`, only settings that a run on one token needs are changed: max_completion_length 1, no files, no CUDA.
    """
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    same: dict[str, Any] = {} if defaults else {
        "num_generations": task.num_generations, "beta": task.beta, "bf16": bf16, "gradient_checkpointing": False,
        "per_device_train_batch_size": task.num_generations, "gradient_accumulation_steps": task.batch,
        "learning_rate": 2e-5, "lr_scheduler_type": "constant", "max_grad_norm": 1e9 if samples else 1.0,
        "mask_truncated_completions": False,  # one token is always "truncated"; True would leave no gradient
        # With the ratio as a factor, TRL's per-sample estimate has the exact KL's gradient in expectation.
        "use_bias_correction_kl": True,
        "shuffle_dataset": False,
    }  # fmt: skip
    steps = len(task.rows) if defaults else len(task.rows) // task.batch
    config = GRPOConfig(
        output_dir=out, max_steps=steps, max_completion_length=1, use_cpu=True, save_strategy="no", report_to=[],
        logging_steps=1000, disable_tqdm=True, dataloader_pin_memory=False, log_level="error", **same,
    )  # fmt: skip
    rows = [{"prompt": text, "label": row[2]} for text, row in zip(task.texts, task.rows)]
    trainer = GRPOTrainer(
        model=str(task.resolved.path), reward_funcs=reward_function(task), args=config,
        train_dataset=Dataset.from_list(rows), processing_class=task.encoder.tokenizer,
        rollout_func=replay(task, samples) if samples else None,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    outcome = Outcome()
    trainer.add_callback(probe(outcome, bool(samples)))
    trainer.train()
    return outcome


def replay(task: Task, samples: dict[str, list[int]]) -> Any:
    """Return a rollout function for TRL that returns given tokens instead of sampling."""
    ids = dict(zip(task.texts, task.ids))

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        seen: Counter = Counter()
        completions = []
        for prompt in prompts:
            completions.append([samples[prompt][seen[prompt]]])
            seen[prompt] += 1
        return {"prompt_ids": [ids[p] for p in prompts], "completion_ids": completions, "logprobs": None}

    return rollout


def compare_gradients(task: Task, folder: Path) -> dict[str, float]:
    """Compare gradients of one step in fp32 for the same samples.

    TRL replays our samples. Half of them are forced answers, so that rewards differ within a group.

    Returns:
        Relative norm of the difference, overall and in the worst tensor.
    """
    small = Task(task.resolved, task.encoder, task.groups[:2], task.num_generations, task.beta, 2)
    drawn: dict[int, list[int]] = {}

    def recording(logits, size, generator, answer_ids, exploration_rate):
        tokens = policy.sample_tokens(logits, size, generator, answer_ids, exploration_rate)
        drawn[generator.initial_seed()] = tokens.tolist()  # with seed 0 this is the example's index in the run
        return tokens

    with mock.patch.object(warmup, "sample_tokens", recording):
        ours = train_ours(small, False, str(folder / "ours"), exploration_rate=0.5, gradients=True).gradients
    order = warmup.balanced_pairs(small.groups, 0)
    samples = {task.encoder.render(query, document): drawn[i] for i, (query, document, _) in enumerate(order)}
    theirs = train_trl(small, False, str(folder / "trl"), samples).gradients
    if ours.keys() != theirs.keys():
        raise SystemExit(f"the two sides train different parameters: {sorted(ours.keys() ^ theirs.keys())[:4]}")
    norms = {name: float(theirs[name].norm()) for name in theirs}
    apart = {name: float((ours[name] - theirs[name]).norm()) for name in theirs}
    total = sum(n**2 for n in norms.values()) ** 0.5
    if not total > 0:
        raise SystemExit("the gradient is zero: no group has unequal rewards, so nothing was compared")
    worst = max(apart[name] / norms[name] for name in norms if norms[name] > 1e-6 * total)
    return {"norm": total, "relative": sum(a**2 for a in apart.values()) ** 0.5 / total, "worst_tensor": worst}


def speeds(task: Task, bf16: bool, folder: Path, default_prompts: int, failures: Failures) -> dict[str, dict[str, float]]:
    """Return prompts per second and processor seconds per prompt of each side. TRL runs that fail are left out."""
    figures = {}

    def record(name: str, count: int, outcome: Outcome) -> None:
        figures[name] = {"prompts_per_second": count / outcome.seconds, "processor_seconds": outcome.processor / count}
        say(f"{name}: {count} prompts in {outcome.seconds:.1f} s")
        gc.collect()

    count = len(task.rows)
    before = train_ours(task, bf16, str(folder / "before"))
    record("ours, exact", count, train_ours(task, bf16, str(folder / "exact"), exact=True))
    say(f"TRL with the same settings, {count} prompts (about half a minute each)")
    with failures.arm("TRL, same settings"):
        record("TRL, same settings", count, train_trl(task, bf16, str(folder / "trl")))
    # Measure again after TRL, to detect changes in other load of the machine.
    after = train_ours(task, bf16, str(folder / "after"))
    both = Outcome(before.seconds + after.seconds, before.processor + after.processor)
    record("ours, sampled", 2 * count, both)
    figures["ours, sampled"]["drift"] = after.seconds / before.seconds
    if default_prompts:
        say(f"TRL at its defaults, {default_prompts} prompts")
        few = Task(task.resolved, task.encoder, task.groups[:default_prompts], task.num_generations, task.beta, 1)
        with failures.arm("TRL, defaults"):
            record("TRL, defaults", default_prompts, train_trl(few, bf16, str(folder / "defaults"), defaults=True))
    return figures


def show(figures: dict[str, dict[str, float]], gradients: dict[str, float], facts: dict[str, Any]) -> bool:
    """Print table and JSON line. Returns whether both targets are met."""
    base = figures.get("TRL, same settings", {}).get("prompts_per_second", math.nan)
    ratio = figures["ours, sampled"]["prompts_per_second"] / base
    print(f"\n{'one-token GRPO':<22}{'prompts/s':>11}{'times TRL':>11}{'CPU s/prompt':>14}")
    for name, row in figures.items():
        speed = row["prompts_per_second"]
        print(f"{name:<22}{speed:>11.4f}{speed / base:>11.1f}{row['processor_seconds']:>14.1f}")
    print(f"\ngradients, same samples, fp32: |difference| / |gradient| = {gradients['relative']:.1e}")
    print(f"(worst tensor {gradients['worst_tensor']:.1e}; wanted at most {WANTED_DIFFERENCE:g}); ratio {ratio:.1f} "
          f"(wanted at least {WANTED_RATIO:g})\n")  # fmt: skip
    drift = figures["ours, sampled"]["drift"]
    if not 0.8 < drift < 1.25:
        print(f"WARNING: ours took {drift:.2f} times as long after TRL as before: the machine was not idle, so the ratio "
              "is unreliable")  # fmt: skip
    print(dumps({"speeds": figures, "ratio": ratio, "gradients": gradients, **facts}))
    return ratio >= WANTED_RATIO and gradients["relative"] <= WANTED_DIFFERENCE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m", help="checkpoint name or folder")
    parser.add_argument("--prompts", type=int, default=8, help="distinct prompts for both sides (TRL: about half a minute each)")
    parser.add_argument("--default-prompts", type=int, default=1, help="prompts for TRL at its defaults (0 to omit)")
    parser.add_argument("--tokens", type=int, default=377, help="length of a prompt")
    parser.add_argument("--batch", type=int, default=4, help="prompts per optimiser step")
    parser.add_argument("--group", type=int, default=8, help="G, samples per prompt")
    parser.add_argument("--beta", type=float, default=0.02, help="weight of the KL term")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bf16", "fp32"], help="bf16 means autocast")
    # Threads wait for each other by spinning, so with other load several are slower than one: keep the machine idle.
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of both sides")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.prompts % options.batch or options.prompts < 2 or options.prompts % 2:
        raise SystemExit("--prompts must be even and a multiple of --batch")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # about rollout_func
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    resolved = resolve(options.model)
    encoder = Prompt.preset("prorank", max_length=2 * options.tokens).bind(load_tokenizer(resolved))
    groups = make_groups(encoder, options.prompts, options.tokens, options.seed)
    task = Task(resolved, encoder, groups, options.group, options.beta, options.batch)
    bf16 = pick_dtype(options.dtype, pick_device("cpu"), load_config(resolved), TRAINING) == torch.bfloat16
    with tempfile.TemporaryDirectory() as folder:
        say("gradients of both for the same samples, fp32")
        failures = Failures()
        gradients = dict.fromkeys(("norm", "relative", "worst_tensor"), math.nan)
        with failures.arm("gradients"):
            gradients = compare_gradients(task, Path(folder))
        gc.collect()
        figures = speeds(task, bf16, Path(folder), options.default_prompts, failures)
    facts = {**vars(options), "dtype": "bf16 autocast" if bf16 else "fp32", **machine("trl")}
    facts["mean_prompt_tokens"] = sum(map(len, task.ids)) / len(task.ids)
    met = show(figures, gradients, facts)
    failures.finish()
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
