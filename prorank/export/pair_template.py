"""Make a Prompt part of a tokenizer, so that `tokenizer(query, document)` returns the Prompt's ids in any library.

A pair template inserts fixed ids before and after the tokens of the texts. This is possible if no token spans the border between
the prompt and a text, which is verified on difficult texts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..errors import PromptError
from ..prompts.pair_encoder import PairPromptEncoder
from ..prompts.sentinels import heed_marks
from ..prompts.slots import SLOT
from ..prompts.tokens import fixed_tokens, free_tokens

# Texts that tokenizers tend to merge with their neighbours: spaces, line breaks, digits, combining marks at their ends.
QUERIES = ("garden", "what is it?", " 1", "e\n", "a \n", "42.", "\u0301x", "Grüße, 图书馆 🦊", "'s")
DOCUMENTS = (*QUERIES, "", " ", "\n\n1\n", "\u0338", "the old river is near the garden. " * 3)
REMEDY = "use --no-template and render the texts with the chat template, or choose a prompt whose query is a separate segment"


@dataclass(frozen=True)
class PairTemplate:
    """A Prompt as a pair template of `tokenizers`.

    Attributes:
        parts: lists of ids, "A" for the query and "B" for the document, in order.
        lead: text before the query and before the document, "" or a space.
        max_tokens: maximum number of tokens of a pair, to which the document is truncated.
    """

    parts: list[list[int] | str]
    lead: str
    max_tokens: int


def pair_template(encoder: PairPromptEncoder) -> PairTemplate:
    """Make the pair template of a prompt of one document, with its default instruction.

    Raises:
        PromptError: a pair template cannot express the prompt.
    """
    parts, leads = [], set()
    for segment in encoder.segments:
        before, text, lead = _pieces(encoder, segment)
        parts += [ids for ids in (before, text) if ids]
        leads |= {lead} if text else set()
    if len(leads) > 1:
        raise PromptError(f"prompt {encoder.prompt.name}: a space precedes one text and not the other; {REMEDY}")
    return PairTemplate(parts, leads.pop(), max_pair_tokens(encoder))


def _pieces(encoder: PairPromptEncoder, segment: str) -> tuple[list[int], str, str]:
    """Return (ids of a segment, "A", "B" or "" for the text that follows them, the space before that text)."""
    if not SLOT.search(segment):
        return fixed_tokens(encoder.tokenizer, segment), "", ""
    if segment == "{instruction}":
        return encoder.instruction_ids(), "", ""
    text = segment.replace("{instruction}", encoder.instruction_text())
    slot = "{query}" if "{query}" in text else "{document}"
    before, _, after = text.partition(slot)
    if after or SLOT.search(before):
        raise PromptError(f"prompt {encoder.prompt.name}: tokens of its words merge with those of the {slot} before them; {REMEDY}")
    lead = " " if before.endswith(" ") else ""
    ids = free_tokens(encoder.tokenizer, [before.removesuffix(" ")], encoder.prompt.escape_special_tokens)[0] if before else []
    return ids, "A" if slot == "{query}" else "B", lead


def max_pair_tokens(encoder: PairPromptEncoder) -> int:
    """Return the maximum number of tokens of a pair, as libraries count them.

    They count a repeated query once, so its maximum length is reserved for each repetition.
    """
    return encoder.longest - (encoder.repeats - 1) * encoder.query_limit()


def baked_tokenizer(encoder: PairPromptEncoder, pad: str) -> Any:
    """Make a transformers tokenizer whose pairs get the Prompt's ids. Single texts get no additional ids.

    Args:
        encoder: encoder of a prompt of one document, with a fast tokenizer.
        pad: the padding token.

    Raises:
        PromptError: a pair template cannot express the prompt.
    """
    template = pair_template(encoder)
    tokenizer = _wrapped(_backend(encoder.tokenizer, template), pad, template.max_tokens, encoder.prompt.escape_special_tokens)
    _verify(encoder, tokenizer, template.lead)
    # For libraries that read tokenizer.json only. Set last, because each call of the tokenizer overwrites it.
    tokenizer.backend_tokenizer.enable_truncation(template.max_tokens, strategy="only_second")
    return tokenizer


def plain_tokenizer(encoder: PairPromptEncoder, pad: str) -> Any:
    """Make a transformers tokenizer that adds nothing to texts, with the Prompt as its chat template.

    It is for rendered prompts. Special tokens are recognised only if the template inserted them (see `prompts.sentinels`).

    Args:
        encoder: encoder of a prompt of one document, with a fast tokenizer.
        pad: the padding token.
    """
    tokenizer = _wrapped(_backend(encoder.tokenizer, PairTemplate(["A", "B"], "", encoder.longest)), pad, encoder.longest, False)
    if encoder.prompt.escape_special_tokens:
        heed_marks(tokenizer)
    tokenizer.chat_template = encoder.chat_template(escapes=encoder.prompt.escape_special_tokens)
    return tokenizer


def _wrapped(inner: Any, pad: str, max_tokens: int, escape_special_tokens: bool) -> Any:
    """Wrap a tokenizer of `tokenizers` in the generic class of transformers; others add their own template."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=pad, model_max_length=max_tokens, padding_side="right",
        split_special_tokens=escape_special_tokens,
        clean_up_tokenization_spaces=False, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def _backend(tokenizer: Any, template: PairTemplate) -> Any:
    """Return a copy of the tokenizer's backend with the template as its post-processor.

    Each id of the prompt is a special token of its own, named as in the vocabulary: tokenizers in JavaScript insert the name of a
    special token and not its ids.
    """
    from tokenizers import Tokenizer, normalizers

    values = json.loads(tokenizer.backend_tokenizer.to_str())
    pair: list[dict[str, Any]] = []
    special: dict[str, dict[str, Any]] = {}
    for part in template.parts:
        if isinstance(part, str):
            pair.append({"Sequence": {"id": part, "type_id": 0}})
            continue
        for token, number in zip(tokenizer.convert_ids_to_tokens(part), part):
            pair.append({"SpecialToken": {"id": token, "type_id": 0}})
            special[token] = {"id": token, "ids": [number], "tokens": [token]}
    single = [{"Sequence": {"id": "A", "type_id": 0}}]
    values["post_processor"] = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
    inner = Tokenizer.from_str(json.dumps(values))
    if template.lead:
        before = [inner.normalizer] if inner.normalizer else []
        inner.normalizer = normalizers.Sequence([*before, normalizers.Prepend(template.lead)])
    inner.no_padding()
    inner.no_truncation()
    return inner


def _verify(encoder: PairPromptEncoder, tokenizer: Any, lead: str) -> None:
    """Raise PromptError unless difficult pairs get the Prompt's ids.

    Empty documents are not tested if a space precedes texts, as the normalizer leaves empty texts unchanged.
    """
    for query, document in product(QUERIES, DOCUMENTS if not lead else filter(None, DOCUMENTS)):
        want = encoder.encode(query, document)
        if want.query_cut or want.document_cut:
            continue
        if tokenizer([query], [document])["input_ids"] != [want.ids]:  # as a plain string, an empty document counts as missing
            texts = f"{query!r} and {document!r}"
            raise PromptError(f"prompt {encoder.prompt.name}: its words share tokens with texts such as {texts}; {REMEDY}")
