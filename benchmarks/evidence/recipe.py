"""Compare recipes at equal training from one start: two stages, parts of them, other losses, and sentence-transformers.

Every arm gets the same minutes of training (evaluation and saving are not counted) or the same number of documents, the same lists,
prompt, lengths and seeds. The last weights are evaluated, so neither dev sets nor protocol lists select weights.

    PRORANK_DATA=... python -m benchmarks.evidence.recipe --minutes 20 --seeds 0 1 2 --out runs/recipe         # on a CPU
    PRORANK_DATA=... python -m benchmarks.evidence.recipe --documents 9600 --seeds 0 1 2 --out runs/recipe     # on a GPU
    PRORANK_DATA=... python -m benchmarks.evidence.recipe --seeds 0 1 2 --out runs/recipe --evaluate           # then the tables

The command is a queue: complete runs are skipped, interrupted runs are resumed from their last checkpoint, and any number of
processes with the same command share the runs, and the lists in evaluation (`--threads 1` on few cores).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.common import MAIN as MAIN_MEASURE
from benchmarks.common import compare, data_folder, loader, means_table, per_query
from benchmarks.evidence.answers import answers_table
from benchmarks.evidence.recipe_lists import lists
from benchmarks.jobs import Failures, Job, work
from benchmarks.protocol import SAMPLE, are_stored, ndcg_of, parsed, score_all, stored, tasks_of
from prorank.checkpoints.resolve import BUILT_IN
from prorank.data.formats import read_groups
from prorank.evaluate.candidates import Task
from prorank.evaluate.scoring import Scorer
from prorank.train.run import train
from prorank.train.run_folder import is_done
from prorank.train.settings.stage_settings import load_settings

RECIPE = Path(__file__).parents[2] / "configs" / "prorank" / "smollm2-135m"
TRAIN_LENGTH = 144  # tokens of a prompt in training, as in the demo
LIST = 4  # documents of a list
PROMPT = "plain"


# The first of two stages: its share of the training and its settings, where they are not the recipe's.
NO_BALANCE = {"balance_weight": 0.0, "entropy_weight": 0.0, "scale_rewards": "group"}
WARMUPS: dict[str, tuple[float, dict[str, Any]]] = {
    "two stages": (0.1, {}),
    "two stages, 30 %": (0.3, {}),
    "two stages, 50 %": (0.5, {}),
    "two stages, no balance": (0.1, NO_BALANCE),  # the warm-up soon gives every prompt the same answer
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
WARMED = ": warm-up"  # ends the name of the first of two stages in tables
BASES = ("zero-shot", "query likelihood")  # systems that need no training
MAIN = ("two stages", "warm-up only", *LOSSES, *list(PEERS)[:2])
ARMS = (*MAIN, *list(WARMUPS)[1:], *list(PEERS)[2:])


def folder(out: Path, arm: str, seed: int) -> Path:
    """Return the folder of a run."""
    return out / f"{arm.replace(', ', '-').replace(' %', '').replace(' ', '-')}-{seed}"


def budget(options: argparse.Namespace, share: float = 1.0) -> dict[str, Any]:
    """Return a share of the training as settings of a run: minutes, or steps of `--step` documents."""
    if options.documents is None:
        return {"minutes": options.minutes * share, "steps": None}
    return {"minutes": None, "steps": max(1, round(options.documents * share / options.step))}


def stage(kind: str, out: Path, seed: int, options: argparse.Namespace, files: tuple[Path, Path], **more: Any) -> None:
    """Run a stage with the recipe's settings, or resume it."""
    values = {
        "base": options.base, "data": files[0], "dev": files[1], "out": out, "seed": seed, "max_length": options.length,
        "train_length": TRAIN_LENGTH, "prompt": options.prompt, "num_evaluations": 1, "save_every": options.save_every,
        "compile": str(options.compile).lower(), "batch_size": options.step // (LIST if kind == "score" else 1), **more,
    }  # fmt: skip
    arguments = [f"{key}={'' if value is None else value}" for key, value in values.items()]
    arguments += getattr(options, kind)  # those of the command line
    settings = load_settings(RECIPE / f"{kind}.yaml", arguments)
    if not is_done(settings.out):
        train(settings, resume=True)


