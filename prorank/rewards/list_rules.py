"""Rewards for completions that choose or order documents; TRL's GRPOTrainer takes them as they stand.

A form that is wrong earns 0, never a half: a model that is paid for a failed parse learns to fail.

Sources: Rank-R1 (arXiv 2503.06034), REARANK (arXiv 2505.20046), as reference/prorank-paper states them.
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

REARANK_GAIN = EXPONENTIAL  # REARANK's own nDCG counts 2^grade - 1
FORM = re.compile(r"<think>.*?</think>\s*<answer>(.*?)</answer>", re.DOTALL)


def rank_r1_reward(completions: Sequence[Any], label: Sequence[str] | None = None, **_: object) -> list[float]:
    """1 where the form is right and the answer is the label, such as "[3]", to the letter; else 0 (Rank-R1).

    Args:
        completions: texts, or lists of messages whose last one counts.
        label: the label of the best document of each, as a text.

    Raises:
        DataError: naming the row, for a label or a completion that is none.
    """
    texts = [completion_text(one, f"row {i}") for i, one in enumerate(completions)]
    labels = column(label, "label", len(texts))
    for i, value in enumerate(labels):
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"row {i}: 'label' must be the label of a document as a text, such as \"[3]\", got {shown(value)}")
    return [float(answer_of(text) == wanted) for text, wanted in zip(texts, labels)]


def answer_of(completion: str) -> str | None:
    """What a completion in form answers, None for others."""
    match = FORM.search(completion)
    return match[1].strip() if match else None


def rearank_reward(
    completions: Sequence[Any],
    grades: Sequence[Sequence[float]] | None = None,
    depth: int = 10,
    gain: str = REARANK_GAIN,
    **_: object,
) -> list[float]:
    """0.8 (nDCG − first) / (best − first) + 0.1 for both pairs of tags + 0.1 for a whole order (REARANK).

    Args:
        completions: texts, or lists of messages whose last one counts; the order is read by `parse_ranking`.
        grades: of each completion's documents, in the order in which they were shown, whose nDCG is `first`.
        depth: of nDCG. `best` is 1; where the documents stand in the best order already, keeping it earns the 0.8.
        gain: of a grade in nDCG: "exponential" as REARANK has it, or "linear" as evaluation prints it.

    Raises:
        DataError: naming the row, for grades that are not numbers of at least 0, and for a completion that is none.
    """
    texts = [completion_text(one, f"row {i}") for i, one in enumerate(completions)]
    rows = [_grades(row, i) for i, row in enumerate(column(grades, "grades", len(texts)))]
    return [sum(rearank_parts(text, row, depth, gain).values()) for text, row in zip(texts, rows)]


def _grades(values: Any, row: int) -> list[float]:
    if not isinstance(values, (list, tuple)) or not values:
        raise DataError(f"row {row}: 'grades' must be a list of numbers, one a document, got {shown(values)}")
    return [number(value, f"row {row}: 'grades'") for value in values]


def rearank_parts(completion: str, grades: Sequence[float], depth: int = 10, gain: str = REARANK_GAIN) -> dict[str, float]:
    """The reward above by its parts: {"gain", "tags", "order"}."""
    answer = answer_of(completion)
    if answer is None:
        return dict.fromkeys(("gain", "tags", "order"), 0.0)
    ranking = parse_ranking(answer, len(grades))
    if max(grades, default=0) <= 0:  # any order is the best
        first = now = 1.0
    else:
        first, now = (ndcg(row, gain, depth) for row in (grades, [grades[i] for i in ranking.order]))
    gained = (now - first) / (1 - first) if first < 1 else float(now >= 1)
    return {"gain": 0.8 * gained, "tags": 0.1, "order": 0.1 * (not ranking.repairs)}
