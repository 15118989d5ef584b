"""Compare rewards of checkpoints trained by stage `reason` with those of their start, on held-out prompts.

All checkpoints sample with the same seed per prompt and have the same reward, so rewards are paired.

    python -m benchmarks.experiments.reason_gain --start runs/r0-sft --runs runs/r0-ppo-0 runs/r0-ppo-1 --data heldout.jsonl

Prints reward, format, accuracy and length of each, the paired test against the start, and one JSON line. Rules, lengths and
temperature are those of the first run's config.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import machine, say
from benchmarks.jobs import Failures
from prorank.checkpoints.loading import load_config, load_model, load_tokenizer
from prorank.checkpoints.resolve import prompt_of, resolve
from prorank.data.examples import Group
from prorank.data.formats import read_groups
from prorank.engine.auto import pick_dtype
from prorank.evaluate.significance import randomisation_test
from prorank.train.settings.stage_settings import Reason, load_settings
from prorank.train.stages.reason_tasks import task_of
from prorank.train.stages.rollouts import Rollouts, figures_of

SHOWN = ("reward", "format_rate", "accuracy", "think_tokens", "finished")


def written(checkpoint: str, groups: list[Group], settings: Reason, prompts: int) -> tuple[list[float], dict[str, float]]:
    """Return (rewards, figures) of one completion for each prompt."""
    resolved, device = resolve(checkpoint), torch.device("cpu")
    bf16 = pick_dtype(settings.dtype, device, load_config(resolved)) == torch.bfloat16
    prompt, tokenizer = prompt_of(resolved), load_tokenizer(resolved)
    encoder = prompt.bind_list(tokenizer) if prompt.lists else prompt.bind(tokenizer)
    model = load_model(resolved, torch.float32, device).eval()
    task = task_of(groups, encoder, settings)
    examples = [task.example(i) for i in range(min(len(task), prompts))]
    episodes = Rollouts(encoder, settings, task, bf16).generate(model, examples, 1, "held-out")
    return [e.verdicts[0].reward for e in episodes], figures_of(episodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", required=True, help="checkpoint that the runs started from")
    parser.add_argument("--runs", nargs="+", required=True, help="run folders of stage reason")
    parser.add_argument("--data", required=True, help="held-out labelled data in any format")
    parser.add_argument("--split", default="test", help="split of a BEIR folder")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = replace(load_settings(Path(options.runs[0]) / "config.yaml"), seed=0)  # the same prompts for all
    groups = read_groups(options.data, options.split)
    table: dict[str, Any] = {}
    print(f"{'checkpoint':<28}" + "".join(f"{name:>14}" for name in SHOWN) + f"{'p':>9}")
    base: list[float] = []
    failures = Failures()
    for name in [options.start, *options.runs]:
        with failures.arm(name):
            rewards, figures = written(name, groups, settings, options.prompts)
            base = rewards if name == options.start else base
            p = randomisation_test(rewards, base) if base and name != options.start else None
            table[name] = {**{key: figures[key] for key in SHOWN}, "p": p}
            shown = "".join(f"{figures[key]:>14.4f}" for key in SHOWN)
            print(f"{name[-27:]:<28}{shown}" + ("" if p is None else f"{p:>9.4f}"), flush=True)
    say(f"{len(base)} prompts")
    print(json.dumps({"reason_gain": table, **vars(options), **machine()}))
    failures.finish()


if __name__ == "__main__":
    main()
