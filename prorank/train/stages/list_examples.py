"""Training examples made of lists of documents, for stages `score` and `order`."""

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
        key: place in the run.
        packs: a query's documents, or a document's queries (in the baseline step each prompt alone).
        lists: one query's list, or those of several queries over the same documents.
        thoughts: the documents' thoughts [n]; may be empty.
    """

    key: int
    packs: list[Pack]
    lists: tuple[Group, ...]
    thoughts: tuple[CachedThought, ...] = ()

    @property
    def length(self) -> int:
        return sum(map(len, self.packs))

    @property
    def keys(self) -> list[str]:
        """A name of each list, unique in the run."""
        return [f"{self.key}/{i}" if i else str(self.key) for i in range(len(self.lists))]


def lists_of(examples: list[ListExample]) -> list[Group]:
    """The lists of the examples, in the order of their scores."""
    return [group for example in examples for group in example.lists]


def trainable_groups(groups: list[Group], settings: Score) -> list[Group]:
    """Groups that the losses can learn from. Raises DataError if there are none, or for labels that nDCG cannot take."""
    needs_positive = not (settings.loss and TEACHER_LOSSES >= set(settings.loss))
    check_labels((label for group in groups for label in group.labels), settings.gain, "training data")
    return list_groups(groups, needs_positive)
