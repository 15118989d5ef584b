"""The verb that reranks, by a model loaded here or by a server.

With --server no model is loaded, and options that would shape one are refused, not ignored.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..checkpoints.default_model import DEFAULT
from ..errors import ConfigError, DataError
from ..remote.client_dialects import LOG_ODDS
from ..utils.files import check_file
from ..utils.terminal import argument_text, note, say
from .options import (
    Base,
    Compile,
    Device,
    Dtype,
    Length,
    Method,
    Model,
    PromptName,
    RemoteCode,
    Samples,
    Think,
    ThinkTokens,
    compile_of,
)

FOR_RUN = {"dataset": "--dataset", "out": "--out"}
FOR_DOCUMENTS = {
    "documents": "DOCUMENTS",
    "query": "--query",
    "min_score": "--min-score",
    "as_json": "--json",
    "show_thoughts": "--show-thoughts",
}
HERE = ("think", "samples", "max_think_tokens", "method", "device", "dtype", "compile", "max_length", "prompt", "base",
        "trust_remote_code")  # fmt: skip


def rerank(
    context: typer.Context,
    documents: Annotated[str | None, typer.Argument(help="JSONL, a JSON array, CSV, TSV or text lines; - for stdin.")] = None,
    query: Annotated[str | None, typer.Option("--query", "-q")] = None,
    run: Annotated[Path | None, typer.Option(help="TREC run to rerank.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="BEIR folder or ir_datasets:NAME with the run's texts.")] = None,
    out: Annotated[Path | None, typer.Option(help="TREC run to write.")] = None,
    model: Model = DEFAULT,
    top_k: Annotated[int | None, typer.Option(help="Hits to show (with --run: candidates to rerank).")] = None,
    min_score: Annotated[float | None, typer.Option(help="Leave out hits below this log-odds.")] = None,
    instruction: Annotated[str | None, typer.Option()] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    show_thoughts: Annotated[bool, typer.Option("--show-thoughts", help="What a thinking model thought of each document.")] = False,
    think: Think = True,
    samples: Samples = 1,
    max_think_tokens: ThinkTokens = None,
    method: Method = "pointwise",
    server: Annotated[str | None, typer.Option(help="Address of a rerank server, which ranks in place of a model here.")] = None,
    dialect: Annotated[str, typer.Option(help="Of --server: auto, tei, jina, cohere or vllm.")] = "auto",
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable with the key of --server.")] = None,
    device: Device = None,
    dtype: Dtype = "auto",
    compile: Compile = None,
    max_length: Length = None,
    prompt: PromptName = None,
    base: Base = None,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Rerank documents for a query, or a whole TREC run."""
    from ..rank import rerank_files
    from ..rank.validation import RankOptions, query_text

    query, instruction = argument_text(query), argument_text(instruction)
    if top_k is not None and top_k < 1:
        raise ConfigError(f"--top-k must be at least 1, not {top_k}; leave it out to get all")
    RankOptions(min_score=min_score, instruction=instruction)  # fails before anything is read
    if query is not None:
        query = query_text(query, "--query")
    _check_task(context, bool(run))
    _check_place(context, server)
    if run:
        if not (dataset and out):
            raise DataError("--run needs --dataset (the texts) and --out (the run to write)")
        check_file(out)
        texts = rerank_files.read_run_texts(run, dataset, top_k)
    elif not query or documents is None:
        raise DataError("give --query Q and DOCUMENTS (a file, or - for stdin), or --run, --dataset and --out")
    items = [] if run or documents is None else rerank_files.read_documents(documents)
    if server:
        ranker: Any = _remote(context, server, dialect, model, api_key_env)
    else:
        how: dict[str, Any] = {"think": think, "samples": samples, "max_think_tokens": max_think_tokens}
        how |= {"base": base, "trust_remote_code": trust_remote_code}
        ranker = _local(model, method, show_thoughts, how, device, dtype, max_length, prompt, compile)
    with ranker if server else contextlib.nullcontext():
        if run and out:
            say(rerank_files.rerank_run(ranker, texts, out, instruction), out)
        else:
            more = {"thoughts": show_thoughts} if server else {"show_progress": sys.stderr.isatty()}
            hits = ranker.rank(query, items, top_k, min_score, instruction, **more)
            rerank_files.show(hits, as_json, show_thoughts)
        _note(ranker, bool(server), bool(run))


def _check_task(context: typer.Context, run: bool) -> None:
    """Raise ConfigError for options that mean nothing for what is ranked: a run, or the documents of one query."""
    names = FOR_DOCUMENTS if run else FOR_RUN
    given = [name for name in names if _given(context, name)]
    if given and run:
        raise ConfigError(f"{names[given[0]]} is for the documents of one query; leave out --run or {names[given[0]]}")
    if given:
        raise ConfigError(f"{names[given[0]]} needs --run; the hits of one query are printed")


def _check_place(context: typer.Context, server: str | None) -> None:
    """Raise ConfigError for options that mean nothing where the ranking is done."""
    given = [name for name in HERE if _given(context, name)] if server else []
    if given:
        option = "--no-think" if given[0] == "think" else "--" + given[0].replace("_", "-")
        raise ConfigError(f"{option} is for a model that is loaded here; --server has its own")
    alone = [name for name in ("dialect", "api_key_env") if not server and _given(context, name)]
    if alone:
        raise ConfigError(f"--{alone[0].replace('_', '-')} needs --server")


def _given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _remote(context: typer.Context, server: str, dialect: str, model: str, api_key_env: str | None) -> Any:
    from ..remote.client import Remote
    from ..utils.api_keys import key_of

    return Remote(server, dialect, model if _given(context, "model") else None, key_of(api_key_env))


def _local(
    model: str, method: str, thoughts: bool, how: dict[str, Any], device: str | None, dtype: str, length: int | None,
    prompt: str | None, compile: bool | None,
) -> Any:  # fmt: skip
    from ..rank.methods import read_method
    from ..reranker import Reranker

    how |= read_method(method)
    reranker = Reranker(model, device=device, dtype=dtype, max_length=length, prompt=prompt, compile=compile_of(compile), **how)
    if thoughts and not reranker.thinks:
        raise ConfigError(f"--show-thoughts: {model} is asked at once and has no thoughts")
    return reranker


def _note(ranker: Any, remote: bool, run: bool) -> None:
    """What the user should know besides the hits, on stderr."""
    longest = ranker.longest if remote else ranker.encoder.longest
    if (ranker.cuts.documents or ranker.cuts.queries) and not run:
        note(f"note: {ranker.cuts} at {longest} tokens")
    if remote and ranker.meaning != LOG_ODDS:
        note(f"note: scores are {ranker.meaning}, as the server gives them")
    if not remote and not run and (ranker.compares_documents or ranker.thinks):
        note(f"cost: {ranker.cost}")
