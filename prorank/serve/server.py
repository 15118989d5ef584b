"""Running the server: settings in, exit code out.

SIGTERM and Ctrl-C close the door, answer everybody who is inside, and end with exit code 0.
"""

from __future__ import annotations

import logging
import math
import signal
import socket
from collections.abc import Callable, Sequence

import uvicorn

from ..errors import ConfigError, ModelError, ProRankError
from ..reranker import Reranker
from .app import create_app
from .limits import Limits
from .logs import log, set_up
from .metrics import Metrics
from .service import Service


def serve(
    load: Callable[[], Reranker], name: str, host: str, port: int, limits: Limits, key: str | None = None,
    origins: Sequence[str] = (), names: Sequence[str] = (), budget: int | None = None,
) -> None:  # fmt: skip
    """Serve until SIGTERM or Ctrl-C; returns when all accepted requests are answered.

    Args:
        load: makes the Reranker, in the model's thread, while the server already tells that it is not ready.
        name: what clients call the model; `names` are others for it.
        host, port: where to listen; port 0 takes a free one, which the line "listening" names.
        limits: see Limits. key: see `create_app`; origins, too. budget: tokens of a batch.

    Raises:
        ConfigError: the address cannot be had. ProRankError: the model cannot be loaded.
    """
    set_up()
    service = Service(load, name, limits, Metrics(), budget)
    bound = listen(host, port)
    config = uvicorn.Config(
        create_app(service, key, origins, names), log_config=None, access_log=False, server_header=False, log_level="warning",
        timeout_keep_alive=30, lifespan="on",
        # A client that neither sends nor reads on must not keep the server from its end for longer than a request may take.
        timeout_graceful_shutdown=math.ceil(limits.body_seconds + limits.seconds),
    )  # fmt: skip
    server = uvicorn.Server(config)
    service.on_failure = lambda: setattr(server, "should_exit", True)
    # uvicorn raises the signals it has taken once more when it is done; by then they shall do nothing.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    log("listening", host=host, port=bound.getsockname()[1], model=name, key=bool(key))
    try:
        server.run(sockets=[bound])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        bound.close()
    if service.error:
        if isinstance(service.error, ProRankError):
            raise service.error
        raise ModelError(f"{name}: the model failed ({type(service.error).__name__}); the log says where")
    log("stopped", logging.INFO)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ConfigError where it cannot."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.create_server((host, port), family=family, backlog=2048, reuse_port=False)
        bound.setblocking(False)
        return bound
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {host}:{port} ({error}); choose another --host or --port") from error
