"""`prorank rerank`: rank documents for a query, or a whole TREC run, by a local model or by a server.

With --server no model is loaded, and options of a local model raise errors.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..checkpoints.default_model import DEFAULT
from ..errors import ConfigError, DataError
from ..remote.client_dialects import LOG_ODDS
from ..utils.files import STDIN, check_file
from ..utils.progress import Spinner
from ..utils.terminal import argument_text, note, say
from .bulk_command import Address, Cpus, Gpus, RunWorkers, check_cluster, rerank_by_workers
from .hit_tables import note_cost, note_truncation
from .index_command import rank_index
from .options import (
    MAIN,
    THINKING,
    Base,
    Compile,
    Device,
    Dtype,
    Instruction,
    LongDocuments,
    MaxLength,
    Method,
    Model,
    PromptName,
    RemoteCode,
    Samples,
    Think,
    ThinkTokens,
    ThinkTop,
    check_positive,
    first_passed,
    one_query,
    reranker_options,
    was_passed,
)

RUN = "Rerank a TREC run"
SERVER = "Rank by a server"
STORED = "Rank the documents of an index"
# Options that need --run, options that exclude it, and options of a local model.
FOR_RUN = {name: f"--{name}" for name in ("dataset", "out", "workers", "cpus", "gpus", "address")}
FOR_DOCUMENTS = {
    "documents": "DOCUMENTS",
    "query_argument": "QUERY",
    "query": "--query",
    "min_score": "--min-score",
    "as_json": "--json",
    "show_thoughts": "--show-thoughts",
}
NOT_FOR_INDEX = ("run", "instruction", "method", "samples", "max_think_tokens", "think_top", "show_thoughts")
LOCAL_ONLY = (
    "index", "workers", "think", "samples", "max_think_tokens", "think_top", "method", "device", "dtype", "compile", "max_length",
    "long_documents", "prompt", "base", "trust_remote_code",
)  # fmt: skip


def rerank(
    context: typer.Context,
    documents: Annotated[
        str | None,
        typer.Argument(metavar="DOCUMENTS", help="File of documents: JSONL, a JSON array, CSV, TSV or text lines; - for stdin."),
    ] = None,
    query_argument: Annotated[str | None, typer.Argument(metavar="QUERY", help="The query, unless --query gives it.")] = None,
    query: Annotated[str | None, typer.Option("--query", "-q", help="The query.", rich_help_panel=MAIN)] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k",
            "--top-n",
            help="Hits to print; with --run candidates per query to rerank. Default: all; of a run 100.",
            rich_help_panel=MAIN,
        ),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="Leave out hits below this score (log-odds). Default: none.", rich_help_panel=MAIN)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per hit.", rich_help_panel=MAIN)] = False,
    run: Annotated[Path | None, typer.Option(help="TREC run to rerank.", rich_help_panel=RUN)] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="BEIR folder or ir_datasets:NAME with the texts of the run.", rich_help_panel=RUN)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="TREC run to write.", rich_help_panel=RUN)] = None,
    index: Annotated[Path | None, typer.Option(help="Index made by prorank index. Default: none.", rich_help_panel=STORED)] = None,
    ids: Annotated[
        str | None, typer.Option(metavar="ID,ID", help="Documents of the index. Default: all.", rich_help_panel=STORED)
    ] = None,
    model: Model = DEFAULT,
    instruction: Instruction = None,
    method: Method = "pointwise",
    prompt: PromptName = None,
    max_length: MaxLength = None,
    long_documents: LongDocuments = "auto",
    base: Base = None,
    trust_remote_code: RemoteCode = False,
    think: Think = True,
    samples: Samples = 1,
    max_think_tokens: ThinkTokens = None,
    think_top: ThinkTop = None,
    show_thoughts: Annotated[
        bool,
        typer.Option("--show-thoughts", help="Print a thinking model's thoughts about the documents.", rich_help_panel=THINKING),
    ] = False,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Rerank server to use instead of a local model.", rich_help_panel=SERVER)
    ] = None,
    dialect: Annotated[
        str, typer.Option(help="API of the server: auto, tei, jina, cohere or vllm.", rich_help_panel=SERVER)
    ] = "auto",
    api_key_env: Annotated[
        str | None,
        typer.Option(help="Environment variable that holds the server's key. Default: no key.", rich_help_panel=SERVER),
    ] = None,
    workers: RunWorkers = None,
    cpus: Cpus = 1,
    gpus: Gpus = None,
    address: Address = None,
    device: Device = None,
    dtype: Dtype = "auto",
    compile: Compile = None,
) -> None:
    """Rerank documents for a query, or a whole TREC run.

    prorank rerank docs.txt "the query"
    """
    from ..rank import rerank_files
    from ..rank.validation import RankOptions, query_text

    if index and query_argument is None and query is None:
        documents, query_argument = None, documents
    query, instruction = one_query(query, query_argument), argument_text(instruction)
    check_positive(top_k, "--top-k", "; omit it to get all")
    rank_options = RankOptions(top_k, min_score, instruction=instruction)  # raises errors before anything is read
    if query is not None:
        query = query_text(query, "--query" if query_argument is None else "the query")
    _check_task(context, bool(run))
    _check_place(context, server)
    _check_index(context, index, documents)
    check_cluster(context, method)
    options = reranker_options(context)
    if index and query:
        return rank_index(context, index, query, ids, model, options, rank_options, as_json)
    if run:
        if not (dataset and out):
            raise DataError("--run needs --dataset (the texts) and --out (the run to write)")
        check_file(out)
        texts = rerank_files.read_run_texts(run, dataset, top_k)
        if workers:
            return rerank_by_workers(context, texts, out, model, options, instruction)
    elif not query or documents is None:
        raise DataError("give DOCUMENTS (a file, or - for stdin) and a query, --index and a query, or --run, --dataset and --out")
    else:
        _check_order(documents, query_argument)
    items = [] if run or documents is None else rerank_files.read_documents(documents)
    if server:
        ranker: Any = _remote(context, server, dialect, model, api_key_env)
    else:
        ranker = _local(model, method, show_thoughts, options)
    with ranker if server else contextlib.nullcontext():
        if run and out:
            say(rerank_files.rerank_run(ranker, texts, out, instruction), out)
        else:
            more = {"thoughts": show_thoughts} if server else {"show_progress": sys.stderr.isatty()}
            hits = ranker.rank(query, items, top_k, min_score, instruction, **more)
            rerank_files.show(hits, as_json, show_thoughts)
        _print_notes(ranker, bool(server), bool(run))


def _check_task(context: typer.Context, run: bool) -> None:
    """Raise ConfigError for options that do not apply to the task: a run, or the documents of one query."""
    names = FOR_DOCUMENTS if run else FOR_RUN
    wrong = next((spelling for name, spelling in names.items() if was_passed(context, name)), None)
    if wrong and run:
        raise ConfigError(f"{wrong} is for the documents of one query; omit --run or {wrong}")
    if wrong:
        raise ConfigError(f"{wrong} needs --run; the hits of one query are printed")


def _check_place(context: typer.Context, server: str | None) -> None:
    """Raise ConfigError for options of a local model with --server, and for options of a server without it."""
    names = LOCAL_ONLY if server else ("dialect", "api_key_env")
    wrong = first_passed(context, names)
    if wrong and server:
        raise ConfigError(f"{wrong} is for a local model, not for --server")
    if wrong:
        raise ConfigError(f"{wrong} needs --server")


def _check_index(context: typer.Context, index: Path | None, documents: str | None) -> None:
    """Raise ConfigError for options that do not apply to an index, and for --ids without one."""
    wrong = first_passed(context, NOT_FOR_INDEX)
    if index and documents is not None:
        raise ConfigError(f"DOCUMENTS and --index: the documents of the index are ranked; omit {documents!r} or --index")
    if index and wrong:
        raise ConfigError(f"{wrong} does not apply to --index; omit it")
    if not index and was_passed(context, "ids"):
        raise ConfigError("--ids needs --index; it chooses documents of an index")


def _check_order(documents: str, query_argument: str | None) -> None:
    """Raise DataError if the two arguments were swapped."""
    if query_argument and documents != STDIN and not os.path.exists(documents) and os.path.isfile(query_argument):
        raise DataError(f"{documents}: no such file; the file comes first: prorank rerank {query_argument} {documents!r}")


def _remote(context: typer.Context, server: str, dialect: str, model: str, api_key_env: str | None) -> Any:
    from ..remote.client import Remote
    from ..utils.api_keys import key_of

    return Remote(server, dialect, model if was_passed(context, "model") else None, key_of(api_key_env))


def _local(model: str, method: str, thoughts: bool, options: dict[str, Any]) -> Any:
    """Load a Reranker. Raises ConfigError if `thoughts` is requested of a model that does not think."""
    with Spinner(f"loading {model}"):
        from ..rank.methods import read_method
        from ..reranker import Reranker

        reranker = Reranker(model, **options, **read_method(method))
    if thoughts and not reranker.thinks:
        raise ConfigError(f"--show-thoughts: {model} answers at once and has no thoughts")
    return reranker


def _print_notes(ranker: Any, remote: bool, run: bool) -> None:
    """Print on stderr what was truncated, the meaning of a server's scores, and the cost of thoughts and lists."""
    if not run:
        note_truncation(ranker, ranker.longest if remote else ranker.encoder.longest)
    if remote and ranker.meaning != LOG_ODDS:
        note(f"note: scores of this server are {ranker.meaning}")
    if not remote and not run:
        note_cost(ranker)
