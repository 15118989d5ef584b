"""Marks in a rendered chat template that let other libraries tokenise a prompt as PairPromptEncoder does.

Other libraries render the chat template and tokenise the whole text. They would parse special tokens that a document contains, and
merge white space at the ends of a text with the template. Therefore the saved template inserts ESCAPE into special tokens in texts
and BREAK around texts that begin or end with white space. The saved tokenizer removes both after it has matched special tokens.
Both marks are Unicode noncharacters, which do not occur in text.
"""

from __future__ import annotations

from typing import Any

from .slots import SLOT, split
from .template import quoted

VARIABLES = {"query": "query", "document": "document", "instruction": "system"}  # template variable by slot
ESCAPE = "\ufdd0"  # inserted into special tokens in texts; removed by the normalizer
BREAK = "\ufdd1"  # inserted where no token may span; removed by the pre-tokenizer
PICK = (
    "{%- set ns = namespace(system=none, query='', document='') -%}"
    "{%- for m in messages -%}{%- set c = m['content'] if m['content'] is string else m['content'][0]['text'] -%}"
    "{%- if m['role'] == 'system' -%}{%- set ns.system = c -%}{%- elif m['role'] == 'document' -%}"
    "{%- set ns.document = c -%}{%- else -%}{%- set ns.query = c -%}{%- endif -%}{%- endfor -%}"
)  # the messages' texts by role


def special_texts(tokenizer: Any) -> list[str]:
    """Return the special tokens that a text can spell."""
    return sorted({token.content for token in tokenizer.added_tokens_decoder.values() if token.special and len(token.content) > 1})


def heed_marks(tokenizer: Any) -> None:
    """Make a fast tokenizer remove the marks, in place. Slow tokenizers, and fast ones that do so already, are left unchanged."""
    from tokenizers import normalizers, pre_tokenizers

    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is None or drops_breaks(tokenizer):
        return
    inner.normalizer = normalizers.Sequence([normalizers.Replace(ESCAPE, ""), *filter(None, [inner.normalizer])])
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(BREAK, "removed"), *filter(None, [inner.pre_tokenizer])])


def drops_breaks(tokenizer: Any) -> bool:
    """Whether a tokenizer removes the marks."""
    marked, plain = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (f"a{BREAK}", "a"))
    return marked == plain


def escaping(specials: list[str]) -> str:
    """Jinja code that inserts ESCAPE into every special token in the query, document or instruction."""
    if not specials:
        return ""
    each = "".join(
        f"{{%- if ns.{name} -%}}{{%- set ns.{name} = ns.{name} | replace(t, t[:1] + '{ESCAPE}' + t[1:]) -%}}{{%- endif -%}}"
        for name in VARIABLES.values()
    )
    return f"{{%- for t in [{', '.join(map(quoted, specials))}] -%}}{each}{{%- endfor -%}}"


def breaking(slots: list[str]) -> str:
    """Jinja code that emits BREAK if the text in one of these slots begins or ends with white space."""
    names = dict.fromkeys(VARIABLES[slot] for slot in slots)
    loose = " or ".join(f"(ns.{name} or '') != (ns.{name} or '') | trim" for name in names)
    return f"{{%- if {loose} -%}}{{{{ '{BREAK}' }}}}{{%- endif -%}}" if slots else ""


def pair_chat(segments: list[str], instruction: tuple[str, str, str], specials: list[str], breaks: bool) -> str:
    """Return a Jinja chat template that renders a prompt from messages of the roles system, query and document.

    Args:
        segments: parts of the prompt's template.
        instruction: (text before an instruction, text after it, formatted default instruction).
        specials: special tokens to escape in texts.
        breaks: insert BREAK around texts that begin or end with white space.
    """
    before, after, default = map(quoted, instruction)
    slots = {
        "query": "{{ ns.query }}",
        "document": "{{ ns.document }}",
        "instruction": "{%- if ns.system -%}{{ "
        + f"{before} + ns.system + {after}"
        + " }}{%- else -%}{{ "
        + default
        + " }}{%- endif -%}",
    }
    out = []
    for segment in segments:
        edge = breaking(SLOT.findall(segment)) if breaks else ""
        shown = (slots[part[1:-1]] if SLOT.fullmatch(part) else "{{ " + quoted(part) + " }}" for part in split(segment))
        out += [edge, *shown, edge]
    return PICK + escaping(specials) + "".join(out)
