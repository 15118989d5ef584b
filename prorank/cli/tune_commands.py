"""Verbs for a team's own labels: fine-tune a checkpoint on them, and give it probabilities.

The figures of both are of held-out queries, and their last lines name what to use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..checkpoints.default_model import DEFAULT
from ..utils.terminal import say
from .options import Base, Compile, Device, Dtype, Gain, Length, PromptName, RemoteCode, Think, compile_of


def adapt(
    data: Annotated[list[str], typer.Option(help="Labels or logs: BEIR folder, CSV, TSV, JSONL pairs or lists; more than once.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Checkpoint to start from.")] = DEFAULT,
    out: Annotated[Path, typer.Option(help="Run folder; a better checkpoint comes into OUT/model.")] = Path("runs/adapted"),
    minutes: Annotated[float, typer.Option(help="Minutes of training at most; measuring comes on top.")] = 7.0,
    held_out: Annotated[int | None, typer.Option(help="Queries that decide; a fifth by default, of few all in turn.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split and the training.")] = 0,
    blend: Annotated[float | None, typer.Option(help="Share of the trained weights; of a reranker .5 or .75 by default.")] = None,
    gain: Gain = "linear",
    keep_anyway: Annotated[bool, typer.Option("--keep-anyway", help="Keep the new model without evidence, too.")] = False,
    device: Device = None,
    compile: Compile = None,
) -> None:
    """Fine-tune on your own labels; the old model stays unless the new one ranks held-out queries better, beyond chance."""
    from ..adapt import adapt as fine_tune
    from ..utils.progress import Progress

    with Progress("adapt") as report:
        computed = {"device": device, "compile": compile_of(compile)}
        found = fine_tune(data, model, out, minutes, held_out, seed, report, blend, gain, keep_anyway, **computed)
    say(found)


def calibrate(
    data: Annotated[str, typer.Option(help="Labelled lists, pairs or BEIR folder; not what the model was trained on.")],
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="Checkpoint, or its run; calibration.json goes there.")] = DEFAULT,
    copy: Annotated[Path | None, typer.Option(help="Write into a copy; runs/calibrated where MODEL is no folder.")] = None,
    split: Annotated[str, typer.Option(help="qrels split of a BEIR folder.")] = "dev",
    method: Annotated[str, typer.Option(help="auto (least log loss held out), temperature, platt or isotonic.")] = "auto",
    folds: Annotated[int, typer.Option(help="Parts of the queries; each is measured by a fit on the others.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the folds.")] = 0,
    min_rel: Annotated[float | None, typer.Option(help="Least label that is relevant; any above 0 by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of reliability.png; the checkpoint's by default.")] = None,
    think: Think = True,
    device: Device = None,
    dtype: Dtype = "auto",
    compile: Compile = None,
    max_length: Length = None,
    prompt: PromptName = None,
    base: Base = None,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Fit probabilities on held-out labels and write them into the checkpoint or a copy; its hits then carry them."""
    from ..calibrate import calibrate as fit_and_save
    from ..evaluate.reliability import NAMES
    from ..utils.progress import Progress

    how: dict[str, Any] = {"think": think, "device": device, "dtype": dtype, "compile": compile_of(compile)}
    how |= {"max_length": max_length, "prompt": prompt}
    how |= {"base": base, "trust_remote_code": trust_remote_code}
    with Progress("calibrate") as report:
        found, path, picture = fit_and_save(model, data, split, method, folds, seed, min_rel, out, report, copy, **how)
    say(f"{found}; fitted on {found.pairs} pairs of {found.queries} queries, {100 * found.relevant:.1f} % relevant")
    say(f"{f'held out, {folds} folds':<22}{'before':>8}{'after':>8}")
    for key, name in NAMES.items():
        say(f"{name:<22}{found.before[key]:8.4f}{found.after[key]:8.4f}")
    say(f"calibration: {path}\nreliability: {picture}")
