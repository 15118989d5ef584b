"""Verbs for a team's own labels: `mine` negatives, `adapt` a checkpoint, `calibrate` its scores.

`adapt` and `calibrate` print figures of held-out queries.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from ..checkpoints.default_model import DEFAULT
from ..errors import ConfigError
from ..utils.files import check_file
from ..utils.terminal import say
from .options import (
    MAIN,
    Base,
    Compile,
    Device,
    Dtype,
    Gain,
    Language,
    LongDocuments,
    MaxLength,
    PromptName,
    RemoteCode,
    Think,
    compile_choice,
)

DATA_SUFFIX = re.compile(r"\.(jsonl?|ndjson|csv|tsv|txt)(\.gz)?$", re.IGNORECASE)


def mine_lists(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="BEIR folder, or ir_datasets:NAME.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="JSONL file of lists to write (.gz to compress).")],
    split: Annotated[str, typer.Option(help="Split of the judgements: qrels/SPLIT.tsv.", rich_help_panel=MAIN)] = "train",
    negatives: Annotated[int, typer.Option(help="Negatives per query.", rich_help_panel=MAIN)] = 7,
    depth: Annotated[int, typer.Option(help="BM25 candidates per query.", rich_help_panel=MAIN)] = 100,
    skip_top: Annotated[int, typer.Option(help="Leave out BM25's first N ranks, which may be relevant.", rich_help_panel=MAIN)] = 0,
    max_ratio: Annotated[
        float | None,
        typer.Option(help="Drop candidates that score above this ratio of the best positive. Default: none.", rich_help_panel=MAIN),
    ] = None,
    random: Annotated[
        int, typer.Option(help="How many of the negatives are random documents of the corpus.", rich_help_panel=MAIN)
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the random documents.", rich_help_panel=MAIN)] = 0,
    language: Language = "auto",
) -> None:
    """Mine negatives with BM25 for training.

    Documents judged non-relevant come first; near-duplicates of positives are left out.
    """
    from ..data.formats import read_collection
    from ..data.languages import check_language
    from ..data.negatives import mine_negatives, write_groups

    check_file(out)
    check_language(language)
    options: dict[str, Any] = {"max_ratio": max_ratio, "seed": seed, "random": random, "language": language}
    groups, report = mine_negatives(read_collection(dataset, split), depth, negatives, skip_top, **options)
    write_groups(out, groups)
    say(f"{out}: {report}", out)


def adapt(
    labels: Annotated[
        list[str] | None,
        typer.Argument(metavar="LABELS", help="Labels or logs: BEIR folder, CSV, TSV, JSONL; several are joined."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="Labels, instead of the argument; repeat for several.", rich_help_panel=MAIN),
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Checkpoint to start from.", rich_help_panel=MAIN)] = DEFAULT,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder; a better checkpoint is written to OUT/model. Default: runs/adapted-NAME of the labels.",
            rich_help_panel=MAIN,
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="Time limit of the training in minutes, without evaluation.", rich_help_panel=MAIN)
    ] = 7.0,
    held_out: Annotated[
        int | None,
        typer.Option(
            help="Number of held-out queries. Default: a fifth; with fewer than 150 queries all, by cross-validation.",
            rich_help_panel=MAIN,
        ),
    ] = None,
    blend_weight: Annotated[
        float | None,
        typer.Option(
            "--blend",
            help="Weight of the trained model in the mix with the old one, 0 to 1. Default: .5 or .75 for a reranker, else 1.",
            rich_help_panel=MAIN,
        ),
    ] = None,
    gain: Gain = "linear",
    keep_anyway: Annotated[
        bool, typer.Option("--keep-anyway", help="Keep the new model even without a significant gain.", rich_help_panel=MAIN)
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the split and the training.", rich_help_panel=MAIN)] = 0,
    long_documents: LongDocuments = "auto",
    language: Language = "auto",
    device: Device = None,
    compile: Compile = None,
) -> None:
    """Fine-tune a checkpoint on your own labels.

    The new model is kept only if it ranks held-out queries significantly better.
    """
    from ..utils.progress import Progress

    sources = label_sources(labels, data)
    if out is None:
        out = default_out(sources[0])
        say(f"run folder: {out}")
    from ..adapt import adapt as fine_tune

    with Progress("adapt") as report:
        computed: dict[str, Any] = {"language": language, "device": device, "compile": compile_choice(compile)}
        result = fine_tune(
            sources, model, out, minutes, held_out, seed, report, blend_weight, gain, keep_anyway, long_documents, **computed
        )
    say(result)


def label_sources(labels: list[str] | None, data: list[str] | None) -> list[str]:
    """Return the labels for `adapt`, from the argument or from `--data`.

    Raises:
        ConfigError: there are none, or both are used.
    """
    if labels and data:
        raise ConfigError(f"labels are given twice: {labels[0]} and --data {data[0]}; use the argument or --data")
    if not labels and not data:
        raise ConfigError("name your labels: prorank adapt LABELS (a BEIR folder, or a CSV, TSV or JSONL file)")
    return labels or data or []


def default_out(source: str) -> Path:
    """Return runs/adapted-NAME, with the name of the labels' file or folder."""
    name = source.removeprefix("ir_datasets:") if source.startswith("ir_datasets:") else Path(source).resolve().name
    name = re.sub(r"[^\w.-]+", "-", DATA_SUFFIX.sub("", name)).strip("-.")
    return Path("runs") / f"adapted-{name or 'labels'}"


