"""What every prompt joined with a tokenizer can say of thoughts: the words that open and close them, and completions to learn.

The words between a thought and its answer are the same ids in training and in use, whether the model wrote them or they
were put in for it.
"""

from __future__ import annotations

from typing import Any

from .prompt_settings import PromptSettings
from .tokens import fixed_tokens, free_tokens

OPEN, SHUT, END = "<think>", "\n</think>\n<answer>", "</answer>"  # of a thought; what follows SHUT is the answer


class Thinking:
    """Of a prompt with `prompt`, `tokenizer` and its literal `segments`."""

    prompt: PromptSettings
    tokenizer: Any
    segments: list[str]

    @property
    def thinks(self) -> bool:
        """Whether a thought comes before the answer."""
        return self.prompt.kind == "thinking"

    @property
    def opened(self) -> bool:
        """Whether the prompt ends with `<think>`, so that the model goes on within the thought."""
        return self.thinks and self.segments[-1].rstrip().endswith(OPEN)

    @property
    def opener(self) -> list[int]:
        """Ids that open a thought; none where the prompt has done so."""
        return self._tokens(f"{OPEN}\n") if self.thinks and not self.opened else []

    @property
    def shut(self) -> list[int]:
        """Ids that close a thought and ask for the answer."""
        return self._tokens(SHUT) if self.thinks else []

    @property
    def asking(self) -> list[int]:
        """Ids that ask for the answer behind a closed thought."""
        return self._tokens(SHUT[SHUT.index("\n", 1) :])

    @property
    def end(self) -> list[int]:
        """Ids behind an answer, the end token included."""
        return [*(self._tokens(END) if self.thinks else []), self.tokenizer.eos_token_id]

    def answer_tokens(self, answer: Any) -> list[int]:
        """Ids of an answer: 1 (relevant) or 0, or the text that names documents."""
        raise NotImplementedError

    def completion(self, thought: str, answer: Any, most: int | None = None) -> tuple[list[int], int]:
        """(ids of a thought of at most `most` tokens, the answer and the end; tokens cut from the thought). A prompt that asks for
        no thought leaves it out."""
        whole = self._batch([thought.strip()])[0] if self.thinks else []
        kept = whole[:most]
        return [*self.opener, *kept, *self.shut, *self.answer_tokens(answer), *self.end], len(whole) - len(kept)

    def _tokens(self, text: str) -> list[int]:
        return fixed_tokens(self.tokenizer, text)

    def _batch(self, texts: list[str]) -> list[list[int]]:
        return free_tokens(self.tokenizer, texts, self.prompt.escape_special_tokens)
