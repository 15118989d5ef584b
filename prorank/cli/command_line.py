"""The command line: one verb a function, each a thin call of the library.

A user's mistake ends in one line on stderr and exit code 2; heavy imports wait until a verb runs, so help is instant.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..checkpoints.default_model import DEFAULT
from ..errors import ConfigError
from ..utils.memory import steady_memory
from ..utils.terminal import guarded, past_typer, say, set_up_streams
from ..utils.threads import share_processors
from .data_commands import add_data_verbs
from .export_command import export
from .info_command import info
from .options import Base, Compile, Device, Dtype, Gain, Length, Method, PromptName, RemoteCode, compile_of
from .rerank_command import rerank
from .serve_command import serve
from .tune_commands import adapt, calibrate

if TYPE_CHECKING:
    from ..reranker import Reranker


class Verbs(TyperGroup):
    """The verbs."""

    def invoke(self, ctx: Any) -> Any:
        with past_typer():
            return super().invoke(ctx)


app = typer.Typer(
    cls=Verbs,
    name="prorank",
    help="Train a small language model to rerank, then run it fast, anywhere.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        say(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more, such as the dtype that was taken and why.")] = False,
) -> None:
    """Options without a verb."""
    if verbose:
        logging.getLogger("prorank").setLevel(logging.DEBUG)


add_data_verbs(app)
app.command()(adapt)
app.command()(calibrate)
app.command()(export)
app.command()(info)
app.command()(rerank)
app.command()(serve)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="A hub id, a GGUF file, smollm2-135m.")] = DEFAULT,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Fetch and convert what a checkpoint needs; print its folder."""
    from ..checkpoints.resolve import resolve

    say(resolve(name, trust_remote_code=trust_remote_code).folder)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML of one stage.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's newest whole checkpoint.")] = False,
) -> None:
    """Run the stage that CONFIG names: warmup, score, order, sft or reason."""
    from ..train.distributed import is_main
    from ..train.run import train as run_stage
    from ..train.settings.stage_settings import load_settings
    from ..train.summary import summary
    from ..utils.progress import Progress

    settings = load_settings(config, overrides)
    with Progress(settings.stage) as report:
        run_stage(settings, resume, report)
    if is_main():
        say(summary(settings.out))


@app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are laid over each other.")],
    out: Annotated[Path | None, typer.Option(help="Picture to write; in the first run folder by default.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="A figure to draw, such as reward; give it again for more.")] = None,
) -> None:
    """Draw the curves of runs from their metrics.jsonl."""
    from ..train.curves import plot as draw

    say(draw(*runs, out=out, only=only or ()))


@app.command()
def evaluate(
    datasets: Annotated[list[Path], typer.Argument(help="BEIR folders, or ir_datasets:NAME.")],
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="Checkpoint or bi-encoder:FOLDER; any number.")] = None,
    run: Annotated[str | None, typer.Option(help="First stage: a TREC run, or 'protocol'. BM25 by default.")] = None,
    qrels: Annotated[str | None, typer.Option(help="Judgements in place of qrels/SPLIT.tsv.")] = None,
    top_k: Annotated[int, typer.Option(help="Candidates a model reorders.")] = 100,
    split: Annotated[str, typer.Option(help="qrels split.")] = "test",
    min_rel: Annotated[int, typer.Option(help="Least label that is relevant in MRR, MAP and recall.")] = 1,
    pool: Annotated[bool, typer.Option("--pool", help="Candidates are each query's own judged documents.")] = False,
    exclude: Annotated[str | None, typer.Option(help="(query, document) pairs to drop from judgements and candidates.")] = None,
    only_run_queries: Annotated[bool, typer.Option("--only-run-queries", help="Average over the run's queries only.")] = False,
    limit: Annotated[int | None, typer.Option(help="Only so many queries, for a quick look.")] = None,
    likelihood: Annotated[bool, typer.Option("--likelihood", help="Add query likelihood under the first model.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for runs, results.json and report.html.")] = None,
    seed: Annotated[int, typer.Option(help="Of samples and tests.")] = 0,
    gain: Gain = "linear",
    method: Method = "pointwise",
    device: Device = None,
    dtype: Dtype = "auto",
    compile: Compile = None,
    max_length: Length = None,
    prompt: PromptName = None,
    base: Base = None,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Measure a first stage and models on judged datasets, with significance; without --model the first stage alone."""
    from ..checkpoints.loading import pick_device
    from ..checkpoints.resolve import is_adapter, resolve
    from ..engine.auto import check_dtype
    from ..evaluate import Scorer
    from ..evaluate import evaluate as measure
    from ..evaluate.terminal_report import bars, show
    from ..prompts.prompt import Prompt
    from ..rank.bi_encoder import KIND, bi_encoder, fingerprint_of, folder_of
    from ..rank.methods import read_method

    names = model or []
    checkpoints = [name for name in names if not name.startswith(KIND)]
    bases = {name: base if len(checkpoints) == 1 or is_adapter(name) else None for name in checkpoints}
    for name in names:  # a wrong one fails before the datasets are read
        resolve(name, bases[name], trust_remote_code) if name in checkpoints else folder_of(name)
    check_dtype(dtype, pick_device(device))
    Prompt.of(prompt)
    how = read_method(method)
    if likelihood and not checkpoints:
        raise ConfigError("--likelihood needs --model, whose weights it uses")

    def reranker_of(name: str) -> Reranker:
        from ..reranker import Reranker

        return Reranker(
            name, device=device, dtype=dtype, max_length=max_length, prompt=prompt, compile=compile_of(compile), base=bases[name],
            trust_remote_code=trust_remote_code, **how,
        )  # fmt: skip

    def load(name: str) -> Reranker | Scorer:
        if name in checkpoints:
            return reranker_of(name)
        return Scorer(name, bi_encoder(name, device), fingerprint_of(name, device))

    def likelihood_of(name: str) -> Scorer:
        one = reranker_of(name)
        return Scorer(f"query likelihood ({name})", one.likelihood, f"likelihood {one.fingerprint}")

    systems: list[Callable[[], Any]] = [partial(load, name) for name in names]
    systems += [partial(likelihood_of, checkpoints[0])] if likelihood else []
    with bars() as progress:
        found = measure(
            datasets,
            systems,
            run=run,
            qrels=qrels,
            top_k=top_k,
            split=split,
            min_rel=min_rel,
            judged_only=pool,
            exclude=exclude,
            out=out,
            limit=limit,
            seed=seed,
            progress=progress,
            only_run_queries=only_run_queries,
            gain=gain,
        )
    show(found)
    if out:
        say(f"report: {out / 'report.html'}")


@app.command()
def demo(
    minutes: Annotated[float, typer.Option(help="Minutes of training, both stages together.")] = 10.0,
    out: Annotated[Path, typer.Option(help="Folder of the demo's runs and report.")] = Path("runs/demo"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew instead of going on.")] = False,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train SmolLM2-135M in two stages on a small public task and show what each stage did."""
    from ..demo import run_demo

    run_demo(minutes, out, fresh, seed)


def main() -> None:
    """Entry point: errors that a user can mend become one line and exit code 2, Ctrl-C 130."""
    # Bars and warnings of the libraries below would bury our own; both can be had back by setting these.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    share_processors()
    steady_memory()
    set_up_streams()
    logging.getLogger("prorank").setLevel(logging.INFO)
    with guarded():
        app()


if __name__ == "__main__":
    main()
