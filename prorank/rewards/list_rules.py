"""Reward functions for completions that select or rank documents. TRL's GRPOTrainer accepts them as `reward_funcs`.

A completion in the wrong format earns 0. Partial credit for unparsable answers would teach the model to produce them.

Sources: Rank-R1 (arXiv 2503.06034), REARANK (arXiv 2505.20046), summarised in reference/prorank-paper.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..errors import DataError
from ..evaluate.gains import EXPONENTIAL, ndcg
from ..rank.answer_parsing import parse_ranking
from ..utils.texts import shown
from .reward_inputs import column, completion_text, number

REARANK_GAIN = EXPONENTIAL  # REARANK computes nDCG with gains 2^grade - 1
FORM = re.compile(r"<think>.*?</think>\s*<answer>(.*?)</answer>", re.DOTALL)


def rank_r1_reward(completions: Sequence[Any], label: Sequence[str] | None = None, **_: object) -> list[float]:
    """Rank-R1's reward: 1 if the format is right and the answer equals the label exactly, else 0.

    Args:
        completions: texts, or lists of messages of which the last one is scored.
        label: label of the best document of each prompt, such as "[3]".

    Returns:
        One reward per completion.

    Raises:
        DataError: a label or a completion is invalid; the message names the row.
    """
    texts = [completion_text(one, f"row {i}") for i, one in enumerate(completions)]
    labels = column(label, "label", len(texts))
    for i, value in enumerate(labels):
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"row {i}: 'label' must be the label of a document as a text, such as \"[3]\", got {shown(value)}")
    return [float(answer_of(text) == wanted) for text, wanted in zip(texts, labels)]


def answer_of(completion: str) -> str | None:
    """Return the answer of a completion in the format `<think>…</think><answer>…</answer>`, None for any other completion."""
    match = FORM.search(completion)
    return match[1].strip() if match else None


def rearank_reward(
    completions: Sequence[Any],
    grades: Sequence[Sequence[float]] | None = None,
    depth: int = 10,
    gain: str = REARANK_GAIN,
    **_: object,
) -> list[float]:
    """REARANK's reward: 0.8 (nDCG − first) / (best − first), 0.1 for the tags, and 0.1 for a complete ranking.

    `first` is the nDCG of the order in which the documents were shown, and `best` is 1. If the documents were shown in the best
    order, a completion that keeps it earns the full 0.8.

    Args:
        completions: texts, or lists of messages of which the last one is scored. `parse_ranking` reads the order.
        grades: relevance grades of each prompt's documents, in the order in which they were shown.
        depth: cutoff of nDCG.
        gain: how nDCG counts a grade: "exponential" (REARANK) or "linear" (as `prorank evaluate` does).

    Returns:
        One reward per completion.

    Raises:
        DataError: a grade is negative or not a number, or a completion is invalid; the message names the row.
    """
    texts = [completion_text(one, f"row {i}") for i, one in enumerate(completions)]
    rows = [_grades(row, i) for i, row in enumerate(column(grades, "grades", len(texts)))]
    return [sum(rearank_parts(text, row, depth, gain).values()) for text, row in zip(texts, rows)]


def _grades(values: Any, row: int) -> list[float]:
    if not isinstance(values, (list, tuple)) or not values:
        raise DataError(f"row {row}: 'grades' must be a list of numbers, one per document, got {shown(values)}")
    return [number(value, f"row {row}: 'grades'") for value in values]


def rearank_parts(completion: str, grades: Sequence[float], depth: int = 10, gain: str = REARANK_GAIN) -> dict[str, float]:
    """Return the parts of `rearank_reward` for one completion, with the keys "gain", "tags" and "order"."""
    answer = answer_of(completion)
    if answer is None:
        return dict.fromkeys(("gain", "tags", "order"), 0.0)
    ranking = parse_ranking(answer, len(grades))
    if max(grades, default=0) <= 0:  # all orders are equally good
        first = now = 1.0
    else:
        first, now = (ndcg(row, gain, depth) for row in (grades, [grades[i] for i in ranking.order]))
    gained = (now - first) / (1 - first) if first < 1 else float(now >= 1)
    return {"gain": 0.8 * gained, "tags": 0.1, "order": 0.1 * (not ranking.repairs)}
