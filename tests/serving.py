"""A server in a thread of the test's own process, on a free port, around any reranker.

It is the real thing: uvicorn, sockets, three threads; only signals are left out, which belong to the main thread.
"""

import contextlib
import faulthandler
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from prorank.reranker import Reranker
from prorank.serve.app import create_app
from prorank.serve.limits import Limits
from prorank.serve.metrics import Metrics
from prorank.serve.server import listen
from prorank.serve.service import Service, ServiceState


class Running:
    """A server that is ready: `url`, `service`, `reranker`, and `client` to speak to it."""

    def __init__(self, service: Service, url: str) -> None:
        self.service, self.url = service, url
        self.client = httpx2.Client(base_url=url, timeout=120)

    @property
    def reranker(self) -> Reranker:
        return self.service.reranker

    def post(self, path: str, body=None, **more) -> httpx2.Response:
        headers = {"content-type": "application/json", **more.pop("headers", {})}
        return self.client.post(path, content=json.dumps(body), headers=headers, **more)


@contextlib.contextmanager
def running(
    reranker: Reranker | Callable[[], Reranker],
    limits: Limits | None = None,
    batch_size: int | None = None,
    ready: bool = True,
    index_folder: Path | None = None,
    cache_bytes: int | None = None,
    **app,
) -> Iterator[Running]:
    """A server around this reranker (or what a function makes); `app`: arguments of `create_app`."""
    load = reranker if callable(reranker) else lambda: reranker
    service = Service(load, "tiny", limits or Limits(), Metrics(), batch_size, index_folder, cache_bytes)
    bound = listen("127.0.0.1", 0)
    how: dict[str, Any] = {"log_config": None, "access_log": False, "lifespan": "on", "timeout_graceful_shutdown": 30}
    server = uvicorn.Server(uvicorn.Config(create_app(service, **app), **how))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    made = Running(service, f"http://127.0.0.1:{bound.getsockname()[1]}")
    try:
        wait_for(lambda: server.started and (not ready or service.state in (ServiceState.READY, ServiceState.FAILED)))
        yield made
    finally:
        made.client.close()
        server.should_exit = True
        thread.join(60)
        if thread.is_alive():  # show what it waits for
            faulthandler.dump_traceback(all_threads=True)
            raise AssertionError(f"the server did not end; open connections: {server.server_state.connections}")


def wait_for(true, seconds: float = 120) -> None:
    """Return when `true()` is; fail after so many seconds of waiting."""
    for _ in range(int(seconds * 100)):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def slowed(service: Service, seconds: float) -> None:
    """Let each batch take so much longer."""
    run = service.workload.run

    def slow(items):
        time.sleep(seconds)
        return run(items)

    service.workload.run = slow
