"""Settings of a prompt: fields, validation, and saving.

Encoders, export and calibration depend on this module only.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from ..errors import PromptError, nearest
from ..utils.files import atomic_file
from .slots import SLOT

Kind = Literal["binary", "thinking", "setwise", "listwise"]
Order = Literal["query-first", "document-first"]
LengthCounts = Literal["whole", "content"]
CONFIG = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

# Descriptions of valid values, for messages; every other field is a text.
EXPECTED = {
    "template": "a text or a list of texts",
    "answers": "two different, non-empty texts (not relevant, relevant)",
    "max_length": "a whole number of at least 16 tokens",
    "chunk_length": "a whole number of at least 16 tokens, or none",
    "max_think_tokens": "a whole number of at least 1",
    "query_share": "a number between 0 and 1",
    "escape_special_tokens": "true or false",
}


def _as_tuple(value: Any) -> Any:
    """Convert a list from YAML or JSON to a tuple; return any other value unchanged."""
    return tuple(value) if isinstance(value, list) else value


Answer = Annotated[str, Field(min_length=1)]
Segments = Annotated[tuple[str, ...], Field(min_length=1)]


@dataclass(frozen=True, config=CONFIG)
class PromptSettings:
    """The fields of a prompt. `Prompt` adds reading them and binding them to a tokenizer.

    Raises:
        PromptError: a field has a wrong type or value, or the template lacks a slot. The message names the key.
    """

    name: str = "prorank"
    """Preset that the prompt came from, for display."""

    kind: Kind = "binary"
    """What the model answers. "binary": one of two answer tokens. "thinking": a thought first, then the answer:
    `<think>…</think><answer>…</answer>`. "setwise": the label of the best of several documents, one token. "listwise": the order of
    several documents, in writing: `[2] > [1]`."""

    order: Order = "query-first"
    """"query-first": the query comes before the document, so that documents share it as a prefix. "document-first": the query
    comes after the document only, so that queries can share the document."""

    system: str = "Judge whether the document is relevant to the query: 1 if it is, 0 if it is not."
    """Text of the system turn."""

    user: str = "{instruction}Query:{open}{query}{close}\nDocument:{open}{document}{close}\nRelevant?"
    """Text of the user's turn, with the slots {instruction}, {query} and {document}; {query} may come again after the document.
    Prompts that show several documents have {documents} in place of {document}: kinds "setwise" and "listwise" always, "thinking"
    optionally. {open} and {close} become the special tokens `<|im_start|>` and `<|im_end|>` if the tokenizer has them, otherwise a
    blank and nothing."""

    instruction_format: str = "Instruction:{open}{instruction}{close}\n"
    """Text that replaces {instruction} if there is an instruction; otherwise {instruction} is removed."""

    instruction: str = ""
    """Default instruction, "" for none."""

    template: Annotated[str | Segments, BeforeValidator(_as_tuple)] = "auto"
    """"auto" renders `system` and `user` by the tokenizer's chat template, or as plain text if it has none. A text with slots is
    taken literally. A list of texts is literal too; each text is tokenised as one piece."""

    answers: Annotated[tuple[Answer, Answer], BeforeValidator(_as_tuple)] = ("0", "1")
    """(not relevant, relevant), each a single token in its place."""

    max_length: Annotated[int, Field(ge=16)] = 512
    """Maximum number of tokens, counted as `length_counts` says."""

    chunk_length: Annotated[int, Field(ge=16)] | None = None
    """Maximum number of tokens of a document in one prompt, about as many as in training; None for as many as `max_length` leaves.
    Longer documents are read in chunks or cut (`long_documents`)."""

    query_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Largest share of `max_length` that the query may take."""

    length_counts: LengthCounts = "whole"
    """What `max_length` counts. "whole": the whole prompt. "content": query and document only, which is the rule of the released
    mxbai models."""

    document_format: str = "[{label}] {document}"
    """How each of several documents is shown: {label} and {document}, optionally {query} and {label} again after it, {open} and
    {close} as in `user`. Documents are joined by line breaks."""

    max_think_tokens: Annotated[int, Field(ge=1)] = 200
    """Maximum number of tokens of a thought (kind "thinking"), after which it is closed."""

    escape_special_tokens: bool = True
    """Tokenise special tokens that users' texts spell as plain text."""

    @model_validator(mode="wrap")
    @classmethod
    def _with_prompt_errors(cls, values: Any, handler: Any) -> Any:
        """Validate the fields, and report the first error as a PromptError."""
        try:
            return handler(values)
        except ValidationError as error:
            raise PromptError(_message(error.errors(include_url=False)[0])) from error

    @model_validator(mode="after")
    def _check_texts(self) -> PromptSettings:
        if self.answers[0] == self.answers[1]:
            raise PromptError(
                f"prompt key 'answers': the two answers are the same, {self.answers[0]!r}; expected two different texts"
            )
        (self._check_list if self.lists else self._check_pair)(self._text)
        return self

    @property
    def _text(self) -> str:
        """Return the text that contains the slots."""
        return self.user if self.template == "auto" else "".join(self.template)

    @property
    def lists(self) -> bool:
        """Whether the prompt shows several documents."""
        return self.kind in ("setwise", "listwise") or (self.kind == "thinking" and "{documents}" in self._text)

    def _check_list(self, text: str) -> None:
        """Raise PromptError for slots that a prompt of several documents cannot have."""
        if self.order != "query-first":
            raise PromptError(
                f"prompt key 'order' must be 'query-first' for prompts of kind {self.kind} that show several documents"
            )
        if text.count("{documents}") != 1 or "{document}" in text:
            raise PromptError(f"the template of a {self.kind} prompt must hold {{documents}}, exactly once: {text[:80]!r}")
        if "{query}" not in text:
            raise PromptError(f"the template must hold {{query}}: {text[:80]!r}")
        before, *after = self.document_format.split("{document}")
        wrong = "must hold {document} exactly once" if len(after) != 1 else ""
        if not wrong and before.count("{label}") != 1:
            named = "{label}" in after[0] and not before.count("{label}")
            wrong = f"must {'name {label}' if named else 'hold {label} exactly once'} before {{document}}"
        if wrong:
            raise PromptError(f"prompt key 'document_format' {wrong}: {self.document_format!r}")

    def _check_pair(self, text: str) -> None:
        """Raise PromptError for slots that a prompt of one document cannot have."""
        if "{documents}" in text:
            kinds = "kind setwise, listwise or thinking"
            raise PromptError(f"{{documents}} is for prompts of {kinds}, and this one is {self.kind}: {text[:80]!r}")
        if text.count("{document}") != 1:
            raise PromptError(f"the template must hold {{document}} exactly once: {text[:80]!r}")
        if "{query}" not in text:
            raise PromptError(f"the template must hold {{query}}: {text[:80]!r}")
        before, after = text.split("{document}")
        if self.order == "document-first":
            if "{query}" in before or after.count("{query}") != 1:
                raise PromptError("a prompt with order: document-first must hold {query} exactly once, after {document}")
        elif "{query}" not in before:
            raise PromptError(
                "the template must place {query} before {document}, so that documents share their prefix "
                "(it may come again after it), or set order: document-first"
            )
        elif before.count("{query}") != 1:
            raise PromptError("the template must hold {query} exactly once before {document}")
        if "{instruction}" in after:
            raise PromptError("the template must place {instruction} before {document}, so that documents share their prefix")
        if self.template != "auto" and not isinstance(self.template, str):
            joint = next(s for s in self.template if "{document}" in s)
            if len(SLOT.findall(joint)) > 1:
                raise PromptError(f"{{document}} must be the only slot of its segment, so that it alone is cut: {joint[:80]!r}")

    def save(self, folder: str | Path) -> None:
        """Write `prompt.json` into `folder`."""
        with atomic_file(Path(folder) / "prompt.json") as handle:
            json.dump(asdict(self), handle, indent=2, ensure_ascii=False)

    def fingerprint(self) -> str:
        """Twelve hex digits that change whenever a setting changes; settings that are None do not count."""
        values = {key: value for key, value in asdict(self).items() if value is not None}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _message(fault: ErrorDetails) -> str:
    """Return a message with the key, the value and what is expected."""
    key, *inner = fault["loc"]
    if fault["type"] == "unexpected_keyword_argument":
        return f"prompt: unknown key '{key}'{nearest(str(key), FIELDS)}"
    place = f"{key}{''.join(f'[{index}]' for index in inner if isinstance(index, int))}"
    value = repr(fault["input"])[:80]
    if fault["type"] == "literal_error":
        choices = fault["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return f"prompt key '{place}' is {value}, which is not known{nearest(str(fault['input']), choices)}"
    return f"prompt key '{place}' is {value}; expected {EXPECTED.get(str(key), 'a text')}"


FIELDS = tuple(field.name for field in fields(PromptSettings))
