"""Field types that the dialects share, and the fields that this server adds to each dialect.

Unknown fields are ignored. Wrong types are errors and never converted: "3" is not a number and 1 is not a boolean. But 3.0 is the
integer 3, as in JSON.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError, WrapValidator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError


def as_integer(value: Any) -> Any:
    """Return a float without a fraction as an int; other values unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def unsupported(message: str) -> WrapValidator:
    """Mark a field of a feature that this server lacks. The field's type allows only the values that switch the feature off.

    Args:
        message: error message for all other values.
    """

    def check(value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("not_done", message) from None

    return WrapValidator(check)


# Fields of clients that have no effect here. Any value is accepted. docs/guides/serve.md lists them.
HARMLESS = frozenset((
    "user", "priority", "request_id", "cache_salt", "padding", "mm_processor_kwargs", "media_io_kwargs", "encoding_format",
    "return_len", "model",
))  # fmt: skip
Text = Annotated[str, Strict()]
Flag = Annotated[bool, Strict()]
Count = Annotated[int, Field(ge=0), Strict(), BeforeValidator(as_integer)]
CountOrAll = Annotated[int, Field(ge=-1), Strict(), BeforeValidator(as_integer)]
# Each dialect has its own error for a blank query and an empty list, so these two constraints are in the OpenAPI schema only.
# (Python counts the ASCII separators and U+0085 as whitespace, which \S in other regular expressions does not.)
Query = Annotated[Text, Field(json_schema_extra={"minLength": 1, "pattern": r"[^\s\x1c-\x1f\x85]"})]
NON_EMPTY: JsonDict = {"minItems": 1}
FIXED_PROMPT = "the prompt belongs to the checkpoint; use instruction, or omit the field"


class RequestBody(BaseModel):
    """Base of all request models."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class CommonFields(RequestBody):
    """Fields that this server adds to every dialect."""

    instruction: Text | None = Field(None, description="What to look for; replaces the instruction of the prompt.")
    max_tokens_per_doc: Count | None = Field(None, description="Maximum tokens of a document; 0 or null for as many as fit.")
    long_documents: Literal["truncate", "chunk"] | None = Field(
        None,
        description='"chunk" reads a long document in overlapping chunks, of which the best gives its score; "truncate" reads its '
        "beginning. By default as the server was started: in chunks.",
    )
    raw_scores: Flag | None = Field(None, description="Answer with log-odds instead of values in 0..1.")
    return_thoughts: Flag | None = Field(None, description="Add the thoughts of a thinking model.")
    return_embeddings: Annotated[Literal[False] | None, unsupported("this server returns no embeddings; omit the field")] = None
    chat_template: Annotated[None, unsupported(FIXED_PROMPT)] = None
    chat_template_kwargs: Annotated[Annotated[dict[str, Any], Field(max_length=0)] | None, unsupported(FIXED_PROMPT)] = None
    score_threshold: Annotated[None, unsupported("this server does not filter hits by score; filter them in the answer")] = None


class NoSpans(RequestBody):
    """The value of Cohere's `relevant_spans` that switches spans off."""

    mode: Literal["disabled"]


class RankingFields(CommonFields):
    """Fields of the dialects that answer best first."""

    top_n: Count | None = Field(None, description="Number of hits; null, 0 or absent for all.")
    top_k: Count | None = Field(None, description="The same as top_n.")
    rank_fields: list[Text] | None = Field(
        None, description="Fields to read of documents given as objects, joined by spaces; by default title and text."
    )
    max_chunks_per_doc: Count | None = Field(
        None, description='The same as long_documents "chunk", with at most this number of chunks; 1 truncates.'
    )
    truncation: Flag | None = Field(None, description="false refuses a request with a text that would be truncated.")
    relevant_spans: Annotated[NoSpans | None, unsupported("this server returns no spans; omit the field")] = None


class TextDocument(RequestBody):
    """A document as an object. The title is read before the text; `rank_fields` names other fields to read.

    If the server has an index, an object with an `id` and no text names a document of it.
    """

    model_config = ConfigDict(extra="allow")

    id: Any = Field(None, description="A text or a whole number. Without a text: the id of a document in the server's index.")
    text: Text | None = None
    title: Text | None = None


class HitFields(BaseModel):
    """Fields that this server adds to a hit of every dialect."""

    probability: float | None = Field(None, description="Only with log-odds of a calibrated model.")
    thought: str | None = Field(None, description="Only with return_thoughts.")
    thought_cut: bool | None = Field(None, description="Whether the thought was stopped because its budget ran out.")


class Usage(BaseModel):
    """Tokens of all prompts."""

    prompt_tokens: int
    total_tokens: int
