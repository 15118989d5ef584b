"""GRPO on thoughts: TRL's GRPOTrainer against stage `reason`, the same prompts, group, lengths and rewards, in one run.

All completions have the same number of tokens on both sides, so completions per second compare equal work.

    python -m benchmarks.speed.reason_vs_trl                    # about 10 minutes on two cores
    python -m benchmarks.speed.reason_vs_trl --prompts 8 --group 8 --length 128 --model FOLDER

Prints completions/s of ours (before and after TRL's), of TRL with fp32 weights under bf16 autocast, as in ours, and of TRL with
bf16 weights, where it is fastest, without gradient checkpointing; then one JSON line. Exit code 1 if ours is less than 1.5 times as
fast as the faster one of TRL's.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers

from benchmarks.common import machine, say
from benchmarks.jobs import Failures
from benchmarks.speed.warmup_vs_trl import make_groups
from prorank.checkpoints.loading import load_config, load_model, load_tokenizer, pick_device
from prorank.checkpoints.resolve import Resolved, resolve
from prorank.data.examples import Group
from prorank.engine.auto import pick_dtype
from prorank.engine.generation import Sampler
from prorank.engine.layer_speed import TRAINING
from prorank.engine.sampling import Completion
from prorank.prompts.prompt import PairPromptEncoder, Prompt
from prorank.rewards.rules import RuleReward, Rules, counter
from prorank.train.settings.stage_settings import Grpo, Reason
from prorank.train.stage_trainer import StageTrainer
from prorank.train.stages.reason import ReasonStage
from prorank.utils.strict_json import dumps

WANTED = 1.5
SYSTEM = "Decide whether the document answers the query. Think in <think> tags, then answer yes or no in <answer> tags."


def timer(seconds: list[float]) -> Any:
    """Return a callback for both trainers that adds the seconds of the training loop to `seconds`."""
    from transformers import TrainerCallback

    class Timer(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.began)

    return Timer()


def to_the_end(sampler: Sampler, row: Completion) -> None:
    """Let rows end by their length only."""
    row.done = len(row.ids) >= sampler.sampling.max_tokens


def ours(
    options: argparse.Namespace, resolved: Resolved, encoder: PairPromptEncoder, groups: list[Group], out: str, bf16: bool
) -> float:
    """Return completions per second of one pass."""
    settings = Reason(
        data="-", out=out, algorithm="grpo", batch_size=options.batch, steps=len(groups) // options.batch, num_evaluations=0,
        save_every=0,
        learning_rate=1e-6, beta=options.beta, max_new_tokens=options.length, temperature=1.0, log_every=1000,
        completions_every=0, grpo=Grpo(num_generations=options.group, bias_correction_kl=True), compile=options.compile,
    )  # fmt: skip
    model = load_model(resolved, torch.float32, torch.device("cpu"))
    model.config.use_cache = False
    seconds: list[float] = []
    with mock.patch.object(Sampler, "_advance_to_end", to_the_end):
        trainer = StageTrainer(ReasonStage(groups, encoder, settings, model, [], bf16), settings, model, bf16, save_best=None)
        trainer.add_callback(timer(seconds))
        trainer.fit(resume=False)
    return len(groups) * options.group / seconds[0]


def trl(
    options: argparse.Namespace, resolved: Resolved, encoder: PairPromptEncoder, groups: list[Group], out: str, weights: str
) -> float:
    """Return completions per second of the same pass with TRL. `weights`: "float32" (under autocast) or "bfloat16"."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from transformers.trainer_callback import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        output_dir=out, max_steps=len(groups) // options.batch, max_completion_length=options.length, num_generations=options.group,
        generation_kwargs={"min_new_tokens": options.length}, per_device_train_batch_size=options.micro or options.group,
        gradient_accumulation_steps=options.batch * options.group // (options.micro or options.group), learning_rate=1e-6,
        lr_scheduler_type="constant", beta=options.beta, bf16=options.bf16, gradient_checkpointing=False, temperature=1.0,
        loss_type="grpo", use_bias_correction_kl=True, shuffle_dataset=False, use_cpu=True, save_strategy="no", report_to=[],
        logging_steps=1000, disable_tqdm=True, dataloader_pin_memory=False, log_level="error",
    )  # fmt: skip
    rows = [{"prompt": encoder.render(g.query, g.documents[0]), "label": int(g.labels[0])} for g in groups]
    tokenizer = encoder.tokenizer
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(resolved.path, dtype=getattr(torch, weights)), args=config,
        reward_funcs=RuleReward(Rules(), counter(tokenizer), eos=tokenizer.eos_token_id), train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    seconds: list[float] = []
    trainer.add_callback(timer(seconds))
    trainer.train()
    return len(groups) * options.group / seconds[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m", help="checkpoint name or folder")
    parser.add_argument("--prompts", type=int, default=8, help="distinct prompts for each side")
    parser.add_argument("--batch", type=int, default=4, help="prompts per optimiser step")
    parser.add_argument("--group", type=int, default=8, help="G, completions per prompt")
    parser.add_argument("--tokens", type=int, default=200, help="length of a prompt")
    parser.add_argument("--length", type=int, default=96, help="length of a completion")
    parser.add_argument("--micro", type=int, help="completions per forward pass of TRL (default: a group)")
    parser.add_argument("--beta", type=float, default=0.02, help="weight of the KL term")
    parser.add_argument("--compile", action="store_true", help="compile our element-wise steps")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bf16", "fp32"], help="bf16 means autocast")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of both sides")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.prompts % options.batch:
        raise SystemExit("--prompts must be a multiple of --batch")
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    resolved = resolve(options.model)
    preset = Prompt.preset("rerank-r0", system=SYSTEM, max_length=2 * options.tokens)
    encoder = preset.bind(load_tokenizer(resolved))
    groups = make_groups(encoder, options.prompts, options.tokens, options.seed)
    options.bf16 = pick_dtype(options.dtype, pick_device("cpu"), load_config(resolved), TRAINING) == torch.bfloat16
    arms: dict[str, Any] = {"ours": lambda out: ours(options, resolved, encoder, groups, out, options.bf16)}
    arms["TRL, fp32 weights"] = lambda out: trl(options, resolved, encoder, groups, out, "float32")
    if options.bf16:
        arms["TRL, bf16 weights"] = lambda out: trl(options, resolved, encoder, groups, out, "bfloat16")
    arms["ours, after"] = arms["ours"]
    speeds, failures = {}, Failures()
    with tempfile.TemporaryDirectory() as folder:
        for name, arm in arms.items():
            with failures.arm(name):
                speeds[name] = arm(str(Path(folder) / name.replace(", ", "-")))
                say(f"{name}: {speeds[name]:.3f} completions/s")
            gc.collect()
    best = max((speed for name, speed in speeds.items() if name.startswith("TRL")), default=math.nan)
    own = [speed for name, speed in speeds.items() if name.startswith("ours")]
    ratio = sum(own) / len(own) / best if own else math.nan
    print(f"\n{'GRPO on thoughts':<22}{'completions/s':>15}{'times the best of TRL':>24}")
    for name, speed in speeds.items():
        print(f"{name:<22}{speed:>15.3f}{speed / best:>24.2f}")
    print(f"\nratio {ratio:.2f} (wanted at least {WANTED})")
    print(dumps({"completions_per_second": speeds, "ratio": ratio, **vars(options), **machine("trl")}))
    failures.finish()
    sys.exit(0 if ratio >= WANTED else 1)


if __name__ == "__main__":
    main()
