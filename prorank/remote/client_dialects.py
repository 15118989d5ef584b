"""The request and answer formats of rerank servers, from the client's side: TEI, Jina, Cohere, vLLM.

TEI and vLLM can return log-odds, so requests ask for them. Jina's and Cohere's formats have values in 0..1 only, unless the server
is `prorank serve`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import ConfigError, nearest

LOG_ODDS, RELEVANCE = "log-odds", "relevance, mostly from 0 to 1"


@dataclass(frozen=True)
class ClientDialect:
    """The client's side of a dialect.

    Attributes:
        path: path of its endpoint.
        texts_field: request field of the documents.
        score_field: field of a hit's score.
        meaning: what a score is.
        fields: fixed fields of a request.
        hits: returns the hits of an answer.
        has_instruction: whether requests have a field `instruction`.
    """

    path: str
    texts_field: str
    score_field: str
    meaning: str
    fields: dict[str, Any]
    hits: Callable[[Any], Any]
    has_instruction: bool = False


class ScoredText(NamedTuple):
    """A score, and the hit of the answer that it was read from."""

    score: float
    hit: dict[str, Any]


def _results(answer: Any) -> Any:
    return answer["results"]


DIALECTS = {
    "tei": ClientDialect("/rerank", "texts", "score", LOG_ODDS, {"raw_scores": True, "truncate": True}, lambda answer: answer),
    "jina": ClientDialect("/v1/rerank", "documents", "relevance_score", RELEVANCE, {"return_documents": False}, _results),
    "cohere": ClientDialect("/v2/rerank", "documents", "relevance_score", RELEVANCE, {}, _results),
    "vllm": ClientDialect("/rerank", "documents", "relevance_score", LOG_ODDS, {"use_activation": False}, _results, True),
}
URL_ENDINGS = {"/v2/rerank": "cohere", "/v1/rerank": "jina", "/rerank": None, "/v2": "cohere", "/v1": "jina"}
FALLBACKS = ("jina", "cohere", "vllm")  # tried in this order if a server does not say what it is


def check_dialect(name: str) -> str | None:
    """Return the name of a dialect, None for "auto". Raises ConfigError for an unknown one."""
    if name not in ("auto", *DIALECTS):
        raise ConfigError(f"--dialect {name}: unknown{nearest(name, ['auto', *DIALECTS])}")
    return None if name == "auto" else name


def split_url(url: str) -> tuple[str, str | None]:
    """Split an address into the server's own and the dialect that its ending implies, if any. Raises ConfigError."""
    if not url.startswith(("http://", "https://")) or "?" in url or "#" in url:
        raise ConfigError(f"--server {url}: expected an address such as http://localhost:8000")
    url = url.rstrip("/")
    ending = next((ending for ending in URL_ENDINGS if url.endswith(ending)), "")
    return url.removesuffix(ending), URL_ENDINGS.get(ending)


def make_body(dialect: ClientDialect, query: str, texts: list[str], model: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a request that scores all texts."""
    name = {"model": model} if model else {}
    return {"query": query, dialect.texts_field: texts, **name, **dialect.fields, **options}


def parse_hits(dialect: ClientDialect, answer: Any, count: int) -> list[ScoredText]:
    """Return one ScoredText per document, in input order. Raises ValueError for an answer in another format."""
    try:
        rows = {hit["index"]: ScoredText(float(hit[dialect.score_field]), hit) for hit in dialect.hits(answer)}
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if set(rows) != set(range(count)):
        raise ValueError(f"{len(rows)} hits for {count} documents")
    if not all(math.isfinite(row.score) for row in rows.values()):
        raise ValueError("a score is not finite")
    return [rows[index] for index in range(count)]
