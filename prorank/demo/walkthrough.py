"""The demo: search the Django documentation in three acts, measured on the same queries and candidates.

*Rank*: the default model puts BM25's first sections in order. *Adapt*: the default model learns from some headings of other pages.
*Train*: SmolLM2-135M, which cannot rank, learns it in two stages. No system mixes in BM25's scores.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from ..adapt.adaptation import RESULT_FILE, adapt
from ..checkpoints.default_model import DEFAULT
from ..checkpoints.resolve import BUILT_IN, resolve
from ..errors import ConfigError
from ..train.run import train
from ..train.run_folder import is_done
from ..train.settings.stage_settings import Settings, load_settings
from ..utils.files import check_folder
from ..utils.progress import Progress
from .act_table import compare, show_result, show_table, write_summary
from .django_docs import CANDIDATES, SDIST, django_docs
from .plan import ADAPT_BLOCKS, BLOCK_SIZE, SCORE_BLOCKS, TEST_QUERIES, WARMUP_QUERIES, DemoPlan
from .systems import ADAPTED, LIKELIHOOD, SHIPPED, STAGE_2, SYSTEMS, measure

Say = Callable[[str], None]


def run_demo(minutes: float, out: Path, restart: bool, seed: int) -> Path:
    """Run the demo, or resume it.

    Args:
        minutes: after shares of it (`plan.STOPWATCH`) a training is cut short. The work is counted in documents and does not grow
            with it.
        out: folder of runs, report and curves.
        restart: delete `out` and start from the beginning.
        seed: of lists and trainings.

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
    say("set-up: SmolLM2-135M-Instruct (a package file, converted once)")
    resolve(BUILT_IN)
    say(f"set-up: the documentation in {SDIST} (a package file, {SDIST.licence})")
    plan = DemoPlan(out, minutes, seed, django_docs())
    plan.write_lists()
    _rank(plan, say)
    shortened = _adapt(plan, say) + _train(plan, say)
    say(f"result: {TEST_QUERIES} headings, the first {CANDIDATES} sections of BM25")
    evaluation = measure(plan, SYSTEMS)
    show_table(evaluation)
    print(compare(evaluation, ADAPTED, SHIPPED), compare(evaluation, STAGE_2, LIKELIHOOD), *shortened, sep="\n")
    write_summary(evaluation, seed, shortened, out / "summary.json")
    _show_next(plan)
    say("done")
    return out / "report"


def _rank(plan: DemoPlan, say: Say) -> None:
    """Act one: the default model."""
    say(f"act 1, rank: {TEST_QUERIES} section headings as queries, BM25's first {CANDIDATES} sections, {DEFAULT}")
    evaluation = measure(plan, [SHIPPED])
    show_result(evaluation, SHIPPED)


def _adapt(plan: DemoPlan, say: Say) -> list[str]:
    """Act two: the default model learns from headings of other pages. Returns a line if the stopwatch cut it short."""
    say(f"act 2, adapt: {DEFAULT} learns from {ADAPT_BLOCKS * BLOCK_SIZE} headings of other pages")
    if not (plan.adapted / RESULT_FILE).is_file():
        with Progress("adapt") as report:
            adapt(**plan.adapt_options(), report=report)
    return _cut_short(plan.adapted / "run", "adapt", say)


def _train(plan: DemoPlan, say: Say) -> list[str]:
    """Act three: both stages from the base. Returns a line for each that the stopwatch cut short."""
    warmup, score = plan.stages()
    say(f"act 3, train, stage 1: reinforcement on {2 * WARMUP_QUERIES} prompts with one-token answers")
    _run_stage(warmup)
    shortened = _cut_short(Path(warmup.out), "stage 1", say)
    say(f"act 3, train, stage 2: fine-grained scores from {SCORE_BLOCKS * BLOCK_SIZE} headings")
    _run_stage(score)
    return shortened + _cut_short(Path(score.out), "stage 2", say)


def _run_stage(stage: Settings) -> None:
    """Run or resume a stage, unless it is finished."""
    if not is_done(stage.out):
        with Progress(stage.stage) as report:
            train(stage, resume=True, report=report)


def _cut_short(run: Path, name: str, say: Say) -> list[str]:
    """A line if the stopwatch, as it was set when the training began, ended it before it had read all its documents."""
    done = json.loads((run / "done.json").read_text(encoding="utf-8"))
    limit = load_settings(run / "config.yaml").minutes
    if limit is None or done["step"] >= done["max_steps"]:
        return []
    line = f"{name} was cut short by the stopwatch after {done['step']} steps, {limit:g} minutes; --minutes sets it"
    say(line)
    return [line]


def _show_next(plan: DemoPlan) -> None:
    """Print where the results are, and what to type next."""
    warmup, score = (Path(stage.out) for stage in plan.stages())
    print(f"""
page     {plan.out / "report" / "report.html"}
figures  {plan.out / "summary.json"}
curves   {warmup / "train_curves.png"}  {score / "train_curves.png"}
models   {plan.adapted / "model"}  {score / "model"}

Next:
  prorank search docs/ "how do I deploy this"     # your own documents, with the default model
  prorank adapt labels.csv                        # fine-tune it on your own labels
  prorank serve                                   # an HTTP server for it""")


def _timed_printer() -> Say:
    """A function that prints a line behind the time since this call."""
    start = time.monotonic()

    def say(text: str) -> None:
        seconds = int(time.monotonic() - start)
        print(f"[{seconds // 60:2d}:{seconds % 60:02d}] {text}", flush=True)

    return say
