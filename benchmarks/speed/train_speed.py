"""Training speed of stage `score`: the engine with a shared prefix per query, compared with the plain step.

All arms train on the same lists in the same order from the same weights, so their losses may differ by rounding only. The plain
step is `baseline_step: true`: each prompt is a padded row with a copy of the query, and logits are computed at every position, as
in FlagEmbedding's trainer; "answers only" is the same with logits at the answers only.

    PRORANK_DATA=... python -m benchmarks.speed.train_speed               # 50 steps each, about half an hour on two cores
    PRORANK_DATA=... python -m benchmarks.speed.train_speed --steps 10 --dtype fp32 --data scifact

Prints documents/s and tokens/s of both, the ratio (median over steps, arms in turn) and the difference of the losses; one JSON
line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import time

import torch

from benchmarks.common import data_folder, machine, say
from benchmarks.jobs import Failures
from prorank.checkpoints.loading import load_config, load_model, load_tokenizer, pick_device
from prorank.checkpoints.resolve import BUILT_IN, resolve
from prorank.data.beir import read_beir
from prorank.data.negatives import mine_negatives
from prorank.engine.auto import pick_dtype
from prorank.engine.heads import use_fp32_head
from prorank.engine.layer_speed import TRAINING
from prorank.prompts.prompt import Prompt
from prorank.train.settings.stage_settings import Score
from prorank.train.stages.score import ScoreStage


class Arm:
    """One implementation of the step: its model, optimiser and stage."""

    def __init__(self, name: str, options: argparse.Namespace, groups: list, **more: bool) -> None:
        self.name, self.batch = name, options.batch
        resolved = resolve(options.model)
        self.device = pick_device(options.device)
        self.half = pick_dtype(options.dtype, self.device, load_config(resolved), TRAINING) == torch.bfloat16
        self.model = load_model(resolved, torch.float32, self.device).train()
        use_fp32_head(self.model)  # as in the stages
        encoder = Prompt.preset(options.prompt, max_length=options.length).bind(load_tokenizer(resolved))
        settings = Score(data="", out="", list_size=options.list_size, batch_size=options.batch, seed=options.seed, **more)
        self.stage = ScoreStage(groups, encoder, settings, None, self.half)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=settings.learning_rate, fused=True)
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.documents = self.tokens = 0.0

    def step(self, number: int) -> None:
        examples = [self.stage.example(number * self.batch + i) for i in range(self.batch)]
        begin = time.perf_counter()
        with torch.autocast(self.device.type, torch.bfloat16) if self.half else contextlib.nullcontext():
            loss, figures = self.stage.loss(self.model, examples)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.losses.append(float(loss.detach()))  # synchronises with the device
        self.seconds.append(time.perf_counter() - begin)
        if number:  # the first step warms up
            self.documents += figures["documents"] * self.batch
            self.tokens += figures["tokens"] * self.batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=BUILT_IN)
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bf16", "fp32"], help="bf16 means autocast")
    parser.add_argument("--data", nargs="*", default=["scifact", "medquad", "cosqa"], help="collections in PRORANK_DATA")
    parser.add_argument("--compile", action="store_true", help="compile ours; the first step, which compiles, is not counted")
    parser.add_argument("--prompt", default="prorank", help="preset")
    parser.add_argument("--length", type=int, default=192, help="maximum tokens of a prompt")
    parser.add_argument("--list-size", type=int, default=6)
    parser.add_argument("--batch", type=int, default=4, help="lists a step")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    mined = [
        mine_negatives(read_beir(data_folder() / name, "train"), negatives=options.list_size - 1, seed=options.seed)[0]
        for name in options.data
    ]
    groups = [group for groups in mined for group in groups[: min(map(len, mined))]]  # equally many of each
    arms = [Arm("plain step", options, groups, baseline_step=True), Arm("answers only", options, groups, baseline_step=True)]
    arms[1].stage.logits.plain = False
    arms.append(Arm("prorank", options, groups, compile=options.compile))
    failures = Failures()
    for number in range(options.steps):
        for arm in arms:
            with failures.arm(arm.name):
                arm.step(number)
        arms = [arm for arm in arms if arm.name not in failures]
        say(f"step {number + 1}: " + ", ".join(f"{arm.name} {arm.seconds[-1]:.2f} s, loss {arm.losses[-1]:.4f}" for arm in arms))
    ours = next((arm for arm in arms if arm.name == "prorank"), None)
    print(f"\n{'stage score':<14}{'documents/s':>12}{'tokens/s':>10}{'s a step':>10}")
    for arm in arms:
        total = sum(arm.seconds[1:])
        print(f"{arm.name:<14}{arm.documents / total:>12.2f}{arm.tokens / total:>10.0f}{total / len(arm.seconds[1:]):>10.2f}")
    rows = {a.name: {"documents_per_second": a.documents / sum(a.seconds[1:]), "losses": a.losses} for a in arms}
    for arm in (arm for arm in arms if ours and arm is not ours):
        ratio = statistics.median(a / b for a, b in zip(arm.seconds[1:], ours.seconds[1:]))
        apart = [a - b for a, b in zip(ours.losses, arm.losses)]
        largest, mean = max(map(abs, apart)), statistics.mean(apart)
        print(f"prorank / {arm.name}: {ratio:.2f} times (median over steps); losses differ by at most {largest:.1e}, "
              f"by {mean:+.1e} in the mean of {len(apart)} steps")  # fmt: skip
        rows[arm.name] |= {"ratio": ratio, "losses_apart": largest, "mean_apart": mean}
    print(json.dumps({"arms": rows, **vars(options), **machine()}))
    failures.finish()


if __name__ == "__main__":
    main()
