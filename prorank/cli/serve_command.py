"""The verb that serves.

A wrong model or a busy port ends in one line and exit code 2; everything after that is logged as JSON lines on stderr.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ..checkpoints.default_model import DEFAULT
from ..utils.threads import share_processors
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


def serve(
    model: Model = DEFAULT,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    name: Annotated[list[str] | None, typer.Option(help="What clients call the model; give it again for more.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable with the key that clients must send.")] = None,
    cors_origin: Annotated[list[str] | None, typer.Option(help="Origin that browsers may call from; none by default.")] = None,
    max_documents: Annotated[int, typer.Option(help="Documents of a request.")] = 1000,
    max_characters: Annotated[int, typer.Option(help="Characters of a request.")] = 5_000_000,
    max_body_bytes: Annotated[int, typer.Option(help="Bytes of a request.")] = 10_000_000,
    max_tokens_per_doc: Annotated[int | None, typer.Option(help="Tokens of a document, whatever a request asks for.")] = None,
    max_chunks: Annotated[int, typer.Option(help="Parts that one long document may be read in.")] = 16,
    max_requests: Annotated[int, typer.Option(help="Requests at work at once; more get 429.")] = 512,
    max_queued_documents: Annotated[int, typer.Option(help="Documents at work at once; more get 429.")] = 20_000,
    max_inflight_bytes: Annotated[int, typer.Option(help="Bytes of requests at work at once; more get 429.")] = 256_000_000,
    request_timeout: Annotated[float, typer.Option(help="Seconds until a request must be answered.")] = 300.0,
    max_body_seconds: Annotated[float, typer.Option(help="Seconds until its body must be there.")] = 30.0,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens of a batch; chosen by device by default.")] = None,
    think: Think = True,
    samples: Samples = 1,
    max_think_tokens: ThinkTokens = None,
    method: Method = "pointwise",
    device: Device = None,
    dtype: Dtype = "auto",
    compile: Compile = None,
    max_length: Length = None,
    prompt: PromptName = None,
    base: Base = None,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Serve a checkpoint over HTTP, for clients of TEI, Jina, Cohere and vLLM."""
    share_processors()  # before PyTorch is imported
    from ..checkpoints.loading import pick_device
    from ..checkpoints.resolve import resolve
    from ..engine.auto import check_dtype
    from ..rank.methods import read_method
    from ..serve.limits import Limits
    from ..serve.server import serve
    from ..utils.api_keys import key_of

    resolve(model, base, trust_remote_code)  # a wrong name fails before anybody is let in
    check_dtype(dtype, pick_device(device))
    how = {"think": think, "samples": samples, "max_think_tokens": max_think_tokens, **read_method(method)}
    how |= {"base": base, "trust_remote_code": trust_remote_code}
    limits = Limits(
        max_body_bytes=max_body_bytes, max_documents=max_documents, max_characters=max_characters,
        max_tokens_per_doc=max_tokens_per_doc, max_chunks=max_chunks, max_requests=max_requests,
        max_queued_documents=max_queued_documents, max_inflight_bytes=max_inflight_bytes, request_timeout=request_timeout,
        max_body_seconds=max_body_seconds,
    )  # fmt: skip

    def load():
        from ..reranker import Reranker

        return Reranker(model, device=device, dtype=dtype, max_length=max_length, prompt=prompt, compile=compile_of(compile), **how)

    served, *others = name or [model]
    serve(load, served, host, port, limits, key_of(api_key_env), cors_origin or (), others, batch_tokens)
