"""Field types that the dialects share, and the fields that we add to each.

Hard fact: unknown fields are ignored and wrong types are refused, never converted: "3" is no number and 1 is no truth value; 3.0 is
3, as in JSON it is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Text = Annotated[str, Strict()]
Flag = Annotated[bool, Strict()]
Count = Annotated[int, Field(ge=0), Strict(), BeforeValidator(_whole)]
CountOrAll = Annotated[int, Field(ge=-1), Strict(), BeforeValidator(_whole)]
# What a blank query and an empty list are told is the dialect's to say, so these two are told to the document alone.
# (Some patterns' \S takes the separators of ASCII and U+0085 for letters; to Python they are blanks.)
Query = Annotated[Text, Field(json_schema_extra={"minLength": 1, "pattern": r"[^\s\x1c-\x1f\x85]"})]
MANY = {"minItems": 1}


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
    return_thoughts: Flag = Field(False, description="Answer with what a thinking model thought of each document.")


class TextDocument(Body):
    """A document as an object; a title is read before the text."""

    text: Text
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