def calibrate(
    data: Annotated[
        str,
        typer.Option(help="Labelled lists, pairs or a BEIR folder that the model was not trained on.", rich_help_panel=MAIN),
    ],
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Checkpoint or run folder; calibration.json is written there.")
    ] = DEFAULT,
    copy: Annotated[
        Path | None,
        typer.Option(
            help="Calibrate a copy of the checkpoint. Default: runs/calibrated if MODEL is not a folder, else no copy.",
            rich_help_panel=MAIN,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of a BEIR folder: qrels/SPLIT.tsv.", rich_help_panel=MAIN)] = "dev",
    method: Annotated[
        str,
        typer.Option(help="auto (lowest held-out log loss), temperature, platt or isotonic.", rich_help_panel=MAIN),
    ] = "auto",
    folds: Annotated[
        int, typer.Option(help="Folds of the queries; each is evaluated by a fit on the others.", rich_help_panel=MAIN)
    ] = 5,
    min_rel: Annotated[
        float | None, typer.Option(help="Lowest label that counts as relevant. Default: any above 0.", rich_help_panel=MAIN)
    ] = None,
    prior: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Share of relevant documents in use. Default: that of the labels.", rich_help_panel=MAIN
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of reliability.png. Default: the checkpoint's.", rich_help_panel=MAIN)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the folds.", rich_help_panel=MAIN)] = 0,
    prompt: PromptName = None,
    max_length: MaxLength = None,
    base: Base = None,
    trust_remote_code: RemoteCode = False,
    think: Think = True,
    device: Device = None,
    dtype: Dtype = "auto",
    compile: Compile = None,
) -> None:
    """Fit probabilities to held-out labels.

    The calibration is written into the checkpoint or a copy of it; hits then have a probability.
    """
    from ..calibrate import calibrate as fit_and_save
    from ..evaluate.reliability import NAMES
    from ..utils.progress import Progress

    options: dict[str, Any] = {"think": think, "device": device, "dtype": dtype, "compile": compile_choice(compile)}
    options |= {"max_length": max_length, "prompt": prompt, "base": base, "trust_remote_code": trust_remote_code}
    with Progress("calibrate") as report:
        fit, path, picture = fit_and_save(model, data, split, method, folds, seed, min_rel, out, report, copy, prior, **options)
    say(f"{fit}; fitted on {fit.pairs} pairs of {fit.queries} queries, {100 * fit.relevant:.1f} % relevant")
    if fit.prior is not None:
        say(f"probabilities are for candidates of which {100 * fit.prior:.3g} % are relevant")
    say(f"{f'held out, {folds} folds':<22}{'before':>8}{'after':>8}")
    for key, name in NAMES.items():
        say(f"{name:<22}{fit.before[key]:8.4f}{fit.after[key]:8.4f}")
    say(f"calibration: {path}\nreliability: {picture}")
