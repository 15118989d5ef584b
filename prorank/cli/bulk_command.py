"""`prorank score-pairs`: score the pairs of files in bulk; and options of a cluster, which `rerank --run` has as well."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..checkpoints.default_model import DEFAULT
from ..errors import ConfigError, nearest
from ..utils.files import check_neighbour
from ..utils.progress import Progress
from ..utils.terminal import argument_text, note, say
from .options import (
    MAIN,
    Base,
    Compile,
    Device,
    Dtype,
    Instruction,
    LongDocuments,
    MaxLength,
    Model,
    PromptName,
    RemoteCode,
    Samples,
    Think,
    ThinkTokens,
    check_positive,
    first_passed,
    reranker_options,
)

if TYPE_CHECKING:
    from ..bulk import RayBackend
    from ..rank.rerank_files import RunTexts

CLUSTER = "Cluster"
ENGINES = ("local", "ray")
FOR_RAY = ("workers", "cpus", "gpus", "address")
LINE_SECONDS = 60.0  # between lines of progress where stderr is not a terminal

Cpus = Annotated[int, typer.Option("--cpus", help="Processors, and compute threads, of a worker.", rich_help_panel=CLUSTER)]
Gpus = Annotated[
    float | None,
    typer.Option(
        "--gpus", help="GPUs of a worker. Default: 1 where the cluster has one for each worker, else 0.", rich_help_panel=CLUSTER
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="auto|HOST:PORT",
        help="Ray cluster to connect to. Default: RAY_ADDRESS, else one that is started on this machine.",
        rich_help_panel=CLUSTER,
    ),
]
RunWorkers = Annotated[
    int | None,
    typer.Option("--workers", help="Ray workers that rerank a run. Default: this process alone.", rich_help_panel=CLUSTER),
]


def score_pairs(
    context: typer.Context,
    pairs: Annotated[
        str,
        typer.Argument(metavar="PAIRS", help="Parquet, Arrow or JSONL: a file, folder or pattern; a path or a URL (s3://...)."),
    ],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder of scored shards to write: a path or a URL.")],
    query_column: Annotated[str, typer.Option(help="Column of the queries.", rich_help_panel=MAIN)] = "query",
    document_column: Annotated[str, typer.Option(help="Column of the documents.", rich_help_panel=MAIN)] = "document",
    id_columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Columns to copy to the output. Default: id, query_id and doc_id where the input has them.",
            rich_help_panel=MAIN,
        ),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="parquet|jsonl|arrow", help="Format of the shards.", rich_help_panel=MAIN)
    ] = "parquet",
    shard_rows: Annotated[int, typer.Option(help="Rows of a shard, which is written whole.", rich_help_panel=MAIN)] = 10_000,
    engine: Annotated[
        str, typer.Option(metavar="local|ray", help="One process on this machine, or Ray workers.", rich_help_panel=CLUSTER)
    ] = "local",
    workers: Annotated[int, typer.Option(help="Ray workers, each with a model of its own.", rich_help_panel=CLUSTER)] = 1,
    cpus: Cpus = 1,
    gpus: Gpus = None,
    address: Address = None,
    model: Model = DEFAULT,
    instruction: Instruction = None,
    prompt: PromptName = None,
    max_length: MaxLength = None,
    long_documents: LongDocuments = "auto",
    base: Base = None,
    trust_remote_code: RemoteCode = False,
    think: Think = True,
    samples: Samples = 1,
    max_think_tokens: ThinkTokens = None,
    device: Device = None,
    dtype: Dtype = "auto",
    compile: Compile = None,
) -> None:
    """Score (query, document) pairs of files, on this machine or on a Ray cluster.

    Run it again after an interruption: it scores the shards that are missing, and nothing if all are there.
    """
    check_positive(shard_rows, "--shard-rows")
    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine}: unknown engine{nearest(engine, ENGINES)}")
    if engine == "local" and (passed := first_passed(context, FOR_RAY)):
        raise ConfigError(f"{passed} is for workers of a cluster; add --engine ray or omit it")
    backend = ray_backend(workers, cpus, gpus, address, device) if engine == "ray" else None
    from ..bulk import PairColumns
    from ..bulk import score_pairs as score_files

    ids = None if id_columns is None else tuple(filter(None, map(str.strip, id_columns.split(","))))
    with pairs_progress("score-pairs") as report:
        result = score_files(
            pairs, out, model, columns=PairColumns(query_column, document_column, ids), shard_rows=shard_rows, form=form,
            instruction=argument_text(instruction), backend=backend, report=report, **reranker_options(context),
        )  # fmt: skip
    say(result)


def ray_backend(workers: int, cpus: int, gpus: float | None, address: str | None, device: str | None) -> RayBackend:
    """Return the back end of a cluster's options. Raises ConfigError if one is out of range."""
    check_positive(workers, "--workers")
    check_positive(cpus, "--cpus")
    if gpus is not None and gpus < 0:
        raise ConfigError(f"--gpus must be at least 0, not {gpus:g}")
    from ..bulk import RayBackend

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports to its makers otherwise
    gpus = 0 if device == "cpu" and gpus is None else gpus
    return RayBackend(workers, cpus, gpus, address or os.environ.get("RAY_ADDRESS") or None)


def check_cluster(context: typer.Context, method: str) -> None:
    """Raise ConfigError for options of a cluster without --workers, and for a method of lists with it."""
    workers = context.params["workers"]
    check_positive(workers, "--workers")
    passed = first_passed(context, FOR_RAY[1:])
    if passed and workers is None:
        raise ConfigError(f"{passed} needs --workers")
    if workers is not None and method != "pointwise":
        raise ConfigError(f"--workers scores single documents, not --method {method}; omit one of them")


def rerank_by_workers(
    context: typer.Context, texts: RunTexts, out: Path, model: str, options: dict[str, Any], instruction: str | None
) -> None:  # fmt: skip
    """Rerank a run by workers of a cluster, in the work folder OUT.parts, which is removed at the end."""
    from ..bulk.bulk_ranker import BulkRanker
    from ..rank.rerank_files import rerank_run

    check_neighbour(out, "the folder of its parts")
    backend = ray_backend(*(context.params[name] for name in (*FOR_RAY, "device")))
    with pairs_progress("rerank") as report:
        ranker = BulkRanker(out.with_name(f"{out.name}.parts"), model, backend, report, **options)
        say(rerank_run(ranker, texts, out, instruction), out)
    ranker.close()


@contextmanager
def pairs_progress(name: str) -> Iterator[Callable[[int, int, dict[str, Any]], None]]:
    """Yield a function that takes (pairs done, pairs in all, result): a bar on a terminal, else a line a minute."""
    if sys.stderr and sys.stderr.isatty():
        with Progress(name) as show:
            yield lambda done, total, _: show(done / total, {})
        return
    start = last = time.monotonic()
    first: list[int] = []  # pairs that were done after the first shard

    def print_line(done: int, total: int, result: dict[str, Any]) -> None:
        nonlocal last
        first.append(done - result["rows"]) if not first else None
        now = time.monotonic()
        if now - last >= LINE_SECONDS:
            note(f"{name}: {done} of {total} pairs, {(done - first[0]) / (now - start):.1f} pairs/s")
            last = now

    yield print_line
