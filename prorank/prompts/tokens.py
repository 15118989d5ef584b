"""Tokenise the pieces of a prompt: its own text, users' texts and answers.

Only the prompt's own text may contain special tokens; in users' texts they are tokenised as plain text.
"""

from __future__ import annotations

from typing import Any

from ..errors import PromptError
from ..utils.texts import plain_text


def fixed_tokens(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a prompt's own text, including special tokens."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []


def free_tokens(tokenizer: Any, texts: list[str], escape_special_tokens: bool = True) -> list[list[int]]:
    """Tokenise users' texts.

    Args:
        tokenizer: tokenizer of transformers.
        texts: the texts; may be empty.
        escape_special_tokens: tokenise special tokens in the texts as plain text.

    Returns:
        Token ids of each text.

    Raises:
        DataError: a text is not a string, or not valid UTF-8.
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
    """Return the token id of an answer.

    Args:
        tokenizer: tokenizer of transformers.
        tail: text that precedes the answer in the prompt.
        answer: text of the answer.

    Raises:
        PromptError: the answer is not a single token after `tail`.
    """
    before, both = fixed_tokens(tokenizer, tail), fixed_tokens(tokenizer, tail + answer)
    got = both[len(before) :] if both[: len(before)] == before else fixed_tokens(tokenizer, answer)
    if len(got) != 1:
        shown = tokenizer.convert_ids_to_tokens(got)
        raise PromptError(
            f"answer {answer!r} is {len(got)} tokens {shown} under this tokenizer; choose answers that are one token each "
            f'after {tail[-20:]!r} (prompt key \'answers\', for instance ["0", "1"] or ["no", "yes"])'
        )
    return got[0]
