"""A Prompt baked into a tokenizer: plain `tokenizer(query, document)` then gives the Prompt's ids, in any library.

A pair template puts ids around the texts' own tokens and knows no more, so a Prompt fits into one only where the tokens
of its words end where those of the texts begin; that is tried on hard texts before it is believed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from ..errors import PromptError
from ..prompts.pair_encoder import PairPromptEncoder
from ..prompts.sentinels import heed_marks
from ..prompts.slots import SLOT
from ..prompts.tokens import fixed_tokens, free_tokens

# Texts that melt into their neighbours where they can: blanks, breaks, digits, marks at their ends.
QUERIES = ("garden", "what is it?", " 1", "e\n", "a \n", "42.", "\u0301x", "Grüße, 图书馆 🦊", "'s")
DOCUMENTS = (*QUERIES, "", " ", "\n\n1\n", "\u0338", "the old river is near the garden. " * 3)
REMEDY = "export it with --no-template and render the texts by the chat template, or choose a prompt whose query stands alone"


@dataclass(frozen=True)
class PairTemplate:
    """`parts`: ids, or "A" for the query and "B" for the document, in order. `lead`: what is put before a text ("" or a blank).
    `room`: tokens of a pair at most; beyond it the document is cut."""

    parts: list[list[int] | str]
    lead: str
    room: int


def pair_template(bound: PairPromptEncoder) -> PairTemplate:
    """The pair template of a prompt of one document, with its default instruction. Raises PromptError where there is none."""
    parts, leads = [], set()
    for segment in bound.segments:
        before, text, lead = _pieces(bound, segment)
        parts += [ids for ids in (before, text) if ids]
        leads |= {lead} if text else set()
    if len(leads) > 1:
        raise PromptError(f"prompt {bound.prompt.name}: a blank stands before one text and none before the other; {REMEDY}")
    return PairTemplate(parts, leads.pop(), room_of(bound))


def _pieces(bound: PairPromptEncoder, segment: str) -> tuple[list[int], str, str]:
    """(ids, "A", "B" or "" for the text behind them, the blank before that text) of a segment."""
    if not SLOT.search(segment):
        return fixed_tokens(bound.tokenizer, segment), "", ""
    if segment == "{instruction}":
        return bound.instruction_ids(), "", ""
    text = segment.replace("{instruction}", bound.instruction_text())
    slot = "{query}" if "{query}" in text else "{document}"
    before, _, after = text.partition(slot)
    if after or SLOT.search(before):
        raise PromptError(f"prompt {bound.prompt.name}: tokens of its words reach into those of the {slot} before them; {REMEDY}")
    lead = " " if before.endswith(" ") else ""
    ids = free_tokens(bound.tokenizer, [before.removesuffix(" ")], bound.prompt.escape_special_tokens)[0] if before else []
    return ids, "A" if slot == "{query}" else "B", lead


def room_of(bound: PairPromptEncoder) -> int:
    """Tokens of a pair at most. Libraries count a repeated query once, so its largest length is set aside for each repetition."""
    return bound.longest - (bound.repeats - 1) * bound.query_limit()


def baked(bound: PairPromptEncoder, pad: str) -> Any:
    """A tokenizer of transformers whose pairs are the Prompt's ids; single texts get nothing around them.

    Args:
        bound: a prompt of one document, bound to a fast tokenizer.
        pad: the token to pad with.

    Raises:
        PromptError: a pair template cannot say what the Prompt does.
    """
    template = pair_template(bound)
    tokenizer = _wrapped(_backend(bound.tokenizer, template), pad, template.room, bound.prompt.escape_special_tokens)
    _try(bound, tokenizer, template.lead)
    # Last, because each call of the tokenizer sets its own: what libraries find that read tokenizer.json alone.
    tokenizer.backend_tokenizer.enable_truncation(template.room, strategy="only_second")
    return tokenizer


def rendering(bound: PairPromptEncoder, pad: str) -> Any:
    """A tokenizer of transformers that adds nothing to texts, with the Prompt as its chat template: for texts that are rendered
    first, in which special tokens count where the template put them (see `marks`)."""
    tokenizer = _wrapped(_backend(bound.tokenizer, PairTemplate(["A", "B"], "", bound.longest)), pad, bound.longest, False)
    if bound.prompt.escape_special_tokens:
        heed_marks(tokenizer)
    tokenizer.chat_template = bound.chat_template(escapes=bound.prompt.escape_special_tokens)
    return tokenizer


def _wrapped(inner: Any, pad: str, room: int, escape_special_tokens: bool) -> Any:
    """The plain class, which takes tokenizer.json as it is; those of single models would put their own template into it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=pad, model_max_length=room, padding_side="right",
        split_special_tokens=escape_special_tokens,
        clean_up_tokenization_spaces=False, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def _backend(tokenizer: Any, template: PairTemplate) -> Any:
    """A copy of the tokenizer's inner one with the template behind it."""
    from tokenizers import Tokenizer, normalizers, processors

    inner = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    pair, special = [], []
    for i, part in enumerate(template.parts):
        if isinstance(part, str):
            pair.append(f"${part}")
            continue
        pair.append(f"prompt{i}")
        special.append({"id": f"prompt{i}", "ids": part, "tokens": tokenizer.convert_ids_to_tokens(part)})
    inner.post_processor = processors.TemplateProcessing(single="$A", pair=" ".join(pair), special_tokens=special)
    if template.lead:
        before = [inner.normalizer] if inner.normalizer else []
        inner.normalizer = normalizers.Sequence([*before, normalizers.Prepend(template.lead)])
    inner.no_padding()
    inner.no_truncation()
    return inner


def _try(bound: PairPromptEncoder, tokenizer: Any, lead: str) -> None:
    """Raise PromptError unless hard pairs get the Prompt's ids. An empty document may differ where a blank is put before texts: the
    normalizer leaves empty texts as they are."""
    for query, document in product(QUERIES, DOCUMENTS if not lead else filter(None, DOCUMENTS)):
        want = bound.encode(query, document)
        if want.query_cut or want.document_cut:
            continue
        if tokenizer([query], [document])["input_ids"] != [want.ids]:  # alone, an empty document would pass for none
            texts = f"{query!r} and {document!r}"
            raise PromptError(f"prompt {bound.prompt.name}: its words share tokens with texts such as {texts} here; {REMEDY}")
