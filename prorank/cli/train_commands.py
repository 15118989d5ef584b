"""Verbs that train: `train` one stage, `plot` its curves, `demo` on the Django documentation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError
from ..utils.terminal import say
from .options import MAIN

if TYPE_CHECKING:
    from ..train.settings.stage_settings import Settings


def train(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="YAML file of one stage (a stage's name with --list-keys).")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings that replace those of the file.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest complete checkpoint of the run.", rich_help_panel=MAIN)
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Train two batches and print the memory, steps and minutes that the run needs.", rich_help_panel=MAIN
        ),
    ] = False,
    list_keys: Annotated[
        bool,
        typer.Option("--list-keys", help="List all settings keys, of every stage or of the named stage.", rich_help_panel=MAIN),
    ] = False,
) -> None:
    """Run the training stage of CONFIG: warmup, score, order, sft or reason."""
    if list_keys:
        _show_keys(config, overrides, resume or dry_run)
        return
    if config is None:
        raise ConfigError("name a config: prorank train CONFIG.yaml; `prorank train --list-keys` lists its keys")
    from ..train.distributed import is_main
    from ..train.run import train as run_stage
    from ..train.settings.stage_settings import load_settings
    from ..train.summary import summary
    from ..utils.progress import Progress

    settings = load_settings(config, overrides)
    if dry_run:
        _dry_run(settings, resume)
        return
    with Progress(settings.stage) as report:
        run_stage(settings, resume, report)
    if is_main():
        say(summary(settings.out))


def _dry_run(settings: Settings, resume: bool) -> None:
    """Print what a run with these settings needs."""
    if resume:
        raise ConfigError("--dry-run and --resume exclude each other; omit one")
    from ..train.dry_run import dry_run
    from ..utils.progress import Spinner

    with Spinner("training two batches"):
        result = dry_run(settings)
    say(result)


def _show_keys(stage: Path | None, overrides: list[str] | None, resume: bool) -> None:
    """Print the settings keys of a stage, or of all."""
    from .settings_keys import show_keys

    if overrides or resume:
        raise ConfigError("--list-keys takes at most one argument, a stage: prorank train --list-keys score")
    show_keys(None if stage is None else str(stage))


def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders; the curves of several runs share panels.")],
    out: Annotated[
        Path | None, typer.Option(help="Picture (PNG) to write. Default: in the first run folder.", rich_help_panel=MAIN)
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Plot this figure only, such as reward; repeat for more. Default: all.", rich_help_panel=MAIN),
    ] = None,
) -> None:
    """Plot the curves of runs from their metrics.jsonl."""
    from ..train.curves import plot as draw

    say(draw(*runs, out=out, only=only or ()))


def demo(
    minutes: Annotated[
        float,
        typer.Option(
            help="Stopwatch: a training is cut short after its share of this. More minutes do not add work.", rich_help_panel=MAIN
        ),
    ] = 15.0,
    out: Annotated[Path, typer.Option(help="Folder of the demo's runs and report.", rich_help_panel=MAIN)] = Path("runs/demo"),
    restart: Annotated[
        bool, typer.Option("--restart", help="Delete OUT and start again, instead of continuing.", rich_help_panel=MAIN)
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of lists and trainings.", rich_help_panel=MAIN)] = 0,
) -> None:
    """Search the Django documentation: rank with the default model, adapt it, and train a model in two stages."""
    from ..demo import run_demo

    run_demo(minutes, out, restart, seed)
