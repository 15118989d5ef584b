"""Marks in a rendered prompt that keep users' texts apart from the template, as the prompt's own encoding does.

A library that renders a chat template and tokenises the whole text would read a special token that a document spells, and would
let white space at a text's ends share tokens with the template. So the saved template puts a mark into what spells a special token,
and marks around a text with white space at its ends; the saved tokenizer drops both, once special tokens were looked for. The marks
are noncharacters of Unicode, which texts do not hold.
"""

from __future__ import annotations

from typing import Any

from .slots import SLOT, split
from .template import quoted

VARIABLES = {"query": "query", "document": "document", "instruction": "system"}  # of the template, by slot
ESCAPE = "\ufdd0"  # within a text that spells a special token; removed by the normalizer
BREAK = "\ufdd1"  # between two pieces that share no token; removed by the pre-tokenizer
PICK = (
    "{%- set ns = namespace(system=none, query='', document='') -%}"
    "{%- for m in messages -%}{%- set c = m['content'] if m['content'] is string else m['content'][0]['text'] -%}"
    "{%- if m['role'] == 'system' -%}{%- set ns.system = c -%}{%- elif m['role'] == 'document' -%}"
    "{%- set ns.document = c -%}{%- else -%}{%- set ns.query = c -%}{%- endif -%}{%- endfor -%}"
)  # the messages' texts by role


def special_texts(tokenizer: Any) -> list[str]:
    """The special tokens that texts can spell, as users' texts are split at them."""
    return sorted({token.content for token in tokenizer.added_tokens_decoder.values() if token.special and len(token.content) > 1})


def heed_marks(tokenizer: Any) -> None:
    """Let a fast tokenizer drop the marks; any other, and one that does already, stays as it is."""
    from tokenizers import normalizers, pre_tokenizers

    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is None or drops_breaks(tokenizer):
        return
    inner.normalizer = normalizers.Sequence([normalizers.Replace(ESCAPE, ""), *filter(None, [inner.normalizer])])
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(BREAK, "removed"), *filter(None, [inner.pre_tokenizer])])


def drops_breaks(tokenizer: Any) -> bool:
    """Whether a tokenizer drops the marks."""
    marked, plain = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (f"a{BREAK}", "a"))
    return marked == plain


def escaping(specials: list[str]) -> str:
    """Jinja that puts ESCAPE into every special token that query, document or instruction spell."""
    if not specials:
        return ""
    each = "".join(
        f"{{%- if ns.{name} -%}}{{%- set ns.{name} = ns.{name} | replace(t, t[:1] + '{ESCAPE}' + t[1:]) -%}}{{%- endif -%}}"
        for name in VARIABLES.values()
    )
    return f"{{%- for t in [{', '.join(map(quoted, specials))}] -%}}{each}{{%- endfor -%}}"


def breaking(slots: list[str]) -> str:
    """Jinja that shows BREAK where one of the texts in these slots has white space at its ends."""
    names = dict.fromkeys(VARIABLES[slot] for slot in slots)
    loose = " or ".join(f"(ns.{name} or '') != (ns.{name} or '') | trim" for name in names)
    return f"{{%- if {loose} -%}}{{{{ '{BREAK}' }}}}{{%- endif -%}}" if slots else ""


def pair_chat(segments: list[str], instruction: tuple[str, str, str], specials: list[str], breaks: bool) -> str:
    """A Jinja chat template that shows these segments of a prompt for messages of roles system, query and document.

    Args:
        instruction: what stands before and behind one, and the default one in its form.
        specials: special tokens that get a mark where a text spells them.
        breaks: with marks around texts that have white space at their ends.
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
