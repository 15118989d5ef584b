"""Which tokens of a document its prompts show: its beginning, its end, or overlapping parts.

Parts of a document are as long as the room allows and overlap by a share of it, so a passage shorter than the overlap
stands whole in at least one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError

SIDES = ("right", "left")


@dataclass(frozen=True)
class Truncation:
    """How a document is fitted into its prompt, or prompts.

    Args:
        most: tokens of the document at most, whatever room there is; None for no such bound.
        prompt: tokens of a whole prompt at most; None takes the prompt's own.
        query: tokens of the query at most; None takes the query's share.
        side: "right" cuts the end of what is too long, "left" its beginning.
        chunks: prompts a document may take. 1 cuts it; more show it in overlapping parts.
        overlap: share of a part that the next one repeats.

    Raises:
        ConfigError: a value that cannot work.
    """

    most: int | None = None
    prompt: int | None = None
    query: int | None = None
    side: str = "right"
    chunks: int = 1
    overlap: float = 0.125

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise ConfigError(f"side '{self.side}' is not known; valid: {', '.join(SIDES)}")
        if self.chunks < 1 or not 0 <= self.overlap < 1:
            raise ConfigError(f"chunks must be at least 1 and overlap in 0..1, not {self.chunks} and {self.overlap}")

    def of(self, ids: list[int], room: int) -> tuple[list[list[int]], int]:
        """(the parts that are shown, each of at most `room` tokens; how many tokens stand in none of them)."""
        kept = ids if self.most is None else self._side(ids, self.most)
        step = max(1, room - int(room * self.overlap))
        wanted = 1 + -(-max(0, len(kept) - room) // step)
        if wanted <= 1 or self.chunks == 1:
            shown = self._side(kept, room)
            return [shown], len(ids) - len(shown)
        count = min(wanted, self.chunks)
        kept = self._side(kept, room + (count - 1) * step)
        return [kept[at * step : at * step + room] for at in range(count)], len(ids) - len(kept)

    def _side(self, ids: list[int], most: int) -> list[int]:
        return ids[:most] if self.side == "right" else ids[max(0, len(ids) - most) :]


WHOLE = Truncation()
