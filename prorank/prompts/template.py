"""Chat templates: the frame of a prompt as a tokenizer's own chat writes it, and the template a saved checkpoint carries.

A chat template is a program of strangers; a text is only trusted to stand where it was put after it was found there.
"""

from __future__ import annotations

import json
from typing import Any

from ..errors import PromptError
from .prompt_settings import PromptSettings
from .slots import SLOT

SENTINEL = "Xq7{}7qX"  # survives every chat template's trimming, and no text contains it by chance
CHAT_MARK = "{#- chat +#}"  # in a saved chat template, what follows is the tokenizer's own
CHAT_END = "{%+ endif -%}"


def delimiter_tokens(tokenizer: Any) -> tuple[str, str]:
    """The special tokens that bound texts, or a blank and nothing where the tokenizer lacks them."""
    known = tokenizer.get_added_vocab()
    return ("<|im_start|>", "<|im_end|>") if {"<|im_start|>", "<|im_end|>"} <= set(known) else (" ", "")


def render_frame(prompt: PromptSettings, tokenizer: Any) -> str:
    """The literal template: system and user turns in the tokenizer's own chat form, or as plain text."""
    open_, close = delimiter_tokens(tokenizer)
    user = prompt.user.replace("{open}", open_).replace("{close}", close)
    if not own_chat(tokenizer):
        return with_bos(f"{prompt.system}\n\n{user}" if prompt.system else user, tokenizer)
    marked = SLOT.sub(lambda m: SENTINEL.format(m.group(1)), user)
    thinks = prompt.kind == "thinking"
    text = _chat(tokenizer, prompt.system, marked, thinks)
    slots = SLOT.findall(user)
    for slot in dict.fromkeys(slots):
        if text.count(SENTINEL.format(slot)) != slots.count(slot):
            raise PromptError(f"the tokenizer's chat template does not show the {slot} exactly once; give the prompt a 'template'")
        text = text.replace(SENTINEL.format(slot), "{" + slot + "}")
    # A template that opens a thought waits for one: a binary prompt closes it at once.
    return text.rstrip("\n") + "\n\n</think>\n\n" if text.rstrip().endswith("<think>") and not thinks else text


def own_chat(tokenizer: Any) -> str:
    """The tokenizer's own chat template, "" where it has none; what a saved checkpoint put before it is left out."""
    template = getattr(tokenizer, "chat_template", None) or ""
    if isinstance(template, dict):
        template = template.get("default") or ""
    _, ours, own = template.rpartition(CHAT_MARK)
    return own.removesuffix(CHAT_END) + "\n" if ours and own else own  # Jinja drops a last newline, so saving left it out


def quoted(text: str) -> str:
    """Text as a Jinja string. Escaped as ASCII, a character beyond 16 bits would come back as two halves."""
    return json.dumps(text, ensure_ascii=False)


def _chat(tokenizer: Any, system: str, user: str, thinks: bool) -> str:
    """Render by the chat template; templates without a system role get its text at the head of the user's turn."""
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": thinks}
    turns = [{"role": "system", "content": system}] if system else []
    try:
        text = tokenizer.apply_chat_template([*turns, {"role": "user", "content": user}], **options)
        if not system or system.strip() in text:
            return text
    except Exception as error:  # templates raise what they like
        if not system:
            raise PromptError(f"the tokenizer's chat template fails: {error}; give the prompt a 'template'") from error
    return tokenizer.apply_chat_template([{"role": "user", "content": f"{system}\n\n{user}"}], **options)


def with_bos(text: str, tokenizer: Any) -> str:
    """Text led by the BOS token where the tokenizer adds one by itself and the text lacks it."""
    bos = getattr(tokenizer, "bos_token", None)
    if not bos or text.startswith(bos):
        return text
    adds = tokenizer("", add_special_tokens=True)["input_ids"][:1] == [tokenizer.bos_token_id]
    return bos + text if adds else text
