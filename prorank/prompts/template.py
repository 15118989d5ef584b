"""Chat templates: render a prompt in the tokenizer's own chat format, and recover that format from a saved checkpoint.

Chat templates are third-party code: render sentinels and verify where they end up.
"""

from __future__ import annotations

import json
from typing import Any

from ..errors import PromptError
from .prompt_settings import PromptSettings
from .slots import SLOT

SENTINEL = "Xq7{}7qX"  # survives trimming, and does not occur in templates
CHAT_MARK = "{#- chat +#}"  # in a saved chat template, the tokenizer's own template follows this mark
CHAT_END = "{%+ endif -%}"


def delimiter_tokens(tokenizer: Any) -> tuple[str, str]:
    """Return the special tokens that delimit texts, (" ", "") if the tokenizer has none."""
    known = tokenizer.get_added_vocab()
    return ("<|im_start|>", "<|im_end|>") if {"<|im_start|>", "<|im_end|>"} <= set(known) else (" ", "")


def render_frame(prompt: PromptSettings, tokenizer: Any) -> str:
    """Return the literal template of a prompt: system and user turns in the tokenizer's chat format, or plain text if it has none.

    Args:
        prompt: the settings.
        tokenizer: tokenizer of transformers.

    Raises:
        PromptError: the chat template fails, or does not render every slot once.
    """
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
            raise PromptError(f"the tokenizer's chat template must render the {slot} exactly once; give the prompt a 'template'")
        text = text.replace(SENTINEL.format(slot), "{" + slot + "}")
    # Binary prompts have no thought, so close one that the chat template opens.
    return text.rstrip("\n") + "\n\n</think>\n\n" if text.rstrip().endswith("<think>") and not thinks else text


def own_chat(tokenizer: Any) -> str:
    """Return the tokenizer's own chat template, without the part that `saving` prepends; "" if it has none."""
    template = getattr(tokenizer, "chat_template", None) or ""
    if isinstance(template, dict):
        template = template.get("default") or ""
    _, ours, own = template.rpartition(CHAT_MARK)
    return own.removesuffix(CHAT_END) + "\n" if ours and own else own  # Jinja drops a final newline, so saving omitted it


def quoted(text: str) -> str:
    """Quote a text as a Jinja string literal. Non-ASCII characters stay, since escapes would split some into surrogates."""
    return json.dumps(text, ensure_ascii=False)


def _chat(tokenizer: Any, system: str, user: str, thinks: bool) -> str:
    """Render the chat template. If it has no system role, the system text is put before the user's text."""
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": thinks}
    turns = [{"role": "system", "content": system}] if system else []
    try:
        text = tokenizer.apply_chat_template([*turns, {"role": "user", "content": user}], **options)
        if not system or system.strip() in text:
            return text
    except Exception as error:  # templates may raise any error
        if not system:
            raise PromptError(f"the tokenizer's chat template fails: {error}; give the prompt a 'template'") from error
    return tokenizer.apply_chat_template([{"role": "user", "content": f"{system}\n\n{user}"}], **options)


def with_bos(text: str, tokenizer: Any) -> str:
    """Prepend the BOS token if the tokenizer adds one by default and the text does not begin with it."""
    bos = getattr(tokenizer, "bos_token", None)
    if not bos or text.startswith(bos):
        return text
    adds = tokenizer("", add_special_tokens=True)["input_ids"][:1] == [tokenizer.bos_token_id]
    return bos + text if adds else text
