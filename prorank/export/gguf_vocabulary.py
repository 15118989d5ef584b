"""Vocabulary and rerank template of a GGUF file, such that llama.cpp tokenises a prompt as PairPromptEncoder does.

llama.cpp puts query and document into the template and tokenises the whole text, in which it parses every control token. Texts
could spell control tokens and merge with the prompt's words. Two things prevent that: control tokens are renamed so that texts do
not spell them, and every token of the prompt's own text has a control token as its alias, with a copy of its embedding, so that no
token spans the border between prompt and text.

Source: `format_prompt_rerank` in llama.cpp's tools/server, `tokenizer_st_partition` in src/llama-vocab.cpp.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from gguf import TokenType

from ..errors import ModelError, PromptError
from ..prompts.pair_encoder import PairPromptEncoder
from ..prompts.sentinels import BREAK, ESCAPE
from ..prompts.slots import SLOT
from ..prompts.tokens import fixed_tokens
from .pair_template import DOCUMENTS, QUERIES

ATTRIBUTES = ("lstrip", "rstrip", "single_word")  # of added tokens; llama.cpp ignores them
SPLIT_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# llama.cpp's names of pre-tokenizers, by the type and the settings of their steps.
PRE_TOKENIZERS: dict[tuple[Any, ...], str] = {
    (("Digits", True), ("ByteLevel", False, True)): "smollm",
    (("Split", SPLIT_QWEN2, "Isolated", False), ("ByteLevel", False, False)): "qwen2",
}
SETTINGS = {
    "Digits": ("individual_digits",),
    "ByteLevel": ("add_prefix_space", "use_regex"),
    "Split": ("pattern", "behavior", "invert"),
}
# Settings of the BPE model with the only values that llama.cpp knows here.
PLAIN_BPE = {
    "dropout": (None,), "unk_token": (None,), "continuing_subword_prefix": (None, ""), "end_of_word_suffix": (None, ""),
    "byte_fallback": (False,), "ignore_merges": (False,),
}  # fmt: skip


@dataclass
class GgufVocabulary:
    """Tokens of a GGUF file.

    Attributes:
        pre: llama.cpp's name of the pre-tokenizer.
        normalizes: whether the tokenizer normalises texts to NFC, which llama.cpp does not.
        tokens: text of each token.
        types: type of each token.
        rows: embedding of each token, as a row of the model's embeddings.
        merges: merges of the BPE, in order of rank.
        template: the rerank template, with {query} and {document}.
    """

    pre: str
    normalizes: bool
    merges: list[str]
    tokens: list[str] = field(default_factory=list)
    types: list[TokenType] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    template: str = ""

    def add(self, text: str, kind: TokenType, row: int) -> None:
        """Append a token."""
        self.tokens.append(text)
        self.types.append(kind)
        self.rows.append(row)


def renamed(text: str) -> str:
    """Return the name of a control token in the file. It contains noncharacters of Unicode, which do not occur in texts."""
    return f"{ESCAPE}{text}{BREAK}"


def gguf_vocabulary(encoder: PairPromptEncoder, rows: int) -> GgufVocabulary:
    """Make the vocabulary and the rerank template for a prompt.

    Args:
        encoder: encoder of a prompt of one document that is answered at once.
        rows: number of the model's embeddings.

    Raises:
        ModelError: llama.cpp has no such tokenizer.
        PromptError: llama.cpp would tokenise the prompt in another way.
    """
    tokenizer = encoder.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise _unknown("it is not a fast tokenizer")
    values = json.loads(tokenizer.backend_tokenizer.to_str())
    _check_model(values["model"])
    merges = [one if isinstance(one, str) else " ".join(one) for one in values["model"]["merges"]]
    vocabulary = GgufVocabulary(_pre_tokenizer(values), _normalizes(values), merges)
    added = {one["id"]: one for one in values["added_tokens"]}
    _add_tokens(vocabulary, values["model"]["vocab"], added, rows, encoder.prompt.escape_special_tokens)
    vocabulary.template = _template(vocabulary, encoder, added)
    _verify(vocabulary, encoder, values)
    return vocabulary


def _unknown(why: str) -> ModelError:
    return ModelError(f"the tokenizer cannot be written to GGUF: {why}; use --format merged and convert it with llama.cpp")


def _check_model(model: dict[str, Any]) -> None:
    """Raise ModelError unless a tokenizer's model is a plain BPE."""
    if model["type"] != "BPE":
        raise _unknown(f"its model is {model['type']}, not BPE")
    for key, plain in PLAIN_BPE.items():
        if model.get(key, plain[0]) not in plain:
            raise _unknown(f"its BPE has {key}={model[key]!r}")


