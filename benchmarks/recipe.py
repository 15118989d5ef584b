"""Which recipe is best at equal training time: two stages against score-only, warm-up-only and plain BCE, from one start.

Hard fact: every arm gets the same minutes of training (evaluation and saving are not counted), the same data, prompt and seed; the
protocol lists are for reporting only, nothing is chosen on them.

    PRORANK_DATA=... python benchmarks/recipe.py --minutes 20 --out runs/recipe             # four arms, 80 minutes
    PRORANK_DATA=... python benchmarks/recipe.py --minutes 20 --out runs/recipe --evaluate  # then the tables

An arm that is complete is not run again, one that was stopped goes on, so the command can be repeated.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from prorank.data.beir import Collection, read_beir
from prorank.data.examples import Group
from prorank.data.formats import read_groups, write_groups
from prorank.data.negatives import mine
from prorank.evaluate import evaluate
from prorank.evaluate.report import bars, show
from prorank.model import BUILT_IN
from prorank.prompt import Prompt
from prorank.reranker import Reranker
from prorank.train.config import make_settings
from prorank.train.run import is_done, train

TRAIN = {"scifact": 800, "medquad": 1600, "cosqa": 600}  # queries of each set marked train, BM25 negatives
DEV = ("trecqa", "wikiqa", "semeval_cqa_answers")  # judged pools of their dev splits
PROTOCOL = ("dl19", "dl20", "scifact", "cranfield", "npl_vaswani", "dbpedia50")
PROMPT = "echo"
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
        write_groups(made[1], [g for name in DEV for g in _pool(read_beir(data / name, "dev"))[:25]])
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


def arm(name: str, minutes: float, out: Path, files: tuple[Path, Path], seed: int) -> str:
    """Train one arm within `minutes`; returns its run folder."""
    folder = out / name.replace(" ", "-")
    common: dict[str, Any] = {"data": str(files[0]), "dev": str(files[1]), "prompt": PROMPT, "max_length": 192, "seed": seed}
    common |= {"evals": 3, "save_every": 100}
    score = {"stage": "score", "learning_rate": 1e-4, "micro_batch": 4, "list_size": 4, **common}
    score["loss"] = {"softmax": 1.0, "bce": 0.1}
    warm = {"stage": "warmup", "learning_rate": 1e-5, "base": BUILT_IN, **common}
    if name == "two stages":
        first = minutes / 10
        _run({**warm, "minutes": first, "out": f"{folder}-warmup"})
        return _run({**score, "base": f"{folder}-warmup", "minutes": minutes - first, "out": str(folder)})
    if name == "warm-up only":
        return _run({**warm, "minutes": minutes, "out": str(folder)})
    if name == "plain BCE":
        score |= {"loss": {"bce": 1.0}, "keep_answers": 0.0}
    return _run({**score, "base": BUILT_IN, "minutes": minutes, "out": str(folder)})


def _run(values: dict[str, Any]) -> str:
    if not is_done(values["out"]):
        print(f"training {values['out']} for {values['minutes']:g} minutes", flush=True)
        train(make_settings(values), resume=True)
    return values["out"]


def tables(data: Path, out: Path, length: int, top_k: int, limit: int | None, seed: int) -> None:
    """Evaluate the untrained base and all arms: protocol lists, then the dev lists' nDCG from the runs."""
    def load(folder: str, name: str) -> Any:
        own = {} if folder != BUILT_IN else {"prompt": Prompt.preset(PROMPT, max_length=length)}
        reranker = Reranker(folder, max_length=length, **own)
        reranker.name = name
        return reranker

    folders = [(BUILT_IN, "zero-shot")] + [(str(out / name.replace(" ", "-")), name) for name in ARMS]
    systems = [lambda f=folder, n=name: load(f, n) for folder, name in folders]
    with bars() as progress:
        found = evaluate(
            [data / name for name in PROTOCOL], systems, run="protocol", top_k=top_k, limit=limit, out=out / "report", seed=seed,
            progress=progress, command="benchmarks/recipe.py",
        )
    show(found)
    for folder, name in folders[1:]:
        print(name, json.dumps(json.loads((Path(folder) / "done.json").read_text())["best"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="training of each arm")
    parser.add_argument("--out", type=Path, default=Path("runs/recipe"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=ARMS)
    parser.add_argument("--evaluate", action="store_true", help="only evaluate what was trained")
    parser.add_argument("--length", type=int, default=256, help="tokens of a prompt in the evaluation")
    parser.add_argument("--top-k", type=int, default=100, help="candidates reranked")
    parser.add_argument("--limit", type=int, default=None, help="queries a list (all by default)")
    options = parser.parse_args()
    if "PRORANK_DATA" not in os.environ:
        raise SystemExit("set PRORANK_DATA to the folder of the collections")
    data = Path(os.environ["PRORANK_DATA"])
    if options.evaluate:
        tables(data, options.out, options.length, options.top_k, options.limit, options.seed)
        return
    files = lists(data, options.out, options.seed)
    print(f"{len(read_groups(files[0]))} training lists, {len(read_groups(files[1]))} dev lists")
    for name in options.arms:
        arm(name, options.minutes, options.out, files, options.seed)


if __name__ == "__main__":
    main()
