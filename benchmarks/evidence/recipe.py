"""Compare recipes at equal training from one start: two stages, parts of them, other losses, and sentence-transformers.

Every arm gets the same minutes of training (evaluation and saving are not counted) or the same number of documents, the same lists,
prompt, lengths and seeds. The last weights are evaluated, so neither dev sets nor protocol lists select weights.

    PRORANK_DATA=... python -m benchmarks.evidence.recipe --minutes 20 --seeds 0 1 2 --out runs/recipe         # on a CPU
    PRORANK_DATA=... python -m benchmarks.evidence.recipe --documents 16000 --seeds 0 1 2 --out runs/recipe    # on a GPU
    PRORANK_DATA=... python -m benchmarks.evidence.recipe --seeds 0 1 2 --out runs/recipe --evaluate           # then the tables

The command is a queue: complete runs are skipped, interrupted runs are resumed from their last checkpoint, and any number of
processes with the same command share the runs, and the lists in evaluation (`--threads 1` on few cores).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.common import compare, data_folder, loader, means_table, per_query
from benchmarks.evidence.recipe_lists import lists, warmup_lists
from benchmarks.jobs import Failures, Job, work
from benchmarks.protocol import FIXED, POOL, SAMPLE, parsed, score_all, task_of
from prorank.checkpoints.resolve import BUILT_IN
from prorank.data.formats import read_groups
from prorank.evaluate import evaluate
from prorank.evaluate.terminal_report import bars, show
from prorank.train.run import train
from prorank.train.run_folder import is_done
from prorank.train.settings.stage_settings import load_settings

RECIPE = Path(__file__).parents[2] / "configs" / "prorank" / "smollm2-135m"
TRAIN_LENGTH = 144  # tokens of a prompt in training, as in the demo
A_STEP = 16  # documents of an optimiser step in every arm: 16 prompts, or 4 lists of 4
FIRST = 0.1  # share of the first of two stages


@dataclass(frozen=True)
class Warmup:
    """The first of two stages.

    Attributes:
        settings: settings of stage warmup.
        share: its share of the training.
        lists: number of lists; None for all.
        hard: whether non-relevant documents are hard negatives only.
    """

    settings: dict[str, Any]
    share: float = FIRST
    lists: int | None = None
    hard: bool = False


# Without the balance term the warm-up soon gives every prompt the same answer; with `exploration_rate` it tries both.
NO_BALANCE = {"balance_weight": 0.0, "beta": 0.02}
TRYING = NO_BALANCE | {"exploration_rate": 0.2}
WARMUPS = {
    "two stages": Warmup({}),
    "two stages, no balance": Warmup(NO_BALANCE),
    "two stages, trying both": Warmup(TRYING),
    "two stages, hard prompts": Warmup(TRYING, hard=True),
    "two stages, few labels": Warmup(TRYING, lists=64),
    "two stages, relevance alone": Warmup(TRYING | {"format_reward": 0.0, "beta": 0.0}),
    "two stages, a third": Warmup(TRYING, share=1 / 3),
}
# Settings of stage score. BCE plus answer mass is -log p(label) over the whole vocabulary: supervised fine-tuning on one token.
LOSSES: dict[str, dict[str, Any]] = {
    "score only": {},
    "plain BCE": {"loss": "{bce: 1.0}", "answer_mass_weight": 0},
    "SFT": {"loss": "{bce: 1.0}", "answer_mass_weight": 1},
}
# Settings of the peer, with its guide's learning rate and ours.
PEERS: dict[str, dict[str, Any]] = {
    "sentence-transformers": {},
    "sentence-transformers, 1e-4": {"learning_rate": 1e-4},
    "sentence-transformers, lambda": {"loss": "lambda"},
}
MAIN = ("two stages", "warm-up only", *LOSSES, *list(PEERS)[:2])
ARMS = (*MAIN, *list(PEERS)[2:], *list(WARMUPS)[1:])


def folder(out: Path, arm: str, seed: int) -> Path:
    """Return the folder of a run."""
    return out / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"


def budget(options: argparse.Namespace, share: float = 1.0) -> dict[str, Any]:
    """Return a share of the training as settings of a run: minutes, or steps of `A_STEP` documents."""
    if options.documents is None:
        return {"minutes": options.minutes * share, "steps": None}
    return {"minutes": None, "steps": max(1, round(options.documents * share / A_STEP))}


def stage(kind: str, out: Path, seed: int, options: argparse.Namespace, files: tuple[Path, Path], **more: Any) -> None:
    """Run a stage with the recipe's settings, or resume it."""
    values = {
        "base": options.base, "data": files[0], "dev": files[1], "out": out, "seed": seed, "max_length": options.length,
        "train_length": TRAIN_LENGTH, "num_evaluations": 1, "save_every": 50, "compile": str(options.compile).lower(), **more,
    }  # fmt: skip
    arguments = [f"{key}={'' if value is None else value}" for key, value in values.items()]
    settings = load_settings(RECIPE / f"{kind}.yaml", arguments)
    if not is_done(settings.out):
        train(settings, resume=True)


