"""A value that was chosen for a setting, with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """The value chosen for a setting.

    Attributes:
        value: the name of a dtype, COMPILED or PLAIN of `auto`, or the name of an attention of `sequence_attention`.
        reason: the reason, for reports.
    """

    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.value} ({self.reason})"
