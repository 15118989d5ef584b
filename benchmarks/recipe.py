"""Which recipe is best at equal training: two stages, parts of them, other losses, and sentence-transformers, from one start.

Hard fact: every arm gets the same minutes of training (evaluation and saving are not counted) or the same number of documents, the
same lists, prompt, lengths and seeds; the last weights count, so nothing is chosen on the dev sets or on the protocol lists.

    PRORANK_DATA=... python benchmarks/recipe.py --minutes 20 --seeds 0 1 2 --out runs/recipe         # on a CPU
    PRORANK_DATA=... python benchmarks/recipe.py --documents 16000 --seeds 0 1 2 --out runs/recipe    # on a GPU
    PRORANK_DATA=... python benchmarks/recipe.py --seeds 0 1 2 --out runs/recipe --evaluate           # then the tables

The command is a queue: a run that is complete is not made again, one that was stopped or killed goes on from its last checkpoint,
and any number of processes with the same command share the runs, and the lists in evaluation (`--threads 1` where cores are few).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from common import compare, data_folder, loader, means_table, per_query
from jobs import Job, claimed, work
from protocol import DEV, FIXED, POOL, SAMPLE, parsed, score_all, task_of

from prorank.data.beir import Collection, read_beir
from prorank.data.examples import Group
from prorank.data.formats import read_groups, write_groups
from prorank.data.negatives import mine
from prorank.evaluate import evaluate
from prorank.evaluate.report import bars, show
from prorank.model import BUILT_IN
from prorank.train.config import load_settings
from prorank.train.run import is_done, train

TRAIN = {"scifact": 800, "medquad": 1600, "cosqa": 600}  # queries of each set marked train, BM25 negatives
RECIPE = Path(__file__).parents[1] / "configs" / "prorank" / "smollm2-135m"
TRAIN_LENGTH = 144  # tokens of a prompt in training, as in the demo
DEV_LISTS = 8  # of each dev set: the one look at the end of a training
A_STEP = 16  # documents of an optimiser step in every arm: 16 prompts, or 4 lists of 4
FIRST = 0.1  # share of the training that the first of two stages gets
# Settings of stage score. BCE and form together are -log p(label) over the whole vocabulary: supervised fine-tuning on one token.
LOSSES: dict[str, dict[str, Any]] = {
    "score only": {},
    "plain BCE": {"loss": "{bce: 1.0}", "keep_answers": 0},
    "SFT": {"loss": "{bce: 1.0}", "keep_answers": 1},
}
# Settings of the peer: its guide's learning rate, and ours.
PEERS: dict[str, dict[str, Any]] = {
    "sentence-transformers": {},
    "sentence-transformers, 1e-4": {"learning_rate": 1e-4},
    "sentence-transformers, lambda": {"loss": "lambda"},
}
ARMS = ("two stages", "warm-up only", *LOSSES, *PEERS)
MAIN = ARMS[:-1]


def lists(data: Path, out: Path, seed: int) -> tuple[Path, Path]:
    """Training and dev lists, made once: (train.jsonl, dev.jsonl)."""
    made = out / "train.jsonl", out / "dev.jsonl"
    with claimed(made[0], wait=True):
        if not made[1].is_file():
            groups: list[Group] = []
            for name, most in TRAIN.items():
                mined, report = mine(read_beir(data / name, "train"), negatives=12, seed=seed, random=8)
                print(f"{name}: {report}")
                groups += mined[:most]
            write_groups(made[0], groups)
            write_groups(made[1], [g for name in DEV for g in pool_groups(read_beir(data / name, "dev"))[:DEV_LISTS]])
    return made


def pool_groups(collection: Collection) -> list[Group]:
    """Each dev query's own judged documents, where some are relevant and some are not."""
    groups = []
    for query, judged in collection.qrels.items():
        known = {d: label for d, label in judged.items() if d in collection.corpus}
        if known and max(known.values()) > 0 >= min(known.values()):
            texts = tuple(collection.corpus[d] for d in known)
            groups.append(Group(collection.queries[query], texts, tuple(map(float, known.values())), query))
    return groups


def folder(out: Path, arm: str, seed: int) -> Path:
    """Where a run lies."""
    return out / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"


