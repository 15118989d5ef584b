"""The forms in which rerank servers are asked: TEI's, Jina's, Cohere's, vLLM's.

TEI and vLLM can be asked for log-odds and are; Jina's and Cohere's forms have 0..1 alone, unless the server is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, nearest

LOG_ODDS, RELEVANCE = "log-odds", "relevance, mostly from 0 to 1"


@dataclass(frozen=True)
class ClientDialect:
    """A dialect.

    Attributes:
        path: of its endpoint. texts: its field of documents. score: the field of a hit's score.
        meaning: of a score.
        fields: what a request says besides.
        results: the hits in an answer.
        instructs: whether it has a field `instruction`.
    """

    path: str
    texts: str
    score: str
    meaning: str
    fields: dict[str, Any]
    results: Callable[[Any], Any]
    instructs: bool = False


FORMS = {
    "tei": ClientDialect("/rerank", "texts", "score", LOG_ODDS, {"raw_scores": True, "truncate": True}, lambda answer: answer),
    "jina": ClientDialect(
        "/v1/rerank", "documents", "relevance_score", RELEVANCE, {"return_documents": False}, lambda a: a["results"]
    ),
    "cohere": ClientDialect("/v2/rerank", "documents", "relevance_score", RELEVANCE, {}, lambda answer: answer["results"]),
    "vllm": ClientDialect(
        "/rerank", "documents", "relevance_score", LOG_ODDS, {"use_activation": False}, lambda a: a["results"], True
    ),
}
PATHS = {"/v2/rerank": "cohere", "/v1/rerank": "jina", "/rerank": None, "/v2": "cohere", "/v1": "jina"}  # ends of addresses
GUESSES = ("jina", "cohere", "vllm")  # tried in this order where a server does not tell what it is


def dialect_of(name: str) -> str | None:
    """A dialect by its name; None for "auto". Raises ConfigError."""
    if name not in ("auto", *FORMS):
        raise ConfigError(f"--dialect {name}: unknown{nearest(name, ['auto', *FORMS])}")
    return None if name == "auto" else name


def split(url: str) -> tuple[str, str | None]:
    """(address of the server, dialect that the end of the address tells). Raises ConfigError."""
    if not url.startswith(("http://", "https://")) or "?" in url or "#" in url:
        raise ConfigError(f"--server {url}: expected an address such as http://localhost:8000")
    url = url.rstrip("/")
    end = next((end for end in PATHS if url.endswith(end)), "")
    return url.removesuffix(end), PATHS.get(end)


def body_of(form: ClientDialect, query: str, texts: list[str], model: str | None, more: dict[str, Any]) -> dict[str, Any]:
    """A request for all these texts."""
    named = {"model": model} if model else {}
    return {"query": query, form.texts: texts, **named, **form.fields, **more}


def hits_of(form: ClientDialect, answer: Any, count: int) -> list[tuple[float, dict[str, Any]]]:
    """(score, hit) of each document, in input order. Raises ValueError for an answer that is not of this form."""
    try:
        rows = {hit["index"]: (float(hit[form.score]), hit) for hit in form.results(answer)}
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if set(rows) != set(range(count)):
        raise ValueError(f"{len(rows)} hits for {count} documents")
    if not all(math.isfinite(score) for score, _ in rows.values()):
        raise ValueError("a score is not finite")
    return [rows[index] for index in range(count)]