def run(arm: str, seed: int, options: argparse.Namespace, files: tuple[Path, Path]) -> None:
    """Train one arm with one seed, or resume it."""
    out = folder(options.out, arm, seed)
    if arm in PEERS:
        from benchmarks.evidence.peer_training import Peer, train_peer  # import sentence-transformers only if it trains

        lengths = {"max_length": options.length, "train_length": TRAIN_LENGTH}
        train_peer(Peer(options.base, str(files[0]), str(out), seed=seed, **lengths, **budget(options), **PEERS[arm]))
    elif arm == "warm-up only":
        stage("warmup", out, seed, options, files, **budget(options))
    elif arm in WARMUPS:
        first, how = Path(f"{out}-warmup"), WARMUPS[arm]
        seen = warmup_lists(files[0], how.lists, how.hard)
        stage("warmup", first, seed, options, (seen, files[1]), **budget(options, how.share), **how.settings)
        stage("score", out, seed, options, files, **budget(options, 1 - how.share) | {"base": first})
    else:
        stage("score", out, seed, options, files, **budget(options), **LOSSES[arm])


def tables(options: argparse.Namespace) -> None:
    """Evaluate the base and all complete runs: the dev sets' judged pools, then the protocol lists."""
    runs = {"zero-shot": options.base}
    for arm, seed in product(options.arms, options.seeds):
        out = folder(options.out, arm, seed)
        if is_done(out):
            runs[f"{arm} #{seed}"] = out
        else:
            print(f"{out}: incomplete, left out")
    systems = {name: loader(name, run, options.length, "echo", compile=options.compile) for name, run in runs.items()}
    failures = Failures()
    for names, kind, pool in ((options.dev, "dev", True), (options.lists, "lists", False)):
        if names:
            tasks = [task_of(name, pool, options.top_k, options.limit) for name in names]
            systems = score_all(tasks, systems, options.out / kind, failures, options.top_k, SAMPLE)
            values = _evaluated(names, pool, list(systems.values()), options.out / kind, options)
            means_table(values, systems)
            _against(per_query(values, systems), options.arms)
    failures.finish()


def _evaluated(names: Sequence[str], pool: bool, systems: list[Any], out: Path, options: argparse.Namespace) -> Any:
    """Return every system's values on every list from stored scores, and print and write a report."""
    with bars() as progress:
        report = evaluate(
            [data_folder() / name for name in names], systems, top_k=options.top_k, limit=options.limit, sample=SAMPLE, out=out,
            progress=progress, command="benchmarks/evidence/recipe.py", **(POOL if pool else FIXED),
        )  # fmt: skip
    show(report)
    return report.values


def _against(rows: dict[str, Any], arms: Sequence[str]) -> None:
    """Compare the first available arm with every other system."""
    first = next((arm for arm in arms if arm in rows), None)
    if first:
        compare(rows, [(first, other) for other in rows if other != first])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default=BUILT_IN, help="checkpoint that every arm starts from")
    parser.add_argument("--minutes", type=float, default=20.0, help="training time of each run")
    parser.add_argument("--documents", type=int, default=None, help="documents of each run, instead of minutes")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--arms", nargs="*", default=list(MAIN), choices=ARMS)
    parser.add_argument("--compile", action="store_true", help="compile element-wise steps in our arms' training and in ranking")
    parser.add_argument("--evaluate", action="store_true", help="only evaluate what was trained")
    options = parsed(parser, "runs/recipe", 256)
    if options.evaluate:
        tables(options)
        return
    files = lists(data_folder(), options.out, 0)
    print(f"{len(read_groups(files[0]))} training lists, {len(read_groups(files[1]))} dev lists")
    outs = {(arm, seed): folder(options.out, arm, seed) for seed, arm in product(options.seeds, options.arms)}
    failures = Failures()
    left = work([Job(out, partial(is_done, out), partial(run, *one, options, files)) for one, out in outs.items()], failures)
    complete = len(outs) - len(left) - len(failures.reasons)
    print(f"{complete} of {len(outs)} runs are complete" + (", others are being trained by other processes" if left else ""))
    failures.finish()


if __name__ == "__main__":
    main()
