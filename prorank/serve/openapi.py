"""The OpenAPI document: requests and answers of each dialect.

Bodies are read by our own hands, not by the framework, so their schemas are put in here; tests send what the document
says and hold the answers against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .dialects import Dialect
from .limits import Limits

REF = "#/components/schemas/{model}"
SAID = {
    "syntax": "No JSON.", "invalid": "A field is missing, of a wrong type, or holds too much.", "empty": "No documents.",
    "too large": "More bytes than the server takes.", "media": "Not announced as JSON.", "slow": "The body did not come in time.",
    "unauthorized": "No key, or a wrong one.", "model": "Another model than the one served.",
    "overloaded": "Too much to do; see Retry-After.", "deadline": "Not answered in time.", "unready": "Loading or going.",
    "failed": "The server's fault.",
}  # fmt: skip
TITLES = {
    "/rerank": "TEI's form with `texts`, vLLM's with `documents`", "/v1/rerank": "Jina's form", "/v2/rerank": "Cohere's form",
    "/score": "vLLM's scores, in input order", "/v1/score": "The same as /score",
}  # fmt: skip


def operation(path: str, forms: Sequence[Dialect], limits: Limits) -> dict[str, Any]:
    """What the framework is told of a route."""
    models = [model for form in forms for _, model in form.bodies]
    errors = reduce(lambda a, b: a | b, (form.errors for form in forms))
    answers = reduce(lambda a, b: a | b, (form.answers for form in forms))
    said: dict[int, list[str]] = {}
    for form in forms:
        for kind, status in form.statuses.items():
            said.setdefault(status, [])
            said[status] += [SAID[kind]] if SAID[kind] not in said[status] else []
    refs = [{"$ref": REF.format(model=model.__name__)} for model in models]
    body = {"required": True, "content": {"application/json": {"schema": refs[0] if len(refs) == 1 else {"anyOf": refs}}}}
    timeout = {
        "name": "X-Request-Timeout", "in": "header", "required": False, "schema": {"type": "number", "minimum": 1},
        "description": f"Seconds until the answer must be there; at most {limits.seconds:g}.",
    }  # fmt: skip
    return {
        "summary": TITLES[path],
        "response_model": answers,
        "responses": {status: {"model": errors, "description": " ".join(text)} for status, text in sorted(said.items())},
        "openapi_extra": {"requestBody": body, "parameters": [timeout]},
        "operation_id": path.strip("/").replace("/", "_"),
    }


def complete(app: FastAPI, forms: dict[str, tuple[Dialect, ...]], limits: Limits) -> None:
    """Let the application's document hold the models of requests."""
    models = {model for some in forms.values() for form in some for _, model in form.bodies}

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            about = "Documents are scored by one language model; every dialect gives the same scores."
            found = get_openapi(title=app.title, version=app.version, routes=app.routes, description=about)
            wanted: list[tuple[type[BaseModel], Literal["validation"]]] = [(model, "validation") for model in models]
            wanted.sort(key=lambda one: one[0].__name__)
            found["components"]["schemas"] |= _bounded(models_json_schema(wanted, ref_template=REF)[1]["$defs"], limits)
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way; its stub has a method there


def _bounded(schema: Any, limits: Limits) -> Any:
    """The schema, with the largest number of documents at every list that must not be empty."""
    if isinstance(schema, dict):
        most = {"maxItems": limits.documents} if "minItems" in schema else {}
        return {key: _bounded(value, limits) for key, value in schema.items()} | most
    return [_bounded(value, limits) for value in schema] if isinstance(schema, list) else schema