def run(arm: str, seed: int, options: argparse.Namespace, files: tuple[Path, Path]) -> None:
    """Train one arm with one seed, or resume it."""
    out = folder(options.out, arm, seed)
    if arm in PEERS:
        from benchmarks.evidence.peer_training import Peer, train_peer  # import sentence-transformers only if it trains

        text = {"prompt": options.prompt, "max_length": options.length, "train_length": TRAIN_LENGTH}
        amount = {"lists": options.step // LIST, "save_every": options.save_every, **budget(options)}
        train_peer(Peer(options.base, str(files[0]), str(out), seed=seed, **text, **amount, **PEERS[arm]))
    elif arm == "warm-up only":
        stage("warmup", out, seed, options, files, **budget(options))
    elif arm in WARMUPS:
        first, (share, settings) = Path(f"{out}-warmup"), WARMUPS[arm]
        stage("warmup", first, seed, options, files, **budget(options, share), **settings)
        stage("score", out, seed, options, files, **budget(options, 1 - share) | {"base": first})
    else:
        stage("score", out, seed, options, files, **budget(options), **LOSSES[arm])


def likelihood(base: Callable[[], Any]) -> Callable[[], Any]:
    """Return a loader of the base's query likelihood."""

    def load() -> Scorer:
        reranker = base()
        return Scorer(BASES[1], reranker.likelihood, f"likelihood {reranker.fingerprint}")

    return load


def tables(options: argparse.Namespace) -> None:
    """Print the tables of the base and all complete runs: the dev sets' judged pools, then the protocol lists."""
    runs = {f"{arm} #{seed}": folder(options.out, arm, seed) for arm, seed in product(options.arms, options.seeds)}
    warmups = [(arm, seed) for arm, seed in product(options.arms, options.seeds) if arm in WARMUPS]
    runs |= {f"{arm}{WARMED} #{seed}": Path(f"{folder(options.out, arm, seed)}-warmup") for arm, seed in warmups}
    failures = Failures()
    for kind, tasks in tasks_of(options.lists, options.dev, options.top_k, options.limit).items():
        out = options.out / kind
        if options.stored:
            complete = [name for name in (*runs, *BASES) if are_stored(tasks, [name], out)]
            names = complete
        else:
            complete = [name for name, run in runs.items() if is_done(run)]
            names = score_runs({name: runs[name] for name in complete}, tasks, out, options, failures)
        print(*(f"{name}: incomplete, left out" for name in runs if name not in complete), sep="\n")
        found = {task.name: {name: stored(task, name, out, options.top_k) for name in names} for task in tasks}
        values: Any = {
            task.name: {task.first: {MAIN_MEASURE: ndcg_of(task)}}
            | {name: {MAIN_MEASURE: ndcg_of(task, found[task.name][name], options.top_k)} for name in names}
            for task in tasks
        }
        means_table(values, names)
        answers_table(tasks, found, names, options.top_k)
        rows = per_query(values, names)
        for arm in [arm for arm in options.against or options.arms if arm in rows][: len(options.against) or 1]:
            compare(rows, [(arm, other) for other in rows if other != arm and not other.endswith(WARMED)])
    failures.finish()


def score_runs(runs: dict[str, Path], tasks: list[Task], out: Path, options: argparse.Namespace, failures: Failures) -> list[str]:
    """Score the lists with the base, its query likelihood and all runs. Returns the names of those that did not fail."""
    load = lambda name, checkpoint: loader(name, checkpoint, options.length, options.prompt, compile=options.compile)  # noqa: E731
    base = load(BASES[0], options.base)
    systems = {name: load(name, run) for name, run in runs.items()} | dict(zip(BASES, (base, likelihood(base))))
    return list(score_all(tasks, systems, out, failures, options.top_k, SAMPLE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default=BUILT_IN, help="checkpoint that every arm starts from")
    parser.add_argument("--minutes", type=float, default=20.0, help="training time of each run")
    parser.add_argument("--documents", type=int, default=None, help="documents of each run, instead of minutes")
    parser.add_argument("--step", type=int, default=16, help="documents of an optimiser step in every arm: prompts, or lists of 4")
    parser.add_argument("--queries", type=int, default=None, help="training queries (all by default)")
    parser.add_argument("--prompt", default=PROMPT, help="preset of the prompt in all arms")
    parser.add_argument("--warmup", nargs="*", default=[], metavar="KEY=VALUE", help="other settings of the first stage")
    parser.add_argument("--score", nargs="*", default=[], metavar="KEY=VALUE", help="other settings of the second stage")
    parser.add_argument("--save-every", type=int, default=50, help="steps between checkpoints to resume from; 0 writes none")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--arms", nargs="*", default=list(MAIN), choices=ARMS)
    parser.add_argument("--compile", action="store_true", help="compile element-wise steps in our arms' training and in ranking")
    parser.add_argument("--evaluate", action="store_true", help="only evaluate what was trained")
    parser.add_argument("--stored", action="store_true", help="evaluate from stored scores, without the checkpoints")
    parser.add_argument("--against", nargs="*", default=[], choices=ARMS, help="arms tested against all others (the first one)")
    options = parsed(parser, "runs/recipe", 256)
    if options.evaluate or options.stored:
        tables(options)
        return
    files = lists(data_folder(), options.out, 0, options.queries)
    print(f"{len(read_groups(files[0]))} training lists, {len(read_groups(files[1]))} dev lists")
    outs = {(arm, seed): folder(options.out, arm, seed) for seed, arm in product(options.seeds, options.arms)}
    failures = Failures()
    left = work([Job(out, partial(is_done, out), partial(run, *one, options, files)) for one, out in outs.items()], failures)
    complete = len(outs) - len(left) - len(failures.reasons)
    print(f"{complete} of {len(outs)} runs are complete" + (", others are being trained by other processes" if left else ""))
    failures.finish()


if __name__ == "__main__":
    main()
