"""Documents of requests: strings, or objects with fields to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from ..rank.documents import document_text
from .fields import TextDocument, as_integer
from .messages import RequestError
from .stored_documents import StoredDocuments

DocumentField = str | TextDocument
DOCUMENT_LISTS = ("documents", "items", "text_2", "data_2")  # fields of all forms that contain documents


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
    return getattr(document, name) if name in TextDocument.model_fields else (document.model_extra or {}).get(name)


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


def fill_texts(body: BaseModel, stored: StoredDocuments) -> None:
    """Give documents that name a document of the index the text of that document, as if the request contained it.

    `rank_fields` reads the fields that a request contains, so ids are not looked up beside it.

    Args:
        body: the request model, whose documents are changed.
        stored: the documents of the index.

    Raises:
        RequestError: an id is not in the index, or is neither a text nor a whole number.
    """
    if getattr(body, "rank_fields", None):
        return
    for name in DOCUMENT_LISTS:
        documents = getattr(body, name, None)
        for at, document in enumerate(documents if isinstance(documents, list) else [documents]):
            if isinstance(document, TextDocument) and _is_reference(document):
                document.text = _stored_text(document, at, name, stored)


def _is_reference(document: TextDocument) -> bool:
    """Whether a document has an id, but nothing to read."""
    return document.id is not None and all(_value(document, name) is None for name in ("text", "title", "content"))


def _stored_text(document: TextDocument, at: int, where: str, stored: StoredDocuments) -> str:
    name = as_integer(document.id)
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise RequestError("invalid", f"document {at}: its id must be a text or a whole number", where)
    text = stored.text(name)
    if text is None:
        message = f"document {at}: id {repr(name):.80} is not in the index of {len(stored):,} documents; send its text"
        raise RequestError("invalid", message, where)
    return text


def document_in_hit(document: DocumentField, text: str) -> dict[str, Any]:
    """Return a document for its hit: all fields of the request's document, and the scored text as `text`."""
    return ({} if isinstance(document, str) else document.model_dump(exclude_unset=True)) | {"text": text}
