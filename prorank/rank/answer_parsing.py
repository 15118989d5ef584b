"""Read what models write when they are asked for labels: the best one, or an order such as `[2] > [1] > [3]`.

Whatever is written, the order that comes out has every document once; what had to be repaired is said.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

BRACKETED = re.compile(r"[\[【]\s*(?:doc(?:ument)?\s*)?#?(\d+|[A-T])\s*[\]】]", re.IGNORECASE)
BARE = re.compile(r"(?<![\w.])(?:(\d+)(?![\w]|\.\d)|([A-T])(?![\w'’]))")
MARKER = re.compile(r"^\s*(?:\d+|[A-Za-z])[.)]\s+(?=\S)", re.MULTILINE)  # of a numbered line
WORDS = re.compile(r"\b(?!(?:and|then|documents?|docs?)\b)[^\W\d_]{2,}", re.IGNORECASE)
LINE_LABELS = re.compile(r"^\s*(?:\d+|[A-Za-z])[.)]\s*$", re.MULTILINE)


@dataclass(frozen=True)
class ParsedRanking:
    """What was read. `named`: places of documents in the order in which they were named, each once; `order`: the same with the
    others behind them in the order they were shown in; `repairs`: what was repaired, and how often."""

    named: list[int]
    order: list[int]
    repairs: dict[str, int] = field(default_factory=dict)

    @property
    def best(self) -> int | None:
        """The document that was named first, None where none was."""
        return self.named[0] if self.named else None


def parse_ranking(text: str, count: int) -> ParsedRanking:
    """Labels of `count` documents in a completion. Never fails.

    - A thought is left aside: what comes before the last `</think>`. Of `<answer>` tags the first pair behind it counts.
    - Labels are numbers from 1, or letters from A, in square brackets. Where there are none, bare ones count: numbers, but not the
      markers of numbered lines, and letters, but not among words.
    - Labels out of range are dropped, repeated ones count where they come first, missing ones go to the end.
    """
    repairs: Counter[str] = Counter()
    said = _said(text, repairs)
    places = [_place(found[1]) for found in BRACKETED.finditer(said)]
    if not places:
        prose = WORDS.search(said)  # "A" and "I" are words there
        bare = (found[1] or (None if prose else found[2]) for found in BARE.finditer(_unnumbered(said)))
        places = [_place(label) for label in bare if label]
        repairs["brackets missing"] += bool(places)
    named: list[int] = []
    for place in places:
        if not 0 <= place < count:
            repairs["out of range"] += 1
        elif place in named:
            repairs["repeated"] += 1
        else:
            named.append(place)
    missing = [place for place in range(count) if place not in named]
    repairs["missing"] += len(missing)
    return ParsedRanking(named, named + missing, {name: times for name, times in repairs.items() if times})


def _said(text: str, repairs: Counter[str]) -> str:
    """The part of a completion that answers."""
    thought, closed, rest = text.rpartition("</think>")
    repairs["thought not closed"] += not closed and "<think>" in text
    _, opened, answer = rest.partition("<answer>")
    if not opened:
        return rest
    inside, ended, _ = answer.partition("</answer>")
    repairs["answer not closed"] += not ended
    return inside


def _unnumbered(text: str) -> str:
    """Text without the markers of numbered lines; lines that are nothing but a marker keep it as their label."""
    return text if LINE_LABELS.search(text) else MARKER.sub("", text)


def _place(label: str) -> int:
    """0 for "1" and "A", and so on; numbers that no list has come out of range."""
    if label.isalpha():
        return ord(label.upper()) - ord("A")
    return int(label[:6]) - 1 if label.isascii() else -1
