"""Prometheus metrics of a server.

Each server has its own registry, so several servers in one process (tests) do not share counters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

if TYPE_CHECKING:
    from ..index.document_cache import DocumentCache
    from .messages import Answer
    from .queue import QueueItem

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """Counters, gauges and histograms of one server."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        ProcessCollector(registry=own)
        self.requests = Counter("prorank_requests", "Requests by path and status.", ["path", "status"], registry=own)
        self.seconds = Histogram("prorank_request_seconds", "From request to answer.", ["path"], buckets=SECONDS, registry=own)
        self.stages = Histogram("prorank_stage_seconds", "By stage of a request.", ["stage"], buckets=SECONDS, registry=own)
        self.dropped = Counter("prorank_dropped", "Requests dropped, by reason.", ["reason"], registry=own)
        self.documents = Counter("prorank_documents", "Documents scored.", registry=own)
        self.tokens = Counter("prorank_tokens", "Tokens of prompts.", registry=own)
        self.truncated = Counter("prorank_truncated_documents", "Documents that were cut.", registry=own)
        self.stored = Counter("prorank_stored_documents", "Documents whose keys and values were in the index.", registry=own)
        self.cache_hits = Counter("prorank_document_cache_hits", "Prompts whose document was in the cache.", registry=own)
        self.cache_misses = Counter("prorank_document_cache_misses", "Documents computed for the cache.", registry=own)
        self.cache_bytes = Gauge("prorank_document_cache_bytes", "Keys and values in the cache.", registry=own)
        self.batch_seconds = Histogram("prorank_batch_seconds", "Of a batch in the model.", buckets=SECONDS, registry=own)
        self.batch_prompts = Histogram("prorank_batch_prompts", "Prompts of a batch.", buckets=COUNTS, registry=own)
        self.batch_requests = Histogram("prorank_batch_requests", "Requests joined in a batch.", buckets=COUNTS, registry=own)
        self.requests_at_work = Gauge("prorank_requests_at_work", "Requests accepted and not answered.", registry=own)
        self.documents_waiting = Gauge("prorank_documents_waiting", "Documents accepted and not answered.", registry=own)
        self.ready = Gauge("prorank_ready", "1 when requests are taken.", registry=own)

    def record_answer(self, documents: int, answer: "Answer") -> None:
        """Count an answered request with this number of documents."""
        self.documents.inc(documents)
        self.tokens.inc(answer.tokens)
        self.truncated.inc(answer.num_truncated)
        self.stored.inc(answer.num_stored)
        for stage, value in asdict(answer.seconds).items():
            self.stages.labels(stage).observe(value)

    def record_batch(self, items: Sequence["QueueItem"], seconds: float) -> None:
        """Count a batch."""
        self.batch_seconds.observe(seconds)
        self.batch_prompts.observe(len(items))
        self.batch_requests.observe(len({id(item.job) for item in items}))

    def record_cache(self, cache: "DocumentCache") -> None:
        """Count what a cache has found since the last call."""
        hits, misses = cache.take_counts()
        self.cache_hits.inc(hits)
        self.cache_misses.inc(misses)
        self.cache_bytes.set(cache.nbytes)

    def page(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
