"""Field types that the dialects share, and the fields that we add to each.

Unknown fields are ignored and wrong types are refused, never converted: "3" is no number and 1 is no truth value; 3.0 is
3, as in JSON it is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError, WrapValidator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def undone(why: str) -> WrapValidator:
    """Marks a field that asks for what is not done here; its type takes the values alone that ask for nothing."""

    def check(value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("not_done", why) from None

    return WrapValidator(check)


# Fields that clients send and that change no score here: taken with any value. docs/serve.md lists them.
HARMLESS = frozenset((
    "user", "priority", "request_id", "cache_salt", "padding", "mm_processor_kwargs", "media_io_kwargs", "encoding_format",
    "return_len", "model",
))  # fmt: skip
Text = Annotated[str, Strict()]
Flag = Annotated[bool, Strict()]
Count = Annotated[int, Field(ge=0), Strict(), BeforeValidator(_whole)]
CountOrAll = Annotated[int, Field(ge=-1), Strict(), BeforeValidator(_whole)]
# What a blank query and an empty list are told is the dialect's to say, so these two are told to the document alone.
# (Some patterns' \S takes the separators of ASCII and U+0085 for letters; to Python they are blanks.)
Query = Annotated[Text, Field(json_schema_extra={"minLength": 1, "pattern": r"[^\s\x1c-\x1f\x85]"})]
MANY: JsonDict = {"minItems": 1}
OWN_PROMPT = "the prompt is the checkpoint's own; use instruction, or leave it out"


class Body(BaseModel):
    """A request."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class Ours(Body):
    """Fields of ours that every dialect takes."""

    instruction: Text | None = Field(None, description="What to look for, in place of the prompt's own instruction.")
    max_tokens_per_doc: Count | None = Field(None, description="Tokens read of a document; 0 or null: all there is room for.")
    long_documents: Literal["truncate", "chunk"] | None = Field(
        None, description='"chunk" reads a long document in overlapping parts; the best of them counts.'
    )
    raw_scores: Flag | None = Field(None, description="Answer with log-odds in place of 0..1.")
    return_thoughts: Flag | None = Field(None, description="Answer with what a thinking model thought of each document.")
    return_embeddings: Annotated[Literal[False] | None, undone("no embeddings are given here; leave it out")] = None
    chat_template: Annotated[None, undone(OWN_PROMPT)] = None
    chat_template_kwargs: Annotated[Annotated[dict[str, Any], Field(max_length=0)] | None, undone(OWN_PROMPT)] = None
    score_threshold: Annotated[None, undone("no hits are left out by score here; leave out those below it in the answer")] = None


class NoSpans(Body):
    """The setting of Cohere's spans that asks for none."""

    mode: Literal["disabled"]


class Ranked(Ours):
    """Fields of the dialects that answer best first."""

    top_n: Count | None = Field(None, description="Null, 0 or absent: all.")
    top_k: Count | None = Field(None, description="The same as top_n.")
    rank_fields: list[Text] | None = Field(
        None, description="Fields of documents given as objects that are read, joined by blanks; title and text by default."
    )
    max_chunks_per_doc: Count | None = Field(None, description='Above 1: as long_documents "chunk", with so many parts at most.')
    truncation: Flag | None = Field(None, description="false refuses texts that would be cut.")
    relevant_spans: Annotated[NoSpans | None, undone("no spans are given here; leave it out")] = None


class TextDocument(Body):
    """A document as an object; a title is read before the text, other fields where `rank_fields` names them."""

    model_config = ConfigDict(extra="allow")

    text: Text | None = None
    title: Text | None = None


class OurHit(BaseModel):
    """What a hit has besides in each dialect, where it was asked for."""

    probability: float | None = Field(None, description="Only beside log-odds, of a calibrated model.")
    thought: str | None = Field(None, description="Only where return_thoughts asked for it.")
    thought_cut: bool | None = Field(None, description="Whether the thought was closed when its budget ran out.")


class Usage(BaseModel):
    """Tokens of all prompts."""

    prompt_tokens: int
    total_tokens: int
