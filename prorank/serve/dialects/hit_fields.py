"""Parts of answers that several dialects share: hits best first, the fields that this server adds, token usage."""

from __future__ import annotations

from typing import Any

from ..messages import Answer, RerankQuery
from ..request_documents import DocumentField, document_in_hit


def ranked_hits(documents: list[DocumentField], rerank_query: RerankQuery, answer: Answer) -> list[dict[str, Any]]:
    """Return the hits of a request with one query in the form of Jina and Cohere, best first.

    Args:
        documents: documents of the request; added to the hits if requested.
        rerank_query: the request.
        answer: its answer.
    """
    texts, scores = rerank_query.lists[0].documents, answer.client_scores[0]
    return [
        {"index": at, "relevance_score": float(scores[at])}
        | ({"document": document_in_hit(documents[at], texts[at])} if rerank_query.return_documents else {})
        | extra_hit_fields(rerank_query, answer, at)
        for at in answer.order(top_n=rerank_query.top_n)
    ]


def extra_hit_fields(rerank_query: RerankQuery, answer: Answer, document: int, list_index: int = 0) -> dict[str, Any]:
    """Return the fields that this server adds to a hit: its probability in addition to log-odds, and its thought if requested.

    Args:
        document: index of the document in its list.
        list_index: index of the list.
    """
    fields: dict[str, Any] = {}
    if answer.score_kind == "log-odds" and answer.probabilities:
        fields["probability"] = float(answer.probabilities[list_index][document])
    thought = answer.thoughts[list_index][document] if rerank_query.return_thoughts else None
    if thought:
        fields |= {"thought": thought.text, "thought_cut": thought.cut}
    return fields


def token_usage(answer: Answer) -> dict[str, int]:
    """Return the `usage` of an answer."""
    return {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
