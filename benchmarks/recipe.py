"""Which recipe is best at equal training time: two stages against score-only, warm-up-only and plain BCE, from one start.

Hard fact: every arm gets the same minutes of training (evaluation and saving are not counted), the same data, prompt and seed; the
last weights count, so nothing is chosen on the dev sets, and nothing on the protocol lists.

    PRORANK_DATA=... python benchmarks/recipe.py --minutes 20 --out runs/recipe             # four arms, 80 minutes
    PRORANK_DATA=... python benchmarks/recipe.py --minutes 20 --out runs/recipe --evaluate  # then the tables

An arm that is complete is not run again, one that was stopped goes on, so the command can be repeated. Two processes with half of
the arms each take half of the time where each has cores of its own; make the lists first, with `--arms` and no name.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import data_folder

from prorank.data.beir import Collection, read_beir
from prorank.data.examples import Group
from prorank.data.formats import read_groups, write_groups
from prorank.data.negatives import mine
from prorank.evaluate import evaluate
from prorank.evaluate.report import bars, show
from prorank.evaluate.significance import holm, randomisation_test
from prorank.model import BUILT_IN
from prorank.prompt import Prompt
from prorank.reranker import Reranker
from prorank.train.config import load_settings
from prorank.train.run import is_done, train

TRAIN = {"scifact": 800, "medquad": 1600, "cosqa": 600}  # queries of each set marked train, BM25 negatives
DEV = ("trecqa", "wikiqa", "semeval_cqa_answers")  # judged pools of their dev splits
PROTOCOL = ("dl19", "dl20", "scifact", "cranfield", "npl_vaswani", "dbpedia50")
RECIPE = Path(__file__).parents[1] / "configs" / "prorank" / "smollm2-135m"
TRAIN_LENGTH = 144  # tokens of a prompt in training, as in the demo
DEV_LISTS = 8  # of each dev set: the one look at the end of a training
ARMS = ("two stages", "score only", "warm-up only", "plain BCE")


def lists(data: Path, out: Path, seed: int) -> tuple[Path, Path]:
    """Training and dev lists, made once: (train.jsonl, dev.jsonl)."""
    made = out / "train.jsonl", out / "dev.jsonl"
    if not made[0].is_file():
        groups: list[Group] = []
        for name, most in TRAIN.items():
            mined, report = mine(read_beir(data / name, "train"), negatives=12, seed=seed, random=8)
            print(f"{name}: {report}")
            groups += mined[:most]
        write_groups(made[0], groups)
        write_groups(made[1], [g for name in DEV for g in _pool(read_beir(data / name, "dev"))[:DEV_LISTS]])
    return made


def _pool(collection: Collection) -> list[Group]:
    """Each dev query's own judged documents, where some are relevant and some are not."""
    groups = []
    for query, judged in collection.qrels.items():
        known = {d: label for d, label in judged.items() if d in collection.corpus}
        if known and max(known.values()) > 0 >= min(known.values()):
            texts = tuple(collection.corpus[d] for d in known)
            groups.append(Group(collection.queries[query], texts, tuple(map(float, known.values()))))
    return groups


def arm(name: str, minutes: float, out: Path, files: tuple[Path, Path], seed: int, length: int) -> None:
    """Train one arm within `minutes`, by the recipe's own settings."""
    folder = out / name.replace(" ", "-")
    common = {"data": files[0], "dev": files[1], "seed": seed, "max_length": length, "train_length": TRAIN_LENGTH, "evals": 1}

    def stage(kind: str, minutes: float, folder: str | Path, **more: Any) -> None:
        values = {**common, "out": folder, "minutes": minutes, "steps": "", **more}
        settings = load_settings(RECIPE / f"{kind}.yaml", [f"{key}={value}" for key, value in values.items()])
        if not is_done(settings.out):
            print(f"training {settings.out} for {minutes:g} minutes", flush=True)
            train(settings, resume=True)

    if name == "warm-up only":
        stage("warmup", minutes, folder)
    elif name == "two stages":
        first = minutes / 10
        stage("warmup", first, f"{folder}-warmup")
        stage("score", minutes - first, folder, base=f"{folder}-warmup")
    else:
        plain = {"loss": "{bce: 1.0}", "keep_answers": 0} if name == "plain BCE" else {}
        stage("score", minutes, folder, base=BUILT_IN, **plain)


def tables(data: Path, out: Path, length: int, top_k: int, limit: int | None, seed: int) -> None:
    """Evaluate the untrained base and all arms: the dev sets' judged pools, then the protocol lists."""

    def load(folder: str, name: str) -> Any:
        own = {} if folder != BUILT_IN else {"prompt": Prompt.preset("echo", max_length=length)}
        reranker = Reranker(folder, max_length=length, **own)
        reranker.name = name
        return reranker

    folders = [(BUILT_IN, "zero-shot")] + [(str(out / name.replace(" ", "-")), name) for name in ARMS]
    systems = [lambda f=folder, n=name: load(f, n) for folder, name in folders]
    common: dict[str, Any] = {"top_k": top_k, "limit": limit, "seed": seed, "sample": 64, "command": "benchmarks/recipe.py"}
    with bars() as progress:
        dev = evaluate([data / n for n in DEV], systems, split="dev", pool=True, out=out / "dev", progress=progress, **common)
        protocol = evaluate(
            [data / n for n in PROTOCOL], systems, run="protocol", out=out / "protocol", progress=progress, **common
        )
    for report in (dev, protocol):
        show(report)
        compare(report.values)


def compare(values: dict[str, dict[str, dict[str, dict[str, float]]]], measure: str = "nDCG@10") -> None:
    """Print the first arm against the others over the queries of all collections together; p by Holm."""
    pooled = {name: [v for one in values.values() for v in one[name][measure].values()] for name in ("zero-shot", *ARMS)}
    first, *others = ARMS
    others = ["zero-shot", *others]
    adjusted = holm([randomisation_test(pooled[first], pooled[name]) for name in others])
    print(f"{first}, {measure} over {len(pooled[first])} queries: {sum(pooled[first]) / len(pooled[first]):.4f}")
    for name, p in zip(others, adjusted):
        mean = sum(pooled[name]) / len(pooled[name])
        print(f"  against {name} ({mean:.4f}): {sum(pooled[first]) / len(pooled[first]) - mean:+.4f}, p {p:.4f} (Holm)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="training of each arm")
    parser.add_argument("--out", type=Path, default=Path("runs/recipe"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=ARMS)
    parser.add_argument("--evaluate", action="store_true", help="only evaluate what was trained")
    parser.add_argument("--length", type=int, default=256, help="tokens of a prompt when it is read")
    parser.add_argument("--top-k", type=int, default=100, help="candidates reranked")
    parser.add_argument("--limit", type=int, default=None, help="queries a list (all by default)")
    options = parser.parse_args()
    data = data_folder()
    if options.evaluate:
        tables(data, options.out, options.length, options.top_k, options.limit, options.seed)
        return
    files = lists(data, options.out, options.seed)
    print(f"{len(read_groups(files[0]))} training lists, {len(read_groups(files[1]))} dev lists")
    for name in options.arms:
        arm(name, options.minutes, options.out, files, options.seed, options.length)


if __name__ == "__main__":
    main()
