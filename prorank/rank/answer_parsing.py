"""Parse generated answers that name documents by labels: the best one, or an order such as `[2] > [1] > [3]`.

The parsed order always contains every document once; repairs are counted. The answer format is that of RankGPT
(Sun et al. 2023, arXiv 2304.09542).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

BRACKETED = re.compile(r"[\[【]\s*(?:doc(?:ument)?\s*)?#?(\d+|[A-T])\s*[\]】]", re.IGNORECASE)
BARE = re.compile(r"(?<![\w.])(?:(\d+)(?![\w]|\.\d)|([A-T])(?![\w'’]))")
LINE_NUMBER = re.compile(r"^\s*(?:\d+|[A-Za-z])[.)]\s+(?=\S)", re.MULTILINE)  # at the start of a numbered line
WORDS = re.compile(r"\b(?!(?:and|then|documents?|docs?)\b)[^\W\d_]{2,}", re.IGNORECASE)
LINE_LABELS = re.compile(r"^\s*(?:\d+|[A-Za-z])[.)]\s*$", re.MULTILINE)


@dataclass(frozen=True)
class ParsedRanking:
    """A parsed answer.

    Attributes:
        named: positions of documents in the order in which the answer names them, each once.
        order: the same, followed by the other documents in the order in which they were shown.
        repairs: what was repaired, and how often.
    """

    named: list[int]
    order: list[int]
    repairs: dict[str, int] = field(default_factory=dict)

    @property
    def best(self) -> int | None:
        """Position of the document that was named first; None if none was named."""
        return self.named[0] if self.named else None


def parse_ranking(text: str, count: int) -> ParsedRanking:
    """Parse the labels of `count` documents in a completion. Never fails.

    - A thought, which is everything before the last `</think>`, is ignored. The first pair of `<answer>` tags after it counts.
    - Labels are numbers from 1, or letters from A, in square brackets. If there are none, labels without brackets count: numbers,
      except those of numbered lines, and letters, unless there are words.
    - Labels out of range are dropped, repeated ones count where they come first, missing ones go to the end.

    Args:
        text: the completion.
        count: number of documents that were shown.
    """
    repairs: Counter[str] = Counter()
    answer = _answer(text, repairs)
    positions = [_position(match[1]) for match in BRACKETED.finditer(answer)]
    if not positions:
        positions = [_position(label) for label in _bare_labels(answer)]
        repairs["brackets missing"] += bool(positions)
    named: list[int] = []
    for position in positions:
        if not 0 <= position < count:
            repairs["out of range"] += 1
        elif position in named:
            repairs["repeated"] += 1
        else:
            named.append(position)
    missing = [position for position in range(count) if position not in named]
    repairs["missing"] += len(missing)
    return ParsedRanking(named, named + missing, {name: times for name, times in repairs.items() if times})


def _answer(text: str, repairs: Counter[str]) -> str:
    """Return the part of a completion that holds the answer."""
    thought, closed, rest = text.rpartition("</think>")
    repairs["thought not closed"] += not closed and "<think>" in text
    _, opened, answer = rest.partition("<answer>")
    if not opened:
        return rest
    inside, ended, _ = answer.partition("</answer>")
    repairs["answer not closed"] += not ended
    return inside


def _bare_labels(answer: str) -> list[str]:
    """Return labels without brackets: numbers, and letters unless there are words, since "A" and "I" may be words, too."""
    has_words = WORDS.search(answer)
    labels = (match[1] or (None if has_words else match[2]) for match in BARE.finditer(_without_line_numbers(answer)))
    return [label for label in labels if label]


def _without_line_numbers(text: str) -> str:
    """Remove the numbers of numbered lines; lines that contain only a number keep it as their label."""
    return text if LINE_LABELS.search(text) else LINE_NUMBER.sub("", text)


def _position(label: str) -> int:
    """Return 0 for "1" and "A", and so on; a position out of range for too large numbers."""
    if label.isalpha():
        return ord(label.upper()) - ord("A")
    return int(label[:6]) - 1 if label.isascii() else -1
