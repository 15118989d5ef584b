"""Token ids of thoughts: the tags that open and close them, and completions for supervised training.

The tags between a thought and its answer are the same ids in training and in inference, whether the model generated them or
they were forced.
"""

from __future__ import annotations

from typing import Any

from .prompt_settings import PromptSettings
from .tokens import fixed_tokens, free_tokens

OPEN, SHUT, END = "<think>", "\n</think>\n<answer>", "</answer>"  # the answer stands between SHUT and END


class Thinking:
    """Base of the prompt encoders, which have `prompt`, `tokenizer` and the literal `segments` of the template."""

    prompt: PromptSettings
    tokenizer: Any
    segments: list[str]

    @property
    def thinks(self) -> bool:
        """Whether the model writes a thought before its answer."""
        return self.prompt.kind == "thinking"

    @property
    def opened(self) -> bool:
        """Whether the prompt itself ends with `<think>`, so that the completion begins within the thought."""
        return self.thinks and self.segments[-1].rstrip().endswith(OPEN)

    @property
    def opener(self) -> list[int]:
        """Ids that open a thought; none if the prompt opens it."""
        return self._tokens(f"{OPEN}\n") if self.thinks and not self.opened else []

    @property
    def shut(self) -> list[int]:
        """Ids that close a thought and open the answer."""
        return self._tokens(SHUT) if self.thinks else []

    @property
    def asking(self) -> list[int]:
        """Ids that open the answer after a closed thought."""
        return self._tokens(SHUT[SHUT.index("\n", 1) :])

    @property
    def end(self) -> list[int]:
        """Ids that follow an answer, including the end-of-sequence token."""
        return [*(self._tokens(END) if self.thinks else []), self.tokenizer.eos_token_id]

    def answer_tokens(self, answer: Any) -> list[int]:
        """Ids of an answer: 1 (relevant) or 0, or the text that names documents."""
        raise NotImplementedError

    def completion(self, thought: str, answer: Any, max_tokens: int | None = None) -> tuple[list[int], int]:
        """Encode a completion to learn: a thought, the answer and the end.

        Args:
            thought: left out if the prompt asks for no thought.
            answer: see `answer_tokens`.
            max_tokens: maximum number of tokens of the thought, None for no limit.

        Returns:
            (ids, number of tokens truncated from the thought).
        """
        whole = self._batch([thought.strip()])[0] if self.thinks else []
        kept = whole[:max_tokens]
        return [*self.opener, *kept, *self.shut, *self.answer_tokens(answer), *self.end], len(whole) - len(kept)

    def _tokens(self, text: str) -> list[int]:
        return fixed_tokens(self.tokenizer, text)

    def _batch(self, texts: list[str]) -> list[list[int]]:
        return free_tokens(self.tokenizer, texts, self.prompt.escape_special_tokens)
