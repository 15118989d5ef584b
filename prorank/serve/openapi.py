"""The OpenAPI document: requests and answers of each dialect.

Bodies are parsed by this package, not by FastAPI, so their schemas are added here. Tests generate requests from the document and
check the answers against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .dialects import Dialect
from .limits import Limits
from .messages import ErrorKind

REF = "#/components/schemas/{model}"
ABOUT = "One language model scores the documents; every dialect gives the same scores."
ERRORS: dict[ErrorKind, str] = {
    "syntax": "The body is not JSON.", "invalid": "A field is missing, has a wrong type, or is too large.",
    "empty": "There are no documents.", "too large": "The body has more bytes than the server accepts.",
    "media": "The content type is not JSON.", "slow": "The body did not arrive in time.",
    "unauthorized": "The key is missing or wrong.", "model": "The request names a model that is not served.",
    "overloaded": "The server is overloaded; see Retry-After.", "deadline": "The request was not answered in time.",
    "unready": "The server is loading or stopping.", "failed": "The server failed.",
}  # fmt: skip
SUMMARIES = {
    "/rerank": "TEI's form with `texts`, vLLM's form with `documents`", "/v1/rerank": "Jina's form", "/v2/rerank": "Cohere's form",
    "/score": "vLLM's scores, in input order", "/v1/score": "The same as /score",
}  # fmt: skip


def route_options(path: str, dialects: Sequence[Dialect], limits: Limits) -> dict[str, Any]:
    """Return the arguments of FastAPI's route decorator that describe a path.

    Args:
        path: the path.
        dialects: its dialects.
        limits: limits of the server.
    """
    models = [model for dialect in dialects for model in dialect.bodies.values()]
    refs = [{"$ref": REF.format(model=model.__name__)} for model in models]
    body = {"required": True, "content": {"application/json": {"schema": refs[0] if len(refs) == 1 else {"anyOf": refs}}}}
    timeout = {
        "name": "X-Request-Timeout", "in": "header", "required": False, "schema": {"type": "number", "minimum": 1},
        "description": f"Seconds until the request must be answered; at most {limits.request_timeout:g}.",
    }  # fmt: skip
    return {
        "summary": SUMMARIES[path],
        "response_model": reduce(or_, (dialect.answer_model for dialect in dialects)),
        "responses": _error_responses(dialects),
        "openapi_extra": {"requestBody": body, "parameters": [timeout]},
        "operation_id": path.strip("/").replace("/", "_"),
    }


def _error_responses(dialects: Sequence[Dialect]) -> dict[int, dict[str, Any]]:
    """Return the errors of a path by status."""
    model = reduce(or_, (dialect.error_model for dialect in dialects))
    descriptions: dict[int, list[str]] = {}
    for dialect in dialects:
        for kind, status in dialect.statuses.items():
            descriptions.setdefault(status, [])
            descriptions[status] += [ERRORS[kind]] if ERRORS[kind] not in descriptions[status] else []
    return {status: {"model": model, "description": " ".join(texts)} for status, texts in sorted(descriptions.items())}


def install_schema(app: FastAPI, dialects_by_path: Mapping[str, Sequence[Dialect]], limits: Limits) -> None:
    """Make the application's OpenAPI document include the request models."""
    models = {model for dialects in dialects_by_path.values() for dialect in dialects for model in dialect.bodies.values()}
    ordered: list[tuple[type[BaseModel], Literal["validation"]]]
    ordered = [(model, "validation") for model in sorted(models, key=lambda model: model.__name__)]

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, routes=app.routes, description=ABOUT)
            definitions = models_json_schema(ordered, ref_template=REF)[1]["$defs"]
            document["components"]["schemas"] |= _with_max_items(definitions, limits)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI documents; its stub declares a method


def _with_max_items(schema: Any, limits: Limits) -> Any:
    """Return a schema in which every non-empty list also has the maximum number of documents."""
    if isinstance(schema, dict):
        max_items = {"maxItems": limits.max_documents} if "minItems" in schema else {}
        return {key: _with_max_items(value, limits) for key, value in schema.items()} | max_items
    return [_with_max_items(value, limits) for value in schema] if isinstance(schema, list) else schema
