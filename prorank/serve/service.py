"""The service of the server: loads the model, encodes requests, queues them, and collects their answers.

It uses three threads: the event loop, one that encodes prompts (a tokenizer is not thread-safe), and one that owns the model.
Requests are accepted once the warm-up requests of `first_requests` are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path

from ..errors import ProRankError
from ..index.document_cache import DocumentCache
from ..index.document_index import Index
from ..reranker import Reranker
from ..utils.memory import trim
from .answers import make_answer
from .batch_runner import run_batch
from .first_requests import warm_up
from .hints import score_hint
from .job import MAX_CHARS_PER_TOKEN, RerankJob
from .limits import Admission, Limits
from .logs import log_event, log_failure, print_to_terminal
from .messages import Answer, RequestError, RerankQuery
from .metrics import Metrics
from .queue import Queue, QueueItem
from .stored_documents import StoredDocuments
from .workloads import Workload, make_workload

TRIM_EVERY_TOKENS = 65536  # return freed memory to the kernel after this many tokens; less would slow down requests
SMOOTHING = 0.8  # decay of the moving average of the speed
MAX_RETRY_AFTER = 120  # seconds
NOT_READY_RETRY_AFTER = 5  # seconds


class ServiceState(Enum):
    """Life cycle of a service: STARTING, READY, DRAINING; FAILED is final."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Service:
    """One model and its queue.

    Args:
        load: loads the Reranker; called once, in the model's thread.
        name: name of the model for clients.
        limits: limits of requests.
        metrics: counts answers and batches.
        batch_size: tokens of a batch; None chooses by device.
        index_folder: folder of an index of the model; None for none.
        cache_bytes: size of a cache of keys and values of documents; None for no cache.

    Attributes:
        state: see ServiceState.
        startup_step: current step of a starting service, as a message for clients.
        error: reason why the service failed.
        reranker, workload: available once the model is loaded.
        stored, cache: the documents of the index, and the cache of documents, once the model is loaded; None without them.
        on_failure: called when the service has failed.
    """

    reranker: Reranker
    workload: Workload
    stored: StoredDocuments | None
    cache: DocumentCache | None

    def __init__(
        self, load: Callable[[], Reranker], name: str, limits: Limits, metrics: Metrics, batch_size: int | None = None,
        index_folder: Path | None = None, cache_bytes: int | None = None,
    ) -> None:  # fmt: skip
        self.load, self.name, self.limits, self.metrics, self.batch_size = load, name, limits, metrics, batch_size
        self.index_folder, self.cache_bytes, self.stored, self.cache = index_folder, cache_bytes, None, None
        self.admission = Admission(limits)
        self.state = ServiceState.STARTING
        self.startup_step = "the model is loading"
        self.error: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self.on_loaded: Callable[[], None] = lambda: None
        self.queue: Queue[RerankJob] = Queue(1)
        self.tokens_per_second = 0.0  # moving average; 0 before the first batch
        self.counters = Metrics()  # replaced when the service is ready, so that `metrics` do not count the warm-up
        self.encoder_pool = ThreadPoolExecutor(1, "encoder")
        self.model_thread = threading.Thread(target=self._run_model, name="model", daemon=True)

    async def start(self) -> None:
        """Load the model and warm it up. Returns when the service is ready or has failed (see `error`)."""
        begin, loop = time.perf_counter(), asyncio.get_running_loop()
        loaded: asyncio.Future[None] = loop.create_future()
        self.on_loaded = lambda: _settle(loop, loaded, None)
        self.model_thread.start()
        await loaded
        try:
            if self.state is ServiceState.STARTING:
                await warm_up(self)
        except Exception as error:
            self._give_up(error.__cause__ or error if isinstance(error, RequestError) else error)
        if self.state is ServiceState.STARTING:
            self.tokens_per_second, self.counters, self.state = 0.0, self.metrics, ServiceState.READY
            log_event("ready", model=self.name, batch=self.workload.batch_size, seconds=round(time.perf_counter() - begin, 3))
            print_to_terminal(score_hint(self.reranker))

    def stop(self) -> None:
        """Stop accepting requests and return when all accepted ones are answered."""
        if self.state is not ServiceState.FAILED:
            self.state = ServiceState.DRAINING
        self.queue.close()
        self.model_thread.join()
        self.encoder_pool.shutdown(cancel_futures=True)

    def check_ready(self) -> None:
        """Raise RequestError unless the service is ready."""
        if self.state is ServiceState.STARTING:
            raise RequestError("unready", self.startup_step, retry_after=NOT_READY_RETRY_AFTER)
        if self.state is ServiceState.DRAINING:
            raise RequestError("unready", "the server is stopping", retry_after=NOT_READY_RETRY_AFTER)
        if self.state is ServiceState.FAILED:
            raise RequestError("unready", "the model has failed")

    async def answer(self, rerank_query: RerankQuery, seconds: float, begin: float) -> Answer:
        """Score the documents of a request. Cancelling the call drops its work.

        Args:
            rerank_query: the request.
            seconds: time limit, counted from `begin`.
            begin: time of arrival (`perf_counter`).

        Raises:
            RequestError: the request cannot be answered, or not in time.
        """
        rerank_query = rerank_query.for_model(self.reranker.reads_chunks)
        self._check(rerank_query)
        encoding_begin, loop = time.perf_counter(), asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        job = RerankJob(rerank_query, lambda error: _settle(loop, done, error), self.workload.deduplicates)
        try:
            async with asyncio.timeout(max(0.0, begin + seconds - encoding_begin)):
                await self._encode(job)
                encoding_seconds = time.perf_counter() - encoding_begin
                await done
        except TimeoutError:
            self.metrics.dropped.labels("deadline").inc()
            message = f"not answered within {seconds:.3g} seconds; send fewer documents or allow more time"
            raise RequestError("deadline", message) from None
        except ProRankError as error:
            raise RequestError("failed" if done.done() else "invalid", str(error)) from error
        finally:
            self.queue.drop(job)
            if not done.cancel() and not done.cancelled():
                done.exception()  # mark the exception as retrieved, in case nobody awaited it
        answer = make_answer(self.reranker, job, begin, encoding_seconds)
        self.counters.record_answer(rerank_query.num_documents, answer)
        return answer

    def _check(self, rerank_query: RerankQuery) -> None:
        """Raise RequestError for options that this model does not support."""
        if rerank_query.return_thoughts and not self.workload.thinks:
            message = "this model does not think, so there are no thoughts"
            raise RequestError("invalid", message, "return_thoughts")
        if self.reranker.compares_documents and len(rerank_query.lists) > 1:
            raise RequestError("invalid", "this model orders the documents of one query; send one query")
        if len(rerank_query.instruction or "") > MAX_CHARS_PER_TOKEN * self.workload.longest:
            raise RequestError("invalid", "the instruction is longer than a whole prompt; shorten it", "instruction")

    async def _encode(self, job: RerankJob) -> None:
        """Encode a job in slices, alternating with slices of other jobs, and queue each slice immediately."""
        loop = asyncio.get_running_loop()
        for list_index, indices in self.workload.slices(job):
            items = await loop.run_in_executor(self.encoder_pool, self.workload.encode, job, list_index, indices)
            self.queue.put(job, items, more=True)
        self.queue.put(job, [])

    def retry_after(self) -> int:
        """Return the estimated seconds until the queue is empty, at most MAX_RETRY_AFTER."""
        if not self.tokens_per_second:
            return 1
        return int(min(MAX_RETRY_AFTER, max(1, self.queue.pending_tokens / self.tokens_per_second)))

    def _run_model(self) -> None:
        """Load the model, then answer batches until the queue is closed; the target of the model's thread."""
        try:
            self._load_model()
            self.on_loaded()
            tokens = 0
            while items := self.queue.take():
                tokens += self._answer_batch(items)
                if tokens > TRIM_EVERY_TOKENS:
                    trim()
                    tokens = 0
        except BaseException as error:  # after any error in this thread, the service cannot work
            self._give_up(error)
            self.on_loaded()

    def _load_model(self) -> None:
        begin = time.perf_counter()
        self.reranker = self.load()
        loaded = time.perf_counter()
        _ = self.reranker.calibration  # computed on first access, from all weights
        calibration_seconds = round(time.perf_counter() - loaded, 3)
        log_event("loaded", model=self.name, seconds=round(loaded - begin, 3), calibration_seconds=calibration_seconds)
        if self.index_folder:
            begin = time.perf_counter()
            self.stored = StoredDocuments(Index.load(self.index_folder, self.reranker))
            log_event("indexed", documents=len(self.stored), seconds=round(time.perf_counter() - begin, 3))
        self.cache = DocumentCache(self.reranker, self.cache_bytes) if self.cache_bytes else None
        self.workload = make_workload(self.reranker, self.batch_size, self.stored, self.cache)
        self.queue.batch_tokens = self.workload.batch_size

    def _give_up(self, error: BaseException) -> None:
        """Fail permanently: reject all queued requests, and stop the server."""
        self.error, self.state = error, ServiceState.FAILED
        log_failure("model", error)
        self.queue.fail(RequestError("failed", "the model has failed"))
        self.queue.close()
        self.on_failure()

    def _answer_batch(self, items: list[QueueItem[RerankJob]]) -> int:
        """Answer a batch and return its tokens."""
        begin, counters = time.perf_counter(), self.counters  # `counters` is replaced when the service becomes ready
        run_batch(self.workload, self.queue, items)
        seconds, tokens = time.perf_counter() - begin, sum(item.tokens for item in items)
        speed, average = tokens / seconds, self.tokens_per_second
        self.tokens_per_second = SMOOTHING * average + (1 - SMOOTHING) * speed if average else speed
        counters.record_batch(items, seconds)
        if self.cache:
            counters.record_cache(self.cache)
        return tokens


def _settle(loop: asyncio.AbstractEventLoop, future: asyncio.Future, error: Exception | None) -> None:
    """Settle a future of the event loop from another thread."""

    def settle() -> None:
        if not future.done():
            future.set_exception(error) if error else future.set_result(None)

    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(settle)
