"""Documents of requests: strings, or objects with fields to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..rank.documents import document_text
from .fields import TextDocument
from .messages import RequestError

DocumentField = str | TextDocument


def texts_of(documents: Sequence[DocumentField], fields: Sequence[str] | None = None) -> list[str]:
    """Return the text of each document.

    Args:
        documents: strings or objects.
        fields: names of the fields to read of objects, joined by spaces; None or empty for title and text.

    Raises:
        RequestError: an object has no text, no object has one of the fields, or a value is neither a string nor a number.
    """
    objects = [document for document in documents if not isinstance(document, str)]
    for at, name in enumerate(fields or ()):
        if objects and not any(_value(document, name) is not None for document in objects):
            raise RequestError("invalid", f"no document has the field that rank_fields.{at} names", "rank_fields")
    return [each if isinstance(each, str) else _text(each, at, fields) for at, each in enumerate(documents)]


def _text(document: TextDocument, at: int, fields: Sequence[str] | None) -> str:
    if fields:
        values = [_readable(value, at) for name in fields if (value := _value(document, name)) is not None]
    elif document.text is not None:
        return document_text({"text": document.text, "title": document.title})
    else:
        values = _contents(document)
    if not values:
        message = f"document {at} has no text; add a field text, or name its fields in rank_fields"
        raise RequestError("invalid", message, "documents")
    return " ".join(values).strip()


def _value(document: TextDocument, name: str) -> Any:
    return (document.model_extra or {}).get(name) if name not in ("text", "title") else getattr(document, name)


def _readable(value: Any, at: int) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise RequestError("invalid", f"document {at}: a field of rank_fields is neither a text nor a number", "documents")


def _contents(document: TextDocument) -> list[str]:
    """Return the texts of vLLM's form, {"content": [{"type": "text", "text": ...}]}; none if any part is not text."""
    parts = _value(document, "content")
    if isinstance(parts, str):
        return [parts]
    values = [part.get("text") if isinstance(part, dict) else None for part in parts] if isinstance(parts, list) else []
    texts = [value for value in values if isinstance(value, str)]
    return texts if len(texts) == len(values) else []


def document_in_hit(document: DocumentField, text: str) -> dict[str, Any]:
    """Return a document for its hit: all fields of the request's document, and the scored text as `text`."""
    return ({} if isinstance(document, str) else document.model_dump(exclude_unset=True)) | {"text": text}
