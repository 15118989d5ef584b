"""Examples of stage `sft`: a prompt with its completion, both as token ids."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from ...data.reasoning_examples import AnyReasoningExample, ListReasoningExample
from ...engine.packing import Pack
from ...prompts.prompt import AnyPromptEncoder, ListPromptEncoder, PairPromptEncoder


@dataclass(frozen=True)
class CompletionExample:
    """A prompt with its completion.

    Attributes:
        key: index of the example in the run.
        pack: prompt and completion, encoded.
        target: ids of the completion.
        label: 1 or 0; None for a list.
        answer: indices of the answer's tokens in `target`.
        cut: number of tokens truncated from the thought.
        relevance: target probability of the answer "yes"; None for a list.
    """

    key: int
    pack: Pack
    target: list[int]
    label: int | None
    answer: range
    cut: int
    relevance: float | None = None

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.pack)


def encoded(encoder: AnyPromptEncoder, thought: AnyReasoningExample) -> tuple[list[int], list[int]]:
    """Return (ids of the prompt, ids of the answer). Pairs need a prompt of one document, lists one of several."""
    if isinstance(thought, ListReasoningExample):
        assert isinstance(encoder, ListPromptEncoder)  # see `_check_encoder`
        return encoder.encode(thought.query, list(thought.documents)).ids, encoder.answer_tokens(thought.answer)
    assert isinstance(encoder, PairPromptEncoder)
    return encoder.encode(thought.query, thought.document).ids, encoder.answer_tokens(thought.label)


def answer_places(examples: list[CompletionExample]) -> list[range]:
    """Return the indices of each example's answer in the concatenated completions."""
    starts = accumulate((len(e.target) for e in examples), initial=0)
    return [range(start + e.answer.start, start + e.answer.stop) for start, e in zip(starts, examples)]
