"""`prorank index`: read documents once; and `prorank rerank --index`, which ranks them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..checkpoints.default_model import DEFAULT
from ..errors import ConfigError
from ..utils.files import check_folder
from ..utils.progress import Spinner
from ..utils.terminal import argument_text, say
from .hit_tables import note_truncation
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
    check_positive,
    first_passed,
    reranker_options,
    was_passed,
)
from .search_command import read_documents

if TYPE_CHECKING:
    from ..index.document_index import Index
    from ..reranker import Reranker

FOR_NEW_INDEX = ("instruction", "query_room", "storage")  # options that --append takes from the index
UNITS = ("bytes", "kB", "MB", "GB", "TB")


def index(
    context: typer.Context,
    documents: Annotated[
        str,
        typer.Argument(
            metavar="DOCUMENTS",
            help="File of documents (JSONL, CSV, TSV, text lines; - for stdin), BEIR folder, or folder of .txt, .md, .rst files.",
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the index.")],
    append: Annotated[
        bool, typer.Option("--append", help="Add the documents to the index in FOLDER.", rich_help_panel=MAIN)
    ] = False,
    storage: Annotated[
        str,
        typer.Option(
            metavar="model|bf16|int8",
            help="How keys and values are stored: in the model's dtype or rounded.",
            rich_help_panel=MAIN,
        ),
    ] = "model",
    query_room: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS", help="Tokens of a prompt that documents leave for the query. Default: 64.", rich_help_panel=MAIN
        ),
    ] = None,
    model: Model = DEFAULT,
    instruction: Instruction = None,
    prompt: PromptName = None,
    max_length: MaxLength = None,
    long_documents: LongDocuments = "auto",
    base: Base = None,
    trust_remote_code: RemoteCode = False,
    device: Device = None,
    dtype: Dtype = "auto",
    compile: Compile = None,
) -> None:
    """Read documents once, so that `prorank rerank --index FOLDER` computes the query's tokens only.

    prorank index docs.jsonl index/
    """
    from ..index import index_folder

    check_positive(query_room, "--query-room")
    if append and (wrong := first_passed(context, FOR_NEW_INDEX)):
        raise ConfigError(f"{wrong} is for a new index; omit it, since --append uses that of the index")
    check_folder(folder)
    if not append:
        index_folder.check_target(folder)
    options = reranker_options(context)
    with Spinner(f"reading {documents}"):
        read = read_documents(documents)
    reranker = load_reranker(context, model, options, folder if append else None)
    shown = sys.stderr.isatty()
    if append:
        made = open_index(folder, reranker)
        made.add(read, show_progress=shown)
    else:
        made = reranker.index(
            read, folder=folder, instruction=argument_text(instruction), query_room=query_room, storage=storage, show_progress=shown
        )
    note_truncation(reranker, reranker.encoder.longest - made.settings.query_room)
    size = f"{shown_bytes(made.nbytes)} in total, {shown_bytes(made.nbytes / len(made))} a document"
    say(f"{folder}: {f'{len(read):,} documents added, ' if append else ''}{len(made):,} documents, {size}", folder)


def rank_index(
    context: typer.Context, folder: Path, query: str, ids: str | None, model: str, options: dict[str, Any], rank_options: Any,
    as_json: bool,
) -> None:  # fmt: skip
    """Rank the documents of an index and print the hits.

    Args:
        context: of the verb.
        folder: folder of the index.
        query: a checked query.
        ids: ids of the documents to rank, separated by commas; None for all.
        model, options: arguments of `Reranker`; model and dtype are those of the index, unless they were passed.
        rank_options: `validation.RankOptions`.
        as_json: print JSON lines.
    """
    from ..rank.rerank_files import show

    reranker = load_reranker(context, model, options, folder)
    names = None if ids is None else [name.strip() for name in ids.split(",") if name.strip()]
    hits = open_index(folder, reranker).rank(
        query, names, rank_options.top_k, rank_options.min_score, show_progress=sys.stderr.isatty()
    )  # fmt: skip
    show(hits, as_json)
    note_truncation(reranker, reranker.encoder.longest)


def load_reranker(context: typer.Context, model: str, options: dict[str, Any], folder: Path | None) -> Reranker:
    """Load a Reranker; model and dtype of the index in `folder` replace those that were not passed."""
    model, options = as_indexed(context, model, options, folder)
    with Spinner(f"loading {model}"):
        from ..reranker import Reranker

        return Reranker(model, **options)


def as_indexed(context: typer.Context, model: str, options: dict[str, Any], folder: Path | None) -> tuple[str, dict[str, Any]]:
    """Return model and options; model and dtype of the index in `folder` replace those that were not passed."""
    if folder is None:
        return model, options
    from ..index.index_folder import Manifest

    manifest = Manifest.read(folder)
    model = model if was_passed(context, "model") else manifest.model
    return model, options | ({} if was_passed(context, "dtype") else {"dtype": manifest.dtype})


def open_index(folder: Path, reranker: Reranker) -> Index:
    """Open an index on disk."""
    from ..index.document_index import Index

    return Index.load(folder, reranker)


def shown_bytes(count: float) -> str:
    """Format a number of bytes: "2.9 MB"."""
    number = 0
    while count >= 1000 and number < len(UNITS) - 1:
        count, number = count / 1000, number + 1
    return f"{count:.1f} {UNITS[number]}" if number else f"{count:.0f} bytes"
