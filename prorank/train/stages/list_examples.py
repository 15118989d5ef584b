"""Training examples with lists of documents, for stages `score` and `order`."""

from __future__ import annotations

from dataclasses import dataclass

from ...data.examples import Group, list_groups
from ...engine.packing import Pack
from ...evaluate.gains import check_labels
from ..objectives.ranking_losses import TEACHER_LOSSES
from ..settings.stage_settings import Score
from .thought_cache import CachedThought


@dataclass(frozen=True)
class ListExample:
    """One training example: candidate lists that are encoded in one forward pass.

    Attributes:
        key: index of the example in the run.
        packs: packs of a query's documents, or of a document's queries; in the baseline step, of single prompts.
        lists: one query's list, or those of several queries over the same documents.
        thoughts: thoughts of the documents [n]; may be empty.
    """

    key: int
    packs: list[Pack]
    lists: tuple[Group, ...]
    thoughts: tuple[CachedThought, ...] = ()

    @property
    def length(self) -> int:
        """Number of tokens."""
        return sum(map(len, self.packs))

    @property
    def keys(self) -> list[str]:
        """Return a unique name in the run for each list."""
        return [f"{self.key}/{i}" if i else str(self.key) for i in range(len(self.lists))]


def lists_of(examples: list[ListExample]) -> list[Group]:
    """Return the lists of the examples, in the order of their scores."""
    return [group for example in examples for group in example.lists]


def trainable_groups(groups: list[Group], settings: Score) -> list[Group]:
    """Return groups that the losses can use. Raises DataError if there are none, or for labels that are too large for nDCG."""
    needs_positive = not (settings.loss and TEACHER_LOSSES >= set(settings.loss))
    check_labels((label for group in groups for label in group.labels), settings.gain, "training data")
    return list_groups(groups, needs_positive)
