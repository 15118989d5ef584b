"""`Remote`: ranks by a server instead of a local model.

It works with `prorank serve`, TEI, vLLM, and servers with the API of Jina or Cohere.
All documents are scored by the server and sorted here, so ties, `top_k` and `min_score` work as in `Reranker.rank`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError, ServerError
from ..prompts.pair_encoder import TruncationCounts
from ..rank.documents import Document, GeneratedThought, Hit, make_hits
from ..rank.validation import RankOptions, validate_batch
from ..utils.pickling import MadeByArguments
from .client_dialects import DIALECTS, ScoredText, check_dialect, make_body, parse_hits, split_url
from .server_connection import ServerConnection
from .server_profile import positive_count, read_profile

CONCURRENT_REQUESTS = 4


@dataclass(frozen=True)
class RequestPart:
    """Texts of one request: all documents of a query, or as many as the server accepts."""

    list_index: int
    query: str
    texts: list[str]


@dataclass(frozen=True)
class PartAnswer:
    """The answer to a RequestPart. `truncated_documents`, `query_truncated`: as `prorank serve` reports them."""

    rows: list[ScoredText]
    truncated_documents: int
    query_truncated: bool


class Remote(MadeByArguments):
    """A rerank server. Use it in a `with` block, which closes its connections.

    A Remote pickles as its arguments, including the key, and connects again when it is unpickled.

    Args:
        url: address of the server, or of its rerank endpoint.
        dialect: "tei", "jina", "cohere" or "vllm"; "auto" detects it from the server.
        model: name of the model to use, for servers with several.
        key: sent as `Authorization: Bearer`.
        patience: seconds for which a request is repeated while the server is busy.
        timeout: seconds for one answer.

    Attributes:
        dialect: the dialect in use.
        ours: whether the server is `prorank serve`.
        meaning: what a score is, for example "log-odds".
        longest: tokens of the server's longest prompt, if known.
        cuts: truncation counts of all calls, as far as the server reports them.

    Raises:
        ConfigError: the address or the dialect is wrong.
        ServerError: the server cannot be reached or refuses; see its subclasses in `prorank.errors`.
    """

    def __init__(
        self, url: str, dialect: str = "auto", model: str | None = None, key: str | None = None, patience: float = 60,
        timeout: float = 300,
    ) -> None:  # fmt: skip
        self.url, implied = split_url(url)
        self.model, self.cuts = model, TruncationCounts()
        chosen = check_dialect(dialect) or implied
        self.server = ServerConnection(self.url, key, patience, timeout)
        try:
            profile = read_profile(self.server, chosen)
        except BaseException:
            self.server.close()
            raise
        self.ours, self.lists, self.thinks = profile.is_prorank, profile.lists, profile.thinks
        self.longest, self.max_documents, self.meaning = profile.longest, profile.max_documents, profile.meaning
        self.dialect, *self.fallbacks = profile.dialects

    @property
    def patience(self) -> float:
        """Seconds for which a request is repeated while the server is busy."""
        return self.server.patience

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()

    def rank(
        self, query: str, documents: Sequence[Document], top_k: int | None = None, min_score: float | None = None,
        instruction: str | None = None, thoughts: bool = False, top_n: int | None = None,
    ) -> list[Hit]:  # fmt: skip
        """Rank the documents of a query, best first. See `Reranker.rank`; `meaning` says what a score is.

        Args:
            query: a text that is not empty.
            documents: strings, or dicts with "text" and optionally "title".
            top_k: number of hits; all by default.
            min_score: lowest score of a hit.
            instruction: replaces the instruction of the prompt; `prorank serve` and vLLM only.
            thoughts: return the thoughts of a thinking model; `prorank serve` only.
            top_n: the same as `top_k`.

        Raises:
            DataError: an argument is wrong, or `top_k` and `top_n` differ.
            ConfigError: the server does not support an option.
            ServerError: the server does not answer as expected.
        """
        options = RankOptions(top_k, min_score, instruction=instruction, top_n=top_n)
        lists = validate_batch([query], [documents])
        rows = self._score_all(lists.queries, lists.texts, options.instruction, thoughts)[0]
        hit_thoughts = _thoughts([row.hit for row in rows]) if thoughts else ()
        scores = np.array([row.score for row in rows], np.float32)
        return make_hits(lists.documents[0], scores, options.top_k, options.min_score, hit_thoughts, self._probabilities(rows))

    def score_lists(
        self, queries: Sequence[str], documents: Sequence[Sequence[Document]], instruction: str | None = None
    ) -> list[np.ndarray]:
        """Score each query's documents.

        Args:
            queries: one text per query.
            documents: one list of documents per query.
            instruction: see `rank`.

        Returns:
            One fp32 array per query, in input order.

        Raises:
            DataError, ConfigError, ServerError: see `rank`.
        """
        instruction = RankOptions(instruction=instruction).instruction
        lists = validate_batch(queries, documents)
        scored = self._score_all(lists.queries, lists.texts, instruction)
        return [np.array([row.score for row in rows], np.float32) for rows in scored]

    def _probabilities(self, rows: list[ScoredText]) -> np.ndarray | None:
        """Return calibrated probabilities; None unless `prorank serve` gives one for every document."""
        values = [row.hit.get("probability") for row in rows] if self.ours else [None]
        return None if None in values else np.array(values, np.float64)

    def _score_all(
        self, queries: list[str], lists: list[list[str]], instruction: str | None, thoughts: bool = False
    ) -> list[list[ScoredText]]:
        """Score the texts of all queries, in input order, with several concurrent requests."""
        options = self._request_options(instruction, thoughts)
        parts = [part for i, (query, texts) in enumerate(zip(queries, lists)) for part in self._split(i, query, texts)]
        scored: list[list[ScoredText]] = [[] for _ in lists]
        truncated_queries: set[int] = set()  # a query may be truncated in several requests and counts once
        for batch in (parts[:1], parts[1:]):  # the first request alone, because it settles the dialect
            for part, answer in self._send_parts(batch, options):
                scored[part.list_index] += answer.rows
                self.cuts.total += len(answer.rows)
                self.cuts.documents += answer.truncated_documents
                truncated_queries |= {part.list_index} if answer.query_truncated else set()
        self.cuts.queries += len(truncated_queries)
        return scored

    def _split(self, list_index: int, query: str, texts: list[str]) -> Iterator[RequestPart]:
        """Split a list into requests. Raises DataError for one that is too long to be ordered."""
        limit = self.max_documents
        if self.lists and len(texts) > limit:
            raise DataError(f"{self.url} orders at most {limit} documents, not {len(texts)}; pass fewer")
        return (RequestPart(list_index, query, texts[at : at + limit]) for at in range(0, len(texts), limit))

    def _send_parts(self, parts: list[RequestPart], options: dict[str, Any]) -> Iterator[tuple[RequestPart, PartAnswer]]:
        """Send requests concurrently and yield their answers in order. The first error cancels the rest."""
        with ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:
            futures = [pool.submit(self._post, part, options) for part in parts]
            try:
                for part, future in zip(parts, futures):
                    yield part, future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _request_options(self, instruction: str | None, thoughts: bool) -> dict[str, Any]:
        """Return the request fields that only some servers have. Raises ConfigError if this one lacks a needed one."""
        if thoughts and not self.thinks:
            raise ConfigError(f"--show-thoughts: {self.url} is not a `prorank serve` with a thinking model")
        if instruction and not (self.ours or DIALECTS[self.dialect].has_instruction):
            raise ConfigError(f"--instruction: the dialect {self.dialect} of {self.url} has no field for it; put it into the query")
        options: dict[str, Any] = {"instruction": instruction} if instruction else {}
        return options | ({"raw_scores": True, "return_thoughts": thoughts} if self.ours else {})

    def _post(self, part: RequestPart, options: dict[str, Any]) -> PartAnswer:
        """Send one request; try the next fallback dialect if the path does not exist. Raises ServerError."""
        dialect = DIALECTS[self.dialect]
        response = self.server.send("POST", dialect.path, json=make_body(dialect, part.query, part.texts, self.model, options))
        if response.status_code in (404, 405) and self.fallbacks:  # `meaning` stays: the server may ignore vLLM's fields
            self.dialect = self.fallbacks.pop(0)
            return self._post(part, options)
        if response.status_code != 200:
            self.server.refuse(response, self.dialect)
        self.fallbacks = []
        try:
            rows = parse_hits(dialect, response.json(), len(part.texts))
        except (ValueError, RecursionError) as error:
            reason = f"the answer is not in the dialect {self.dialect} ({error}); try another --dialect"
            raise ServerError(f"{self.url}: {reason}") from error
        headers = response.headers
        truncated_documents = positive_count(headers.get("x-prorank-truncated-documents"))
        return PartAnswer(rows, truncated_documents, positive_count(headers.get("x-prorank-truncated-queries")) > 0)


def _thoughts(hits: list[dict[str, Any]]) -> list[GeneratedThought]:
    """Return the thoughts of hits."""
    return [GeneratedThought(hit["thought"], hit.get("thought_cut") or False) for hit in hits]
