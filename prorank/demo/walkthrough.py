"""The demo: SmolLM2-135M cannot rerank; two stages of training on a small public task, and what each of them did.

No score of any row mixes in BM25; BM25 only chooses the candidates, the same for every row.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..checkpoints.resolve import BUILT_IN, resolve
from ..data.beir import read_beir
from ..data.formats import write_groups
from ..data.negatives import mine
from ..errors import ConfigError
from ..train.run import train
from ..train.run_folder import is_done
from ..train.settings.stage_settings import Score, Settings, Warmup
from ..utils.files import atomic_file, check_folder
from ..utils.strict_json import dumps
from ..utils.terminal import plain, stdout_console
from .semanlink import SemanlinkPaths, semanlink

LENGTH, TRAIN_LENGTH = 256, 144  # tokens of a prompt: short ones buy steps, and what was learnt holds for longer ones
PROMPT = "echo"
CANDIDATES, QUERIES, DEV = 20, 50, 20  # texts a tag, tags of the test, lists of a look during training
ROWS = ("BM25", "zero-shot", "query likelihood", "warm-up only", "both stages")


def run_demo(minutes: float, out: Path, fresh: bool, seed: int, quiet: bool = False) -> Path:
    """Run the demo, or go on with it; returns the folder of its report.

    Args:
        minutes: of training, both stages together (evaluation and set-up come on top).
        out: runs, report and curves.
        fresh: begin anew.
        seed: of both stages.
    """
    if minutes <= 0:
        raise ConfigError(f"--minutes must be above 0, not {minutes}")
    check_folder(out)
    if fresh:
        shutil.rmtree(os.path.realpath(out), ignore_errors=True)
    began = time.monotonic()
    say = _speaker(began)
    say("1/6 base model: SmolLM2-135M-Instruct (from a wheel, converted once)")
    resolve(BUILT_IN)
    say("2/6 task: semanlink, queries are tags, documents are notes and abstracts")
    paths = semanlink()
    lists = {part: _lists(paths, part, out, seed) for part in ("train", "dev")}
    warm, fine = settings(minutes, out, lists, seed)
    say(f"3/6 stage warmup: reinforcement, one-token answers ({warm.minutes:.1f} min)")
    _stage(warm)
    say(f"4/6 stage score: fine-grained scores ({fine.minutes:.1f} min)")
    _stage(fine)
    say(f"5/6 evaluation: {QUERIES} held-out tags, BM25's first {CANDIDATES} texts, five rows")
    found = _evaluate(paths, warm, fine, out, seed)
    _table(found, out)
    say("6/6 one example, reranked by the trained model")
    _example(fine)
    print(
        f"\nreport   {out / 'report' / 'report.html'}\ncurves   {Path(warm.out) / 'train_curves.png'}  "
        f"{Path(fine.out) / 'train_curves.png'}\nmodel    {Path(fine.out) / 'model'}\n\n"
        f"Go on: longer training brings more (prorank demo --minutes 40 --out runs/demo40), or rank your own documents:\n"
        f"  prorank rerank --model {Path(fine.out)} --query 'your question' documents.txt"
    )
    say("done")
    return out / "report"


def settings(minutes: float, out: Path, lists: dict[str, Path], seed: int) -> tuple[Warmup, Score]:
    """Settings of the two stages for a budget of minutes: an eighth warms up, at most four minutes."""
    first = min(minutes / 8, 4.0)
    data = {"data": str(lists["train"]), "dev": str(lists["dev"])}
    common: dict[str, Any] = {**data, "prompt": PROMPT, "max_length": LENGTH, "train_length": TRAIN_LENGTH, "seed": seed}
    warm = Warmup(
        base=BUILT_IN, out=str(out / "warmup"), minutes=first, num_evaluations=1, save_every=0, learning_rate=1e-5, log_every=1,
        **common,
    )
    # Short lists and many steps: what the budget buys is steps, and the order begins to move after some thirty of them.
    fine = Score(
        base=str(out / "warmup"), out=str(out / "score"), minutes=minutes - first, num_evaluations=2, save_every=50,
        learning_rate=1e-4, batch_size=4, list_size=4, loss={"listnet": 1.0, "bce": 0.1}, **common,
    )  # fmt: skip
    return warm, fine


def _stage(stage: Settings) -> None:
    """Run a stage to its end, or leave it if it has been there."""
    from ..utils.progress import Progress

    if is_done(stage.out):
        return
    with Progress(stage.stage) as report:
        train(stage, resume=True, report=report)


def _lists(paths: SemanlinkPaths, part: str, out: Path, seed: int) -> Path:
    """Training or dev lists with BM25 negatives, mined once."""
    path = out / f"{part}.jsonl"
    if not path.is_file():
        groups, _ = mine(read_beir(getattr(paths, part), part), negatives=12, seed=seed, random=8 if part == "train" else 0)
        if part == "dev":  # a quick look during training
            groups = groups[:DEV]
        write_groups(path, groups)
    return path


def _evaluate(paths: SemanlinkPaths, warm: Warmup, fine: Score, out: Path, seed: int) -> Any:
    from ..evaluate import Scorer, evaluate
    from ..evaluate.terminal_report import bars
    from ..prompts.prompt import Prompt
    from ..reranker import Reranker

    def zero_shot() -> Reranker:
        return _named(Reranker(BUILT_IN, prompt=Prompt.preset(PROMPT, max_length=LENGTH)), "zero-shot")

    def likelihood() -> Scorer:
        return Scorer("query likelihood", zero_shot().likelihood)

    def trained(stage: Settings, name: str) -> Callable[[], Reranker]:
        return lambda: _named(Reranker(stage.out), name)

    systems = [zero_shot, likelihood, trained(warm, ROWS[3]), trained(fine, ROWS[4])]
    with bars() as progress:
        return evaluate(
            [paths.test],
            systems,
            split="test",
            top_k=CANDIDATES,
            limit=QUERIES,
            out=out / "report",
            seed=seed,
            progress=progress,
            command="prorank demo",
        )


def _named(reranker: Any, name: str) -> Any:
    reranker.name = name
    return reranker


def _table(found: Any, out: Path) -> None:
    """The five rows, printed and kept as JSON."""
    from rich.table import Table

    from ..evaluate.format import figure, p_value, percent, signed

    table = Table("", "nDCG@10", "MRR@10", "format", "vs BM25", "p (Holm)", title="semanlink, held-out tags and texts")
    kept = {}
    for row in found.rows:
        if row.kind == "answers only":
            continue
        table.add_row(
            plain(row.system if row.difference is not None else "BM25 (first stage)"),
            figure(row.measures["nDCG@10"]),
            figure(row.measures["MRR@10"]),
            percent(row.format_rate),
            signed(row.difference),
            p_value(row),
        )
        kept[row.system] = {**row.measures, "format_rate": row.format_rate, "p_holm": row.p_holm}
    stdout_console().print(table)
    with atomic_file(out / "table.json") as handle:
        handle.write(dumps(kept, indent=2))


def _example(fine: Score) -> None:
    from ..rank.rerank_files import show
    from ..reranker import Reranker

    documents = [
        "How to bake sourdough bread at home: flour, water, salt and patience.",
        "Word embeddings map words to vectors so that words with similar meaning lie close together.",
        "The city council voted on Tuesday to extend the tram line to the airport.",
        "A survey of recurrent and attention-based neural networks for machine translation.",
        "SPARQL is the query language for RDF graphs on the semantic web.",
    ]
    print("query: representing words as vectors")
    show(Reranker(fine.out).rank("representing words as vectors", documents), False)


def _speaker(began: float) -> Callable[[str], None]:
    def say(text: str) -> None:
        spent = time.monotonic() - began
        print(f"[{int(spent // 60):2d}:{int(spent % 60):02d}] {text}", flush=True)

    return say