def budget(options: argparse.Namespace, share: float = 1.0) -> dict[str, Any]:
    """A share of the training as settings of a run: minutes, or steps of `A_STEP` documents."""
    if options.documents is None:
        return {"minutes": options.minutes * share, "steps": None}
    return {"minutes": None, "steps": max(1, round(options.documents * share / A_STEP))}


def stage(kind: str, out: Path, seed: int, options: argparse.Namespace, files: tuple[Path, Path], **more: Any) -> None:
    """Run a stage by the recipe's own settings, or go on with it."""
    values = {
        "base": options.base, "data": files[0], "dev": files[1], "out": out, "seed": seed, "max_length": options.length,
        "train_length": TRAIN_LENGTH, "evals": 1, "save_every": 50, "compile": str(options.compile).lower(), **more,
    }  # fmt: skip
    given = [f"{key}={'' if value is None else value}" for key, value in values.items()]
    settings = load_settings(RECIPE / f"{kind}.yaml", given)
    if not is_done(settings.out):
        train(settings, resume=True)


def run(arm: str, seed: int, options: argparse.Namespace, files: tuple[Path, Path]) -> None:
    """Train one arm with one seed, or go on with it."""
    out = folder(options.out, arm, seed)
    if arm in PEERS:
        from peer_training import Peer, train_peer  # sentence-transformers is imported where it trains only

        lengths = {"max_length": options.length, "train_length": TRAIN_LENGTH}
        train_peer(Peer(options.base, str(files[0]), str(out), seed=seed, **lengths, **budget(options), **PEERS[arm]))
    elif arm == "warm-up only":
        stage("warmup", out, seed, options, files, **budget(options))
    elif arm == "two stages":
        first = Path(f"{out}-warmup")
        stage("warmup", first, seed, options, files, **budget(options, FIRST))
        stage("score", out, seed, options, files, **budget(options, 1 - FIRST) | {"base": first})
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
            print(f"{out}: not complete, left out")
    systems = [loader(name, checkpoint, options.length, "echo") for name, checkpoint in runs.items()]
    for names, kind, pool in ((options.dev, "dev", True), (options.lists, "lists", False)):
        if names:
            values = _evaluated(names, pool, systems, options.out / kind, options)
            means_table(values, runs)
            _against(per_query(values, runs))


def _evaluated(names: Sequence[str], pool: bool, systems: list[Any], out: Path, options: argparse.Namespace) -> Any:
    """Every system's values on every list, shared with other processes, then shown and written as a report."""
    score_all([task_of(name, pool, options.top_k, options.limit) for name in names], systems, out, options.top_k, SAMPLE)
    with bars() as progress:
        report = evaluate(
            [data_folder() / name for name in names], systems, top_k=options.top_k, limit=options.limit, sample=SAMPLE, out=out,
            progress=progress, command="benchmarks/recipe.py", **(POOL if pool else FIXED),
        )  # fmt: skip
    show(report)
    return report.values


def _against(rows: dict[str, Any]) -> None:
    """The first arm that was run against every other system."""
    first = next((arm for arm in ARMS if arm in rows), None)
    if first:
        compare(rows, [(first, other) for other in rows if other != first])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default=BUILT_IN, help="what every arm starts from")
    parser.add_argument("--minutes", type=float, default=20.0, help="training of each run")
    parser.add_argument("--documents", type=int, default=None, help="documents of each run, in place of minutes")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--arms", nargs="*", default=list(MAIN), choices=ARMS)
    parser.add_argument("--compile", action="store_true", help="fuse element-wise steps in our arms' training")
    parser.add_argument("--evaluate", action="store_true", help="only evaluate what was trained")
    options = parsed(parser, "runs/recipe", 256)
    if options.evaluate:
        tables(options)
        return
    files = lists(data_folder(), options.out, 0)
    print(f"{len(read_groups(files[0]))} training lists, {len(read_groups(files[1]))} dev lists")
    outs = {(arm, seed): folder(options.out, arm, seed) for seed, arm in product(options.seeds, options.arms)}
    left = work([Job(out, partial(is_done, out), partial(run, *one, options, files)) for one, out in outs.items()])
    print(f"{len(outs) - len(left)} of {len(outs)} runs are complete" + (", others are being trained elsewhere" if left else ""))


if __name__ == "__main__":
    main()
