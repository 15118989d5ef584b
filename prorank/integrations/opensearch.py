"""OpenSearch and Elasticsearch: rerank the response of a search request.

The response is the JSON of `_search`, so no client library is needed. The result is a copy; the input is not changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError, nearest
from ..rank.validation import items
from ..utils.texts import shown

if TYPE_CHECKING:
    from ..remote.client import Remote
    from ..reranker import Reranker


def rerank_response(
    response: Any,
    query: str,
    reranker: Reranker | Remote,
    fields: str | Sequence[str] = "text",
    top_k: int | None = None,
    instruction: str | None = None,
) -> dict[str, Any]:
    """Order the hits of a response by relevance to the query, best first; equal scores keep the engine's order.

    Args:
        response: JSON of `_search`: a dict, or a client's object with it as `body`, as of the package elasticsearch.
        query: a text that is not blank.
        reranker: a Reranker, or a Remote for a model on a server.
        fields: field or fields of `_source` to read, joined by a space in this order. A dot leads into an object
            ("author.name"), and a list of texts is read as one text. Without `_source`, `fields` of the hit is read.
        top_k: number of hits to return; all by default.
        instruction: what to look for; replaces the instruction of the prompt.

    Returns:
        The response with its hits in the new order. `_score` of a hit is the log-odds, its old value is `previous_score`, and
        `hits.max_score` is the new highest score. All else is as it was: `hits.total` counts the matches of the engine.

    Raises:
        ConfigError: `reranker` cannot rank, or `fields` is empty.
        DataError: the response has no `hits.hits`, a field occurs in no hit, a hit has none of the fields, a value is no text, or
            the query is blank. Raised before anything is scored.
    """
    if not hasattr(reranker, "rank"):
        raise ConfigError(f"reranker must be a Reranker or a Remote, not {shown(reranker)}; make it once and give it to every call")
    names = [fields] if isinstance(fields, str) else items(fields, "fields")
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"fields must name one or more fields of _source, not {shown(fields)}")
    content = _content(response)
    hits = content["hits"]["hits"]
    ranked = reranker.rank(query, _texts(hits, names), top_k=top_k, instruction=instruction)
    scored = [
        {**hits[hit.index], "_score": float(hit.score), "previous_score": hits[hit.index].get("_score")} for hit in ranked
    ]
    best = scored[0]["_score"] if scored else None
    return {**content, "hits": {**content["hits"], "max_score": best, "hits": scored}}


def _content(response: Any) -> Mapping[str, Any]:
    """Return the response as a mapping. Raises DataError if it has no list of hits."""
    content = response if isinstance(response, Mapping) else getattr(response, "body", response)
    outer = content.get("hits") if isinstance(content, Mapping) else None
    hits = outer.get("hits") if isinstance(outer, Mapping) else None
    if not isinstance(hits, list):
        several = "; it has several responses, give one of them" if isinstance(content, Mapping) and "responses" in content else ""
        raise DataError(f"the response has no list hits.hits{several or '; give the JSON of a _search request'}")
    for number, hit in enumerate(hits):
        if not isinstance(hit, Mapping):
            raise DataError(f"hit {number} is {shown(hit)}; expected an object with _source")
    return content


def _texts(hits: list[Mapping[str, Any]], names: list[str]) -> list[str]:
    """Return the text of each hit. Raises DataError as `rerank_response`."""
    rows = [_values_by_field(hit, names, f"hit {number} (_id {hit.get('_id')!r})") for number, hit in enumerate(hits)]
    for name in names:
        if rows and not any(name in row for row in rows):
            raise DataError(f"no hit has the field '{name}'{nearest(name, sorted({key for hit in hits for key in _source(hit)}))}")
    for number, (hit, row) in enumerate(zip(hits, rows)):
        if not row:
            listed = ", ".join(f"'{name}'" for name in names)
            raise DataError(f"hit {number} (_id {hit.get('_id')!r}) has no field {listed}; give fields that every hit has one of")
    return [" ".join(text for texts in row.values() for text in texts) for row in rows]


def _values_by_field(hit: Mapping[str, Any], names: list[str], where: str) -> dict[str, list[str]]:
    """Return the texts of a hit by field, without missing fields."""
    source = _source(hit)
    if not source and "_source" not in hit and "fields" not in hit:
        raise DataError(f"{where} has neither _source nor fields; leave _source switched on in the request")
    values = {name: list(_find(source, name, f"{where}: field '{name}'")) for name in names}
    return {name: texts for name, texts in values.items() if texts}


def _source(hit: Mapping[str, Any]) -> Mapping[str, Any]:
    source = hit.get("_source", hit.get("fields"))
    return source if isinstance(source, Mapping) else {}


def _find(value: Any, path: str, where: str) -> Iterator[str]:
    """Yield the texts at a path below a value; lists are entered, and null is missing. Raises DataError for other values."""
    if isinstance(value, list):
        for element in value:
            yield from _find(element, path, where)
    elif not path and value is not None:
        if not isinstance(value, str):
            raise DataError(f"{where} is {shown(value)}; expected a text or a list of texts")
        yield value
    elif path and isinstance(value, Mapping):
        head, _, rest = path.partition(".")
        if path in value:
            yield from _find(value[path], "", where)
        elif rest and head in value:
            yield from _find(value[head], rest, where)
