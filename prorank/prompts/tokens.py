"""Ids of the pieces that prompts are joined from: a prompt's own words, users' texts, answers.

Users' texts that spell a special token stay text; only a prompt's own words may hold special tokens.
"""

from __future__ import annotations

from typing import Any

from ..errors import PromptError
from ..utils.texts import plain_text


def fixed_tokens(tokenizer: Any, text: str) -> list[int]:
    """Ids of a prompt's own text, special tokens included."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []


def free_tokens(tokenizer: Any, texts: list[str], escape_special_tokens: bool = True) -> list[list[int]]:
    """Ids of users' texts.

    Args:
        tokenizer: of transformers.
        texts: may be empty.
        escape_special_tokens: tokenise special tokens in the texts as plain text.

    Raises:
        DataError: a text is not a string, or not UTF-8.
    """
    if not texts:
        return []
    options = {"split_special_tokens": True} if escape_special_tokens else {}
    try:
        return tokenizer(texts, add_special_tokens=False, verbose=False, **options)["input_ids"]
    except (TypeError, ValueError, AttributeError):
        for number, text in enumerate(texts):
            plain_text(text, f"text {number} of a prompt")
        raise


def answer_token(tokenizer: Any, tail: str, answer: str) -> int:
    """The answer's one token after `tail`, the prompt's last words. Raises PromptError if it is not one."""
    before, both = fixed_tokens(tokenizer, tail), fixed_tokens(tokenizer, tail + answer)
    got = both[len(before) :] if both[: len(before)] == before else fixed_tokens(tokenizer, answer)
    if len(got) != 1:
        shown = tokenizer.convert_ids_to_tokens(got)
        raise PromptError(
            f"answer {answer!r} is {len(got)} tokens {shown} under this tokenizer; choose answers that are one token each "
            f'after {tail[-20:]!r} (prompt key \'answers\', for instance ["0", "1"] or ["no", "yes"])'
        )
    return got[0]
