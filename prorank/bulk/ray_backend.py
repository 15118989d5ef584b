"""Run bulk work on a Ray cluster: Ray Data maps the items over a pool of actors.

An item of Ray Data is the number of a shard, not its rows. The actor that gets it reads the rows from the input, scores them and
writes the shard's file. So no text passes through Ray's object store, a shard is whole or absent whatever dies, and an item that is
tried again finds what was written. `ray.data.read_parquet` would cut the input into blocks whose borders depend on the cluster, and
a later run could not know which of them are written.

Ray Data restarts an actor that dies, and gives its item to an actor again, without a limit. `_Attempts` sets one, so that a shard
that kills every worker (for want of memory, say) ends the job.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from .. import errors
from ..errors import ClusterError, ConfigError, ProRankError, extra, first_line
from .backends import Work

MAX_ATTEMPTS = 4  # of an item whose workers die
MAX_BLOCKS = 4096  # Ray Data handles items in so many blocks, since every block costs memory of the driver
OBJECT_STORE_BYTES = 100_000_000  # of a cluster that is started here; items and results are small


@dataclass
class RayBackend:
    """A pool of actors on a Ray cluster.

    Attributes:
        workers: number of actors.
        cpus: processors of an actor.
        gpus: GPUs of an actor, which may be a part of one; None for 1 if the cluster has one for each actor, else 0.
        address: of the cluster, as in `ray.init` ("auto" for the one of this machine); None for a cluster that is started on this
            machine and stopped at the end. A program that is connected to a cluster already keeps it.
    """

    workers: int = 1
    cpus: int = 1
    gpus: float | None = None
    address: str | None = None

    def __enter__(self) -> Self:
        """Connect to the cluster.

        Raises:
            ClusterError: the cluster cannot be reached.
            ConfigError: it has no room for the workers.
        """
        ray = _ray()
        self._stops = not ray.is_initialized()
        if self._stops:
            _connect(self.address)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        try:
            self._fit(ray.cluster_resources())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Disconnect, and stop a cluster that was started here."""
        if self._stops:
            _ray().shutdown()

    @property
    def threads(self) -> int:
        """See `Backend`."""
        return self.cpus

    def device(self, requested: str | None) -> str:
        """See `Backend`. Raises ConfigError for a GPU that the workers do not have."""
        if requested not in (None, "cpu") and not self.gpus:
            raise ConfigError(f"device {requested} needs GPUs of the cluster, and the workers have none; give --gpus 1")
        return requested or ("cuda" if self.gpus else "cpu")

    def call(self, work: Callable[[], Any]) -> Any:
        """See `Backend`."""
        ray = _ray()
        task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus or 0)(_guarded)
        with _ray_errors():
            return _result(ray.get(task.remote(work)))

    def run(self, work: Work, items: Sequence[Any]) -> Iterator[Any]:
        """See `Backend`.

        Raises:
            ClusterError: an item killed `MAX_ATTEMPTS` workers, or Ray failed.
        """
        ray = _ray()
        attempts = ray.remote(num_cpus=0, max_restarts=-1)(_Attempts).remote()
        pool = ray.data.ActorPoolStrategy(size=min(self.workers, len(items)) or 1, max_tasks_in_flight_per_actor=2)
        results = ray.data.from_items(list(range(len(items))), override_num_blocks=min(len(items), MAX_BLOCKS) or 1).map_batches(
            _Actor, fn_constructor_args=(work, list(items), attempts), batch_size=1, compute=pool, num_cpus=self.cpus,
            num_gpus=self.gpus or None,
        )  # fmt: skip
        with _ray_errors():
            for row in results.iter_rows():
                yield _result(row["result"])

    def _fit(self, resources: dict[str, float]) -> None:
        """Choose `gpus` if it is None. Raises ConfigError if the cluster has no room for the workers."""
        if self.gpus is None:
            self.gpus = 1 if resources.get("GPU", 0) >= self.workers else 0
        for name, needed, option in (("CPU", self.cpus, "--cpus"), ("GPU", self.gpus, "--gpus")):
            there = resources.get(name, 0)
            if self.workers * needed > there:
                raise ConfigError(
                    f"{self.workers} workers of {needed:g} {name} need {self.workers * needed:g}, but the cluster has {there:g}; "
                    f"lower --workers or {option}"
                )


def _ray() -> Any:
    """Return the module. Raises MissingExtra."""
    with extra("ray"):
        import ray
        import ray.data
    return ray


def _connect(address: str | None) -> None:
    """Connect to a cluster, or start one. Raises ClusterError."""
    ray = _ray()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        ray.init("local", **own, **quiet) if address is None else ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ClusterError(f"Ray at {address or 'this machine'}: {first_line(error)}") from error


@contextmanager
def _ray_errors() -> Iterator[None]:
    """Turn errors of Ray into ClusterError. Errors of the work itself that users cannot fix keep their traceback."""
    ray = _ray()
    try:
        yield
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise ClusterError(f"Ray: {first_line(error)}; run the command again, and it does what is missing") from error


class _Attempts:
    """Counts how often each item was begun."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def begin(self, item: int) -> int:
        """Count a beginning, and return how many there were."""
        self.counts[item] += 1
        return self.counts[item]


class _Actor:
    """Runs the work in an actor of Ray Data.

    Args:
        work: the work.
        items: all items; a batch holds the number of one.
        attempts: handle of the `_Attempts` of this job.
    """

    def __init__(self, work: Work, items: list[Any], attempts: Any) -> None:
        self.work, self.items, self.attempts = work, items, attempts

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        number = int(batch["item"][0])
        return {"result": [_guarded(lambda: self._run(number))]}

    def _run(self, number: int) -> Any:
        if _ray().get(self.attempts.begin.remote(number)) > MAX_ATTEMPTS:
            raise ClusterError(
                f"shard {number} of this run was begun {MAX_ATTEMPTS} times, and its worker died each time, perhaps for want of "
                "memory; take smaller shards (--shard-rows) or larger machines"
            )
        return self.work(self.items[number])


def _guarded(work: Callable[[], Any]) -> str:
    """Return the result of work as JSON. Errors that users can fix are results, because Ray would wrap them in a traceback."""
    try:
        return json.dumps({"value": work()})
    except (ProRankError, OSError) as error:
        return json.dumps({"error": type(error).__name__, "message": str(error)})


def _result(text: str) -> Any:
    """Return the value of a result, or raise its error."""
    result = json.loads(text)
    if "error" in result:
        kind = getattr(errors, result["error"], ClusterError)
        raise kind(result["message"])
    return result["value"]
