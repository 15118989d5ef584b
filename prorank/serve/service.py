"""The service behind the dialects: loads the model, encodes requests, feeds the queue to the model's thread, collects answers.

Three threads: the event loop, one that encodes (a tokenizer serves one at a time), one that owns the model. Where a
batch fails its requests are asked for one by one, so that only the guilty one fails. Requests are taken once the shapes of
`warmup` have gone the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import numpy as np

from ..checkpoints.calibration import sigmoid
from ..errors import ProRankError
from ..reranker import Reranker
from ..utils.memory import trim
from .first_requests import warm_up
from .job import Request
from .limits import Admission, Limits
from .logs import failure, log
from .messages import Answer, RequestError, RerankQuery
from .metrics import Metrics
from .queue import Queue, QueueItem
from .workloads import Comparisons, Documents, work_of

AFTER = 65536  # tokens after which freed memory goes back to the kernel; more often would cost short requests their speed


class Service:
    """One model and its queue.

    Args:
        load: makes the Reranker; called once, in the model's thread.
        name: what clients call the model.
        limits: see Limits.
        metrics: counted up.
        budget: tokens of a batch; None chooses.
    """

    def __init__(
        self, load: Callable[[], Reranker], name: str, limits: Limits, metrics: Metrics, budget: int | None = None
    ) -> None:
        self.load, self.name, self.limits, self.metrics, self.budget = load, name, limits, metrics, budget
        self.room = Admission(limits)
        self.state = "starting"  # ready, failed, draining
        self.waits_for = "the model is loading"  # while it is starting
        self.error: BaseException | None = None  # why it failed
        self.on_failure: Callable[[], None] = lambda: None
        self.on_loaded: Callable[[], None] = lambda: None
        self.reranker: Reranker  # this and `work` are there once the model is loaded
        self.work: Documents | Comparisons
        self.queue: Queue[Request] = Queue(1)
        self.rate = 0.0  # units of the queue's tokens a second
        self.counts = Metrics()  # where answers and batches are counted: not among the metrics before the service is ready
        self.encoder = ThreadPoolExecutor(1, "encoder")
        self.thread = threading.Thread(target=self._run, name="model", daemon=True)

    async def start(self) -> None:
        """Load the model, warm it up and take requests; returns when that is so, or when it has failed (see `error`)."""
        begin, loop = time.perf_counter(), asyncio.get_running_loop()
        loaded: asyncio.Future[None] = loop.create_future()
        self.on_loaded = lambda: _tell(loop, loaded, None)
        self.thread.start()
        await loaded
        try:
            if self.state == "starting":
                await warm_up(self)
        except Exception as error:
            self._give_up(error.__cause__ or error if isinstance(error, RequestError) else error)
        if self.state == "starting":
            self.rate, self.counts, self.state = 0.0, self.metrics, "ready"
            log("ready", model=self.name, batch=self.work.budget, seconds=round(time.perf_counter() - begin, 3))

    def stop(self) -> None:
        """End when all accepted requests are answered."""
        self.state = "draining" if self.state != "failed" else self.state
        self.queue.close()
        self.thread.join()
        self.encoder.shutdown(cancel_futures=True)

    def check_ready(self) -> None:
        """Raise Refused unless requests are taken."""
        if self.state != "ready":
            said = {"starting": self.waits_for, "draining": "the server is going", "failed": "the model has failed"}
            raise RequestError("unready", said[self.state], retry_after=None if self.state == "failed" else 5)

    async def answer(self, ask: RerankQuery, seconds: float, begin: float) -> Answer:
        """Scores of an Ask, within so many seconds of `begin` (`perf_counter`). Raises Refused; a cancelled call drops its work."""
        self._check(ask)
        asked, loop = time.perf_counter(), asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        request = Request(ask, lambda error: _tell(loop, done, error), self.work.distinct)
        try:
            async with asyncio.timeout(max(0.0, begin + seconds - asked)):
                await self._encode(request)
                encoded = time.perf_counter()
                await done
        except TimeoutError:
            self.metrics.dropped.labels("deadline").inc()
            raise RequestError(
                "deadline", f"not answered within {seconds:.3g} seconds; send fewer documents or more time"
            ) from None
        except ProRankError as error:
            raise RequestError("failed" if done.done() else "invalid", str(error)) from error
        finally:
            self.queue.drop(request)
            if not done.cancel() and not done.cancelled():
                done.exception()  # it may not have been waited for
        return self._answer(request, begin, encoded - asked)

    def _check(self, ask: RerankQuery) -> None:
        if self.work.thinks is False and ask.thoughts:
            raise RequestError(
                "invalid", "this model does not think before it answers, so there are no thoughts", "return_thoughts"
            )
        if self.reranker.lists and len(ask.lists) > 1:
            raise RequestError("invalid", "this model puts the documents of a query in order; give one query")
        if len(ask.instruction or "") > 256 * self.work.longest:
            raise RequestError("invalid", "the instruction is longer than a whole prompt; shorten it", "instruction")

    async def _encode(self, request: Request) -> None:
        """Encode slice by slice, among those of other requests, and queue each at once."""
        loop = asyncio.get_running_loop()
        for number, places in self.work.slices(request):
            units = await loop.run_in_executor(self.encoder, self.work.encode, request, number, places)
            self.queue.put(request, units, more=True)
        self.queue.put(request, [])

    def _answer(self, request: Request, begin: float, encoding: float) -> Answer:
        now, ask, per_list = time.perf_counter(), request.ask, range(len(request.texts))
        scores = [np.array(request.by_document(request.scores[i], i), np.float32) for i in per_list]
        sure = self._sure(ask, scores)
        meaning, shown = self._meaning(ask.raw, scores, sure)
        cut = [[at for at, place in enumerate(request.same[i]) if place in request.cut[i]] for i in per_list]
        thoughts = [request.by_document(request.thoughts[i], i) for i in per_list]
        waited = request.taken_at - request.put_at if request.taken_at else 0.0
        seconds = {"tokenization": encoding, "queue": waited, "inference": request.inference, "total": now - begin}
        self.counts.asked(ask.count, request.tokens, sum(map(len, cut)), seconds)
        return Answer(scores, shown, meaning, sure, thoughts, cut, len(request.queries_cut), request.tokens, seconds)

    def _sure(self, ask: RerankQuery, scores: list[np.ndarray]) -> list[np.ndarray]:
        """Calibrated probabilities. They hold for whole documents, so not for the best of a document's parts."""
        if self.reranker.lists or ask.parts.max_chunks > 1:
            return []
        found = [self.reranker.probabilities(row, ask.instruction) for row in scores]
        return [row for row in found if row is not None]  # all of them, or none

    def _meaning(self, raw: bool, scores: list[np.ndarray], sure: list[np.ndarray]) -> tuple[str, list[np.ndarray]]:
        """What clients see, and what it is."""
        if raw:
            return "place" if self.reranker.lists else "log-odds", [row.astype(np.float64) for row in scores]
        if self.reranker.lists:
            return "place", [1.0 + row.astype(np.float64) / max(1, len(row)) for row in scores]
        return ("probability", sure) if sure else ("sigmoid", [sigmoid(row.astype(np.float64)) for row in scores])

    def retry_after(self) -> int:
        """Seconds until there may be room again, from what waits and how fast it goes."""
        return int(min(120, max(1, self.queue.tokens / self.rate))) if self.rate else 1

    # The model's thread.

    def _run(self) -> None:
        try:
            self._load()
            self.on_loaded()
            made = 0
            while units := self.queue.take():
                made += self._batch(units)
                if made > AFTER:
                    trim()
                    made = 0
        except BaseException as error:  # whatever it is, the service is of no use without this thread
            self._give_up(error)
            self.on_loaded()

    def _load(self) -> None:
        begin = time.perf_counter()
        self.reranker = self.load()
        read = time.perf_counter()
        self.work = work_of(self.reranker, self.budget)
        self.queue.budget = self.work.budget
        _ = self.reranker.calibration  # reads all weights once, to know them
        reading, calibrating = round(read - begin, 3), round(time.perf_counter() - read, 3)
        log("loaded", model=self.name, seconds=reading, calibration_seconds=calibrating)

    def _give_up(self, error: BaseException) -> None:
        """Fail for good: nothing that waits is answered, and the server ends."""
        self.error, self.state = error, "failed"
        failure("model", error)
        self.queue.fail(RequestError("failed", "the model has failed"))
        self.queue.close()
        self.on_failure()

    def _batch(self, units: list[QueueItem[Request]]) -> int:
        """Answer a batch; returns its tokens."""
        begin, counts = time.perf_counter(), self.counts  # by its end others may be counted elsewhere
        self._answer_units(units)
        seconds, tokens = time.perf_counter() - begin, sum(unit.tokens for unit in units)
        self.rate = 0.8 * self.rate + 0.2 * tokens / seconds if self.rate else tokens / seconds
        counts.batch(units, seconds)
        return tokens

    def _answer_units(self, units: list[QueueItem[Request]]) -> None:
        jobs = [list(some) for _, some in groupby(units, key=lambda unit: id(unit.job))]
        following: list[QueueItem[Request]] = []
        begin = time.perf_counter()
        try:
            values = self.work.run(units)
        except Exception as error:
            if len(jobs) > 1:
                for some in jobs:
                    self._answer_units(some)
                return
            self._fail(units[0].job, error)
            values = []
        for some in jobs:
            some[0].job.inference += time.perf_counter() - begin
        for unit, value in zip(units, values):
            if not unit.job.over:
                try:
                    following += self.work.take(unit, value)
                except Exception as error:
                    self._fail(unit.job, error)
        for job in self.queue.answered(units, following):
            job.finish(None)

    def _fail(self, job: Request, error: Exception) -> None:
        if not isinstance(error, RequestError):
            failure("batch", error)
            if not isinstance(error, ProRankError):
                cause, error = error, RequestError("failed", "the model failed on this request")
                error.__cause__ = cause
        self.queue.drop(job)
        job.finish(error)


def _tell(loop: asyncio.AbstractEventLoop, done: asyncio.Future, error: Exception | None) -> None:
    """Settle a future of the loop from another thread."""

    def settle() -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(None)

    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(settle)
