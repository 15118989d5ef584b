"""Runs the server until it is stopped.

SIGTERM and Ctrl-C close the socket, answer all accepted requests, and end with exit code 0.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uvicorn

from ..errors import ConfigError, ModelError, ProRankError
from ..reranker import Reranker
from .app import create_app
from .hints import playground_hint
from .limits import Limits
from .logs import configure_logging, log_event, print_to_terminal
from .metrics import Metrics
from .service import Service

KEEP_ALIVE_SECONDS = 30
BACKLOG = 2048


def serve(
    load: Callable[[], Reranker], name: str, host: str, port: int, limits: Limits, key: str | None = None,
    origins: Sequence[str] = (), names: Sequence[str] = (), batch_size: int | None = None, index_folder: Path | None = None,
    cache_bytes: int | None = None,
) -> None:  # fmt: skip
    """Serve until SIGTERM or Ctrl-C. Returns when all accepted requests are answered.

    Args:
        load: loads the Reranker. It runs in the model's thread, while the server already answers that it is not ready.
        name: name of the model for clients.
        host, port: address to listen on. Port 0 is any free port; the log line "listening" contains it.
        limits: limits of requests.
        key, origins, names: see `create_app`.
        batch_size: number of tokens of a batch; None chooses by device.
        index_folder, cache_bytes: see `Service`.

    Raises:
        ConfigError: the address is not available.
        ProRankError: the model cannot be loaded, or it has no use for the index or the cache.
    """
    configure_logging()
    service = Service(load, name, limits, Metrics(), batch_size, index_folder, cache_bytes)
    listener = listen(host, port)
    config = uvicorn.Config(
        create_app(service, key, origins, names), log_config=None, access_log=False, server_header=False, log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS, lifespan="on",
        # A client that neither sends nor reads must not delay the shutdown longer than a request's time limit.
        timeout_graceful_shutdown=math.ceil(limits.max_body_seconds + limits.request_timeout),
    )  # fmt: skip
    server = uvicorn.Server(config)
    service.on_failure = lambda: setattr(server, "should_exit", True)
    with _ignored_signals(), listener:
        bound_port = listener.getsockname()[1]
        log_event("listening", host=host, port=bound_port, model=name, key=bool(key))
        print_to_terminal(playground_hint(host, bound_port))
        server.run(sockets=[listener])
    _raise_failure(service)
    log_event("stopped", logging.INFO)


@contextlib.contextmanager
def _ignored_signals() -> Iterator[None]:
    """Ignore SIGTERM and SIGINT outside uvicorn's own handlers: uvicorn raises caught signals again after it has stopped."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_failure(service: Service) -> None:
    """Raise the error of a failed service."""
    if isinstance(service.error, ProRankError):
        raise service.error
    if service.error:
        raise ModelError(f"{service.name}: the model failed ({type(service.error).__name__}); see the traceback in the log")


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises ConfigError if the address is not available."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=False)
        listener.setblocking(False)
        return listener
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {host}:{port} ({error}); choose another --host or --port") from error
