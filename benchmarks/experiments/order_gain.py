"""Compare stage `order` with more supervised training, for the same minutes from one two-stage checkpoint.

Every arm gets the same minutes (without evaluation and saving), data, list size and prompt. The last weights are evaluated. A
query's figure is the mean over the seeds of its arm, so the test is paired over queries.

    PRORANK_DATA=... python -m benchmarks.experiments.order_gain --base runs/recipe/two-stages-0 --out runs/order   # train
    PRORANK_DATA=... python -m benchmarks.experiments.order_gain --base runs/recipe/two-stages-0 --out runs/order --evaluate

Complete runs are skipped, interrupted runs are resumed, and several processes with the same command share the runs.
"""

from __future__ import annotations

import argparse
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.common import compare, data_folder, loader, means_table, per_query
from benchmarks.evidence.recipe import RECIPE, TRAIN_LENGTH
from benchmarks.evidence.recipe_lists import lists
from benchmarks.jobs import Failures, Job, work
from benchmarks.protocol import DEV
from prorank.evaluate import evaluate
from prorank.evaluate.terminal_report import bars, show
from prorank.train.run import train
from prorank.train.run_folder import is_done
from prorank.train.settings.stage_settings import load_settings

LISTS = ("scifact", "dl19", "dl20", "cranfield")
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "score": ("score", {"loss": "{listnet: 1.0, bce: 0.1}"}),
    "order": ("order", {}),
    "order, mixed": ("order", {"loss": "{listnet: 0.5, bce: 0.05}"}),
    "order, free": ("order", {"loss": "{listnet: 1.0, bce: 0.1}", "beta": 0}),  # steps as expensive as those of arm "score"
    "order, sharper": ("order", {"temperature": 0.5}),
    "order, sampled": ("order", {"advantage": "leave-one-out", "num_generations": 32}),
    "lambdarank": ("score", {"loss": "{lambdarank: 1.0}"}),
}
MAIN = ("score", "order")


def folder(out: Path, arm: str, rate: float, seed: int) -> Path:
    """Return the folder of a run."""
    return out / f"{arm.replace(', ', '-')}-{rate:g}-{seed}"


def run(arm: str, rate: float, seed: int, options: argparse.Namespace, files: tuple[Path, Path]) -> None:
    """Train one arm, or resume it."""
    stage, more = ARMS[arm]
    values = {
        "base": options.base, "data": files[0], "dev": files[1], "out": folder(options.out, arm, rate, seed), "seed": seed,
        "minutes": options.minutes, "list_size": options.list_size, "learning_rate": rate, "train_length": TRAIN_LENGTH,
        "num_evaluations": 1,
        "max_length": options.length, "compile": str(options.compile).lower(), **more,
    }  # fmt: skip
    settings = load_settings(RECIPE / f"{stage}.yaml", [f"{key}={value}" for key, value in values.items()])
    train(settings, resume=True)


def tables(options: argparse.Namespace) -> None:
    """Evaluate the start and all runs on the dev sets' judged pools and on the lists, and compare the arms."""
    data = data_folder()
    folders = {"start": Path(options.base)}
    for arm, rate, seed in product(options.arms, options.rates, options.seeds):
        if is_done(folder(options.out, arm, rate, seed)):
            folders[f"{arm} {rate:g} #{seed}"] = folder(options.out, arm, rate, seed)
    systems = [loader(name, run, options.length) for name, run in folders.items()]
    common: dict[str, Any] = {"top_k": options.top_k, "seed": 0, "sample": 0, "command": "benchmarks/experiments/order_gain.py"}
    pools = {"split": "dev", "judged_only": True, "out": options.out / "dev", "limit": options.dev_limit}
    protocol = {"run": "protocol", "out": options.out / "lists", "limit": options.limit}
    for names, more in ((DEV, pools), (options.lists, protocol)):
        if not names:
            continue
        with bars() as progress:
            report = evaluate([data / name for name in names], systems, progress=progress, **common, **more)
        show(report)
        means_table(report.values, folders)
        rows = per_query(report.values, folders)
        compare(rows, [(a, b) for b in rows if b == "start" or b.startswith("score ") for a in rows if a != b])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", required=True, help="run folder of a two-stage checkpoint")
    parser.add_argument("--minutes", type=float, default=8.0, help="training time of each arm")
    parser.add_argument("--out", type=Path, default=Path("runs/order"))
    parser.add_argument("--arms", nargs="*", default=list(MAIN), choices=list(ARMS))
    parser.add_argument("--rates", nargs="*", type=float, default=[2e-5], help="learning rates")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--list-size", type=int, default=6, help="documents per query in a step")
    parser.add_argument("--compile", action="store_true", help="compile element-wise steps in training")
    parser.add_argument("--evaluate", action="store_true", help="only evaluate what was trained")
    parser.add_argument("--length", type=int, default=256, help="maximum tokens of a prompt in ranking")
    parser.add_argument("--top-k", type=int, default=100, help="candidates reranked")
    parser.add_argument("--limit", type=int, default=None, help="queries per list (all by default)")
    parser.add_argument("--dev-limit", type=int, default=None, help="queries per dev set (all by default)")
    parser.add_argument("--lists", nargs="*", default=list(LISTS), help="lists to evaluate in addition to the dev sets")
    options = parser.parse_args()
    if options.evaluate:
        tables(options)
        return
    files = lists(data_folder(), options.out, 0)
    runs = [(arm, rate, seed) for seed, arm, rate in product(options.seeds, options.arms, options.rates)]
    outs = {one: folder(options.out, *one) for one in runs}
    failures = Failures()
    work([Job(out, partial(is_done, out), partial(run, *one, options, files)) for one, out in outs.items()], failures)
    failures.finish()


if __name__ == "__main__":
    main()
