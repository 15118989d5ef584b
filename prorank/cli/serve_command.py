"""`prorank serve`: serve a checkpoint over HTTP.

An invalid model or a busy port gives one error line and exit code 2. Once the server runs, events are logged as JSON lines on
stderr.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..checkpoints.default_model import DEFAULT
from ..utils.progress import Spinner
from ..utils.threads import share_processors
from .index_command import as_indexed
from .options import (
    COMPUTE,
    MAIN,
    Base,
    Compile,
    Device,
    Dtype,
    LongDocuments,
    MaxLength,
    Method,
    Model,
    PromptName,
    RemoteCode,
    Samples,
    Think,
    ThinkTokens,
    check_positive,
    reranker_options,
)

if TYPE_CHECKING:
    from ..reranker import Reranker

PER_REQUEST = "Limits per request"
AT_ONCE = "Limits of all requests in progress (status 429 above)"


def serve(
    context: typer.Context,
    model: Model = DEFAULT,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.", rich_help_panel=MAIN)] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any free one.", rich_help_panel=MAIN)] = 8000,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Name of the model for clients; repeat for aliases. Default: --model.", rich_help_panel=MAIN),
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(help="Environment variable with the key that clients must send. Default: no key.", rich_help_panel=MAIN),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin that browsers may call from; repeat for several. Default: none.", rich_help_panel=MAIN),
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option(
            help="Index made by prorank index; requests may name its documents by id, and its texts are not computed again. "
            "Default: none.",
            rich_help_panel=MAIN,
        ),
    ] = None,
    document_cache: Annotated[
        int | None,
        typer.Option(
            metavar="BYTES",
            help="Memory for keys and values of documents that come again; for prompts with the document first. Default: none.",
            rich_help_panel=MAIN,
        ),
    ] = None,
    max_documents: Annotated[int, typer.Option(help="Maximum number of documents.", rich_help_panel=PER_REQUEST)] = 1000,
    max_characters: Annotated[
        int, typer.Option(help="Maximum number of characters of query and documents together.", rich_help_panel=PER_REQUEST)
    ] = 5_000_000,
    max_body_bytes: Annotated[int, typer.Option(help="Maximum bytes of the body.", rich_help_panel=PER_REQUEST)] = 10_000_000,
    max_tokens_per_doc: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of tokens of a document; requests can only lower it. Default: the prompt's limit.",
            rich_help_panel=PER_REQUEST,
        ),
    ] = None,
    max_chunks: Annotated[int, typer.Option(help="Maximum number of chunks of a long document.", rich_help_panel=PER_REQUEST)] = 32,
    request_timeout: Annotated[
        float, typer.Option(help="Maximum number of seconds until the answer.", rich_help_panel=PER_REQUEST)
    ] = 300.0,
    max_body_seconds: Annotated[
        float, typer.Option(help="Maximum number of seconds for receiving the body.", rich_help_panel=PER_REQUEST)
    ] = 30.0,
    max_requests: Annotated[int, typer.Option(help="Maximum number of requests.", rich_help_panel=AT_ONCE)] = 512,
    max_queued_documents: Annotated[int, typer.Option(help="Maximum number of their documents.", rich_help_panel=AT_ONCE)] = 20_000,
    max_inflight_bytes: Annotated[
        int, typer.Option(help="Maximum number of bytes of their bodies.", rich_help_panel=AT_ONCE)
    ] = 256_000_000,
    method: Method = "pointwise",
    prompt: PromptName = None,
    max_length: MaxLength = None,
    long_documents: LongDocuments = "auto",
    base: Base = None,
    trust_remote_code: RemoteCode = False,
    think: Think = True,
    samples: Samples = 1,
    max_think_tokens: ThinkTokens = None,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Number of tokens of a batch. Default: chosen by device.", rich_help_panel=COMPUTE)
    ] = None,
    device: Device = None,
    dtype: Dtype = "auto",
    compile: Compile = None,
) -> None:
    """Serve a checkpoint over HTTP, for clients of TEI, Jina, Cohere and vLLM."""
    check_positive(document_cache, "--document-cache")
    share_processors()  # before PyTorch is imported
    with Spinner(f"loading {model}"):
        from ..checkpoints.loading import pick_device
        from ..checkpoints.resolve import resolve
        from ..engine.auto import check_dtype
        from ..rank.methods import read_method
        from ..serve.limits import Limits
        from ..serve.server import serve as run_server
        from ..utils.api_keys import key_of

        model, options = as_indexed(context, model, {**reranker_options(context), **read_method(method)}, index)
        resolve(model, base, trust_remote_code)  # raises errors before the port is opened
        check_dtype(options["dtype"], pick_device(device))
        limits = Limits(
            max_body_bytes=max_body_bytes, max_documents=max_documents, max_characters=max_characters,
            max_tokens_per_doc=max_tokens_per_doc, max_chunks=max_chunks, max_requests=max_requests,
            max_queued_documents=max_queued_documents, max_inflight_bytes=max_inflight_bytes, request_timeout=request_timeout,
            max_body_seconds=max_body_seconds,
        )  # fmt: skip
        key = key_of(api_key_env)

    def load() -> Reranker:
        from ..reranker import Reranker

        with Spinner(f"loading {model}"):
            return Reranker(model, **options)

    first_name, *aliases = name or [model]
    run_server(load, first_name, host, port, limits, key, cors_origin or (), aliases, batch_tokens, index, document_cache)