def _steps(value: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer, without those that remove marks (see `prorank.prompts.sentinels`)."""
    if value is None:
        return []
    if value["type"] == "Sequence":
        return [step for part in value[inner] for step in _steps(part, inner)]
    return [] if (value.get("pattern") or {}).get("String") in (ESCAPE, BREAK) else [value]


def _pre_tokenizer(values: dict[str, Any]) -> str:
    """Return llama.cpp's name of a tokenizer's pre-tokenizer. Raises ModelError if it has none."""
    kinds = []
    for step in _steps(values["pre_tokenizer"], "pretokenizers"):
        settings = [step[key] for key in SETTINGS.get(step["type"], ())]
        kinds.append((step["type"], *(one.get("Regex") if isinstance(one, dict) else one for one in settings)))
    name = PRE_TOKENIZERS.get(tuple(kinds))
    if name is None:
        shown = " + ".join(str(step[0]) for step in kinds) or "none"
        raise _unknown(f"its pre-tokenizer ({shown}) is not that of {' or '.join(PRE_TOKENIZERS.values())}")
    return name


def _normalizes(values: dict[str, Any]) -> bool:
    """Whether texts are normalised to NFC. Raises ModelError for any other normalizer."""
    kinds = [step["type"] for step in _steps(values["normalizer"], "normalizers")]
    if kinds not in ([], ["NFC"]):
        raise _unknown(f"its normalizer is {' + '.join(kinds)}")
    return bool(kinds)


def _add_tokens(vocabulary: GgufVocabulary, known: dict[str, int], added: dict[int, dict], rows: int, escapes: bool) -> None:
    """Add the model's tokens: those of the BPE, added ones, and unused ones for rows without token."""
    texts = {index: text for text, index in known.items()}
    for index in range(rows):
        one = added.get(index)
        if one is None:
            kind = TokenType.NORMAL if index in texts else TokenType.UNUSED
            vocabulary.add(texts.get(index, f"[PAD{index}]"), kind, index)
        elif one["special"] and escapes:
            vocabulary.add(renamed(one["content"]), TokenType.CONTROL, index)
        elif any(one[key] for key in ATTRIBUTES):
            raise _unknown(f"its token {one['content']!r} takes blanks or words around it")
        else:
            vocabulary.add(one["content"], TokenType.CONTROL if one["special"] else TokenType.USER_DEFINED, index)


def _template(vocabulary: GgufVocabulary, encoder: PairPromptEncoder, added: dict[int, dict]) -> str:
    """Return the rerank template, and add an alias for each token of the prompt's own text."""
    aliases: dict[int, str] = {}
    parts: list[str] = []
    for ids in _pieces(encoder):
        if isinstance(ids, str):
            parts.append(ids)
            continue
        for index in ids:
            if index not in added and index not in aliases:
                aliases[index] = renamed(vocabulary.tokens[index])
                vocabulary.add(aliases[index], TokenType.CONTROL, index)
            parts.append(aliases.get(index, vocabulary.tokens[index]))
    return "".join(parts)


def _pieces(encoder: PairPromptEncoder) -> Iterator[list[int] | str]:
    """Yield the parts of the prompt: ids of its own text, or a text with {query} or {document}.

    Raises:
        PromptError: the instruction contains a slot, which llama.cpp would fill.
    """
    instruction = encoder.instruction_text()
    if slot := SLOT.search(instruction):
        raise PromptError(f"prompt {encoder.prompt.name}: its instruction contains {slot[0]}; reword it")
    for segment in encoder.segments:
        if segment == "{instruction}":
            yield encoder.instruction_ids()
        elif SLOT.search(segment):
            yield segment.replace("{instruction}", instruction)
        else:
            yield fixed_tokens(encoder.tokenizer, segment)


def emulated_tokenizer(vocabulary: GgufVocabulary, values: dict[str, Any]) -> Any:
    """Make a tokenizer of `tokenizers` that tokenises as llama.cpp does with the vocabulary: it parses all control tokens.

    Args:
        vocabulary: the vocabulary.
        values: contents of the original `tokenizer.json`, for the pre-tokenizer.
    """
    from tokenizers import Tokenizer

    known = {text: index for index, text in enumerate(vocabulary.tokens)}
    parsed = [
        {"id": index, "content": text, "special": True, "normalized": False, **dict.fromkeys(ATTRIBUTES, False)}
        for index, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types))
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
    ]  # fmt: skip
    steps = _steps(values["pre_tokenizer"], "pretokenizers")
    changed = {
        "added_tokens": parsed, "normalizer": None, "post_processor": None, "truncation": None, "padding": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}, "model": values["model"] | {"vocab": known},
    }  # fmt: skip
    return Tokenizer.from_str(json.dumps(values | changed))


def _verify(vocabulary: GgufVocabulary, encoder: PairPromptEncoder, values: dict[str, Any]) -> None:
    """Raise PromptError unless difficult pairs get the encoder's ids from a tokenizer that works as llama.cpp's."""
    tokenizer = emulated_tokenizer(vocabulary, values)
    spelled = tuple(one["content"] for one in values["added_tokens"][:3])
    for query, document in product((*QUERIES, *spelled), (*DOCUMENTS, *spelled)):
        want = encoder.encode(query, document)
        if want.query_cut or want.document_cut:
            continue
        text = vocabulary.template.replace("{query}", query).replace("{document}", document)
        if [vocabulary.rows[index] for index in tokenizer.encode(text).ids] != want.ids:
            texts = f"{query!r} and {document!r}"
            raise PromptError(
                f"prompt {encoder.prompt.name}: llama.cpp would tokenise it in another way with texts such as {texts}; choose a "
                f"prompt with words between query and document, or use --format merged"
            )
