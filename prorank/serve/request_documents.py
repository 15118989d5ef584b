"""Documents of requests: strings, or objects of which some fields are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..rank.documents import document_text
from .fields import TextDocument
from .messages import RequestError

DocumentField = str | TextDocument


def texts_of(documents: Sequence[DocumentField], fields: Sequence[str] | None = None) -> list[str]:
    """Documents as they are read.

    Args:
        fields: names of what is read of objects, joined by blanks; None or none for title and text.

    Raises:
        Refused: an object without a text, a field that no object has, or a value that is neither a text nor a number.
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
        raise RequestError(
            "invalid", f"document {at} has no text; give it a field text, or name its fields in rank_fields", "documents"
        )
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
    """Texts of vLLM's form of a document, {"content": [{"type": "text", "text": ...}]}; none where a part is no text."""
    parts = _value(document, "content")
    if isinstance(parts, str):
        return [parts]
    found = [part.get("text") if isinstance(part, dict) else None for part in parts] if isinstance(parts, list) else []
    texts = [text for text in found if isinstance(text, str)]
    return texts if len(texts) == len(found) else []


def shown(document: DocumentField, text: str) -> dict[str, Any]:
    """A document as a hit shows it: all fields that it came with, and `text` as it was read."""
    return ({} if isinstance(document, str) else document.model_dump(exclude_unset=True)) | {"text": text}
