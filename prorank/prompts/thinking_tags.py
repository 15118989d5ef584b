"""Token ids of thoughts: opening and closing tags, and completions for supervised training.

The tags between thought and answer have the same ids in training and inference, whether they are generated or forced.
"""

from __future__ import annotations

from typing import Any

from .prompt_settings import PromptSettings
from .tokens import fixed_tokens, free_tokens

OPEN, SHUT, END = "<think>", "\n</think>\n<answer>", "</answer>"  # the answer is between SHUT and END


class Thinking:
    """Base class of prompt encoders.

    Attributes:
        prompt: the settings.
        tokenizer: tokenizer of transformers.
        segments: literal parts of the template.
    """

    prompt: PromptSettings
    tokenizer: Any
    segments: list[str]

    @property
    def thinks(self) -> bool:
        """Whether the model writes a thought before its answer."""
        return self.prompt.kind == "thinking"

    @property
    def opened(self) -> bool:
        """Whether the prompt ends with `<think>`, so that the completion begins within the thought."""
        return self.thinks and self.segments[-1].rstrip().endswith(OPEN)

    @property
    def opener(self) -> list[int]:
        """Token ids that open a thought; empty if the prompt opens it."""
        return self._tokens(f"{OPEN}\n") if self.thinks and not self.opened else []

    @property
    def shut(self) -> list[int]:
        """Token ids that close a thought and open the answer."""
        return self._tokens(SHUT) if self.thinks else []

    @property
    def asking(self) -> list[int]:
        """Token ids that open the answer after a closed thought."""
        return self._tokens(SHUT[SHUT.index("\n", 1) :])

    @property
    def end(self) -> list[int]:
        """Token ids that follow an answer, including the end-of-sequence token."""
        return [*(self._tokens(END) if self.thinks else []), self.tokenizer.eos_token_id]

    def answer_tokens(self, answer: Any) -> list[int]:
        """Token ids of an answer: 1 (relevant) or 0 for a pair, a text of labels for a list."""
        raise NotImplementedError

    def completion(self, thought: str, answer: Any, max_tokens: int | None = None) -> tuple[list[int], int]:
        """Encode a training target: thought, answer and end.

        Args:
            thought: text of the thought; ignored if the prompt does not think.
            answer: see `answer_tokens`.
            max_tokens: maximum number of tokens of the thought, None for no limit.

        Returns:
            (token ids, number of tokens truncated from the thought).
        """
        whole = self._batch([thought.strip()])[0] if self.thinks else []
        kept = whole[:max_tokens]
        return [*self.opener, *kept, *self.shut, *self.answer_tokens(answer), *self.end], len(whole) - len(kept)

    def _tokens(self, text: str) -> list[int]:
        return fixed_tokens(self.tokenizer, text)

    def _batch(self, texts: list[str]) -> list[list[int]]:
        return free_tokens(self.tokenizer, texts, self.prompt.escape_special_tokens)
