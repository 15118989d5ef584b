"""The demo: train SmolLM2-135M, which cannot rerank, in two stages on a small public task, and measure each of them.

BM25 only chooses the candidates, which are the same for every system; no system mixes its scores in.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.resolve import BUILT_IN, resolve
from ..data.beir import read_beir
from ..data.formats import write_groups
from ..data.negatives import mine_negatives
from ..errors import ConfigError
from ..train.run import train
from ..train.run_folder import is_done
from ..train.settings.stage_settings import Score, Settings, Warmup
from ..utils.files import atomic_file, check_folder
from ..utils.strict_json import dumps
from ..utils.terminal import plain, stdout_console
from .semanlink import SemanlinkPaths, semanlink

if TYPE_CHECKING:
    from ..evaluate.results import Evaluation

MAX_LENGTH, TRAIN_LENGTH = 256, 144  # tokens of a prompt; short ones give more steps, and what is learnt holds for longer ones
PROMPT = "echo"
CANDIDATES, TEST_QUERIES, DEV_LISTS = 20, 50, 20  # texts a tag, tags of the test, lists measured during training
ZERO_SHOT, LIKELIHOOD, WARMED_UP, TRAINED = "zero-shot", "query likelihood", "warm-up only", "both stages"


@dataclass(frozen=True)
class DemoPlan:
    """What one run of the demo works on: its folder, its seed, the task and the settings of the two stages."""

    out: Path
    seed: int
    paths: SemanlinkPaths
    warmup: Warmup
    score: Score


def run_demo(minutes: float, out: Path, restart: bool, seed: int) -> Path:
    """Run the demo, or resume it.

    Args:
        minutes: of training, both stages together; evaluation and set-up take extra time.
        out: folder of runs, report and curves.
        restart: delete `out` and start from the beginning.
        seed: of both stages.

    Returns:
        The folder of the report.

    Raises:
        ConfigError: no minutes.
    """
    if minutes <= 0:
        raise ConfigError(f"--minutes must be above 0, not {minutes}")
    check_folder(out)
    if restart:
        shutil.rmtree(os.path.realpath(out), ignore_errors=True)
    say = _timed_printer()
    say("1/6 base model: SmolLM2-135M-Instruct (from a wheel, converted once)")
    resolve(BUILT_IN)
    say("2/6 task: semanlink, queries are tags, documents are notes and abstracts")
    paths = semanlink()
    lists = {part: _write_lists(paths, part, out, seed) for part in ("train", "dev")}
    plan = DemoPlan(out, seed, paths, *settings(minutes, out, lists, seed))
    say(f"3/6 stage warmup: reinforcement, one-token answers ({plan.warmup.minutes:.1f} min)")
    _train(plan.warmup)
    say(f"4/6 stage score: fine-grained scores ({plan.score.minutes:.1f} min)")
    _train(plan.score)
    say(f"5/6 evaluation: {TEST_QUERIES} held-out tags, BM25's first {CANDIDATES} texts, five systems")
    _show_table(_evaluate(plan), out)
    say("6/6 one example, reranked by the trained model")
    _show_example(plan.score)
    print(
        f"\nreport   {out / 'report' / 'report.html'}\ncurves   {Path(plan.warmup.out) / 'train_curves.png'}  "
        f"{Path(plan.score.out) / 'train_curves.png'}\nmodel    {Path(plan.score.out) / 'model'}\n\n"
        f"Next: train longer for better rankings (prorank demo --minutes 40 --out runs/demo40), or rank your own documents:\n"
        f"  prorank rerank --model {Path(plan.score.out)} --query 'your question' documents.txt"
    )
    say("done")
    return out / "report"


def settings(minutes: float, out: Path, lists: dict[str, Path], seed: int) -> tuple[Warmup, Score]:
    """Settings of the two stages for a budget of minutes: an eighth of it, at most four minutes, is for the warm-up.

    Args:
        minutes: of both stages together.
        out: folder of the two runs.
        lists: files of the "train" and "dev" lists.
        seed: of both stages.
    """
    warmup_minutes = min(minutes / 8, 4.0)
    data = {"data": str(lists["train"]), "dev": str(lists["dev"])}
    common: dict[str, Any] = {**data, "prompt": PROMPT, "max_length": MAX_LENGTH, "train_length": TRAIN_LENGTH, "seed": seed}
    warmup = Warmup(
        base=BUILT_IN, out=str(out / "warmup"), minutes=warmup_minutes, save_every=0, learning_rate=1e-5, log_every=1,
        num_evaluations=1,
        **common,
    )  # fmt: skip
    # Short lists give many steps for the budget; rankings begin to improve after about thirty steps.
    score = Score(
        base=str(out / "warmup"), out=str(out / "score"), minutes=minutes - warmup_minutes, save_every=50, learning_rate=1e-4,
        batch_size=4, list_size=4,
        num_evaluations=2,
        loss={"listnet": 1.0, "bce": 0.1},
        **common,
    )  # fmt: skip
    return warmup, score


def _train(stage: Settings) -> None:
    """Run or resume a stage, unless it is finished."""
    from ..utils.progress import Progress

    if is_done(stage.out):
        return
    with Progress(stage.stage) as report:
        train(stage, resume=True, report=report)


def _write_lists(paths: SemanlinkPaths, part: str, out: Path, seed: int) -> Path:
    """Mine BM25 negatives for the training or dev lists, unless their file is there. Returns the file."""
    path = out / f"{part}.jsonl"
    if not path.is_file():
        random = 8 if part == "train" else 0
        groups, _ = mine_negatives(read_beir(getattr(paths, part), part), negatives=12, seed=seed, random=random)
        write_groups(path, groups[:DEV_LISTS] if part == "dev" else groups)
    return path


def _evaluate(plan: DemoPlan) -> "Evaluation":
    """Measure BM25, the base model in two ways, and the result of each stage."""
    from ..evaluate import Scorer, evaluate
    from ..evaluate.terminal_report import bars
    from ..prompts.prompt import Prompt
    from ..reranker import Reranker

    def zero_shot() -> Reranker:
        return _named(Reranker(BUILT_IN, prompt=Prompt.preset(PROMPT, max_length=MAX_LENGTH)), ZERO_SHOT)

    def likelihood() -> Scorer:
        return Scorer(LIKELIHOOD, zero_shot().likelihood)

    def trained(stage: Settings, name: str) -> Callable[[], Reranker]:
        return lambda: _named(Reranker(stage.out), name)

    systems = [zero_shot, likelihood, trained(plan.warmup, WARMED_UP), trained(plan.score, TRAINED)]
    with bars() as progress:
        return evaluate(
            [plan.paths.test], systems, split="test", top_k=CANDIDATES, limit=TEST_QUERIES, out=plan.out / "report", seed=plan.seed,
            progress=progress, command="prorank demo",
        )  # fmt: skip


def _named(reranker: Any, name: str) -> Any:
    reranker.name = name
    return reranker


def _show_table(evaluation: "Evaluation", out: Path) -> None:
    """Print the five systems, and save their figures to table.json."""
    from rich.table import Table

    from ..evaluate.format import figure, p_value, percent, signed
    from ..evaluate.results import ANSWERS

    table = Table("", "nDCG@10", "MRR@10", "format", "vs BM25", "p (Holm)", title="semanlink, held-out tags and texts")
    figures = {}
    for row in evaluation.rows:
        if row.kind == ANSWERS:
            continue
        table.add_row(
            plain(row.system if row.difference is not None else "BM25 (first stage)"),
            figure(row.measures["nDCG@10"]),
            figure(row.measures["MRR@10"]),
            percent(row.format_rate),
            signed(row.difference),
            p_value(row),
        )
        figures[row.system] = {**row.measures, "format_rate": row.format_rate, "p_holm": row.p_holm}
    stdout_console().print(table)
    with atomic_file(out / "table.json") as handle:
        handle.write(dumps(figures, indent=2))


def _show_example(stage: Score) -> None:
    """Rerank a few documents with the trained model and print them."""
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
    show(Reranker(stage.out).rank("representing words as vectors", documents), False)


def _timed_printer() -> Callable[[str], None]:
    """A function that prints a line behind the time since this call."""
    start = time.monotonic()

    def say(text: str) -> None:
        seconds = int(time.monotonic() - start)
        print(f"[{seconds // 60:2d}:{seconds % 60:02d}] {text}", flush=True)

    return say
