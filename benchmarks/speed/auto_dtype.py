"""Compare the choice of `dtype: auto` and `compile: auto` with the speed of every dtype, in ranking and in training.

    python -m benchmarks.speed.auto_dtype                                # some minutes; synthetic texts, no data needed
    ONEDNN_MAX_CPU_ISA=AVX2 python -m benchmarks.speed.auto_dtype        # simulates a processor without fast bf16

Dtypes take turns, so that a drift of the machine affects all equally; figures are medians over rounds. Prints two tables, the
choice of auto with its reason and its distance to the best of fp32 and bf16, and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.common import machine, say
from prorank import Reranker
from prorank.checkpoints.default_model import DEFAULT
from prorank.checkpoints.loading import load_config, load_model, load_tokenizer, pick_device
from prorank.checkpoints.resolve import resolve
from prorank.data.examples import Group
from prorank.engine.auto import choose_dtype
from prorank.engine.heads import use_fp32_head
from prorank.engine.layer_speed import RANKING, TRAINING
from prorank.prompts.prompt import Prompt
from prorank.train.settings.stage_settings import Score
from prorank.train.stages.score import ScoreStage

WORDS = ("river", "stone", "winter", "harbour", "music", "garden", "castle", "bread", "letter", "engine", "valley", "school")


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def ranking_run(dtype: str, options: argparse.Namespace, compiled: bool = False) -> Callable[[], float]:
    """Return a function that ranks synthetic documents and returns documents per second."""
    reranker = Reranker(options.model, dtype=dtype, compile=compiled)
    rng = random.Random(0)
    lists = [[text(rng, rng.randint(10, 120)) for _ in range(options.documents)] for _ in range(2)]

    def run() -> float:
        begin = time.perf_counter()
        reranker.score_lists([text(random.Random(1), 8)] * 2, lists)
        return sum(map(len, lists)) / (time.perf_counter() - begin)

    return run


def training_run(dtype: str, options: argparse.Namespace) -> Callable[[], float]:
    """Return a function that makes a step of stage score on synthetic lists and returns documents per second."""
    resolved = resolve(options.base)
    model = load_model(resolved, torch.float32, torch.device("cpu")).train()
    use_fp32_head(model)
    encoder = Prompt.preset("prorank", max_length=192).bind(load_tokenizer(resolved))
    rng = random.Random(0)
    groups = [Group(text(rng, 6), tuple(text(rng, rng.randint(20, 110)) for _ in range(6)), (1, 0, 0, 0, 0, 0)) for _ in range(8)]
    settings = Score(data="", out="", list_size=6, batch_size=4, compile=False)
    stage = ScoreStage(groups, encoder, settings, None, dtype == "bf16")
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    examples = [stage.example(i) for i in range(4)]

    def run() -> float:
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            loss, _ = stage.loss(model, examples)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        return 24 / (time.perf_counter() - begin)

    return run


def in_turn(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Return the median of each over rounds, after a first one that does not count."""
    speeds_by_run: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            value = run()
            say(f"round {number}: {name} {value:.2f} documents/s")
            speeds_by_run[name] += [value] if number else []
    return {name: statistics.median(values) for name, values in speeds_by_run.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT, help="that ranks")
    parser.add_argument("--base", default="smollm2-135m", help="checkpoint to train")
    parser.add_argument("--documents", type=int, default=30, help="documents of each of two queries")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, config = pick_device("cpu"), load_config(resolve(options.base))
    rows = {}
    for purpose, names, make in ((RANKING, ("fp32", "bf16", "int8"), ranking_run), (TRAINING, ("fp32", "bf16"), training_run)):
        choice = choose_dtype("auto", device, config, purpose)
        rates = in_turn({name: make(name, options) for name in names}, options.rounds)
        best = max(rates["fp32"], rates["bf16"])
        print(f"\n{purpose}: auto chooses {choice}")
        for name, rate in rates.items():
            print(f"  {name:<6}{rate:>8.2f} documents/s{'  <- auto' if name == choice.value else ''}")
        print(f"  auto is {100 * (1 - rates[choice.value] / best):.1f} % below the best of fp32 and bf16")
        rows[purpose] = {"documents_per_second": rates, "auto": choice.value, "reason": choice.reason}
    print(json.dumps({**rows, **vars(options), **machine()}))


if __name__ == "__main__":
    main()
