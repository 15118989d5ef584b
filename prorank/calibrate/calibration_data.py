"""Labels and folds of a calibration, and checks that the data can serve for one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np

from ..data.examples import Group, query_key
from ..data.irds import is_irds
from ..errors import DataError
from ..utils.config_files import read_values

log = logging.getLogger("prorank")
MIN_QUERIES = 10  # with a relevant document, and as many with another one


def binary_labels(groups: Sequence[Group], min_rel: float | None, data: str | Path) -> np.ndarray:
    """Whether each document of each group is relevant.

    Args:
        groups: labelled lists.
        min_rel: smallest label that is relevant; any above 0 if None.
        data: name of the data in errors.

    Returns:
        [pairs] of 0 and 1, in order.

    Raises:
        DataError: all are the same.
    """
    labels = np.array([float(relevant) for group in groups for relevant in _relevant(group, min_rel)])
    if labels.min() == labels.max():
        share = "all" if labels.max() else "no"
        raise DataError(f"{data}: {share} documents are labelled relevant; a calibration needs both kinds")
    return labels


def assign_folds(groups: Sequence[Group], min_rel: float | None, folds: int, seed: int, data: str | Path) -> np.ndarray:
    """Assign each pair to a fold. Equal queries share a fold, and every fold gets queries with each of the two labels.

    Args:
        groups: labelled lists.
        min_rel: as in `binary_labels`.
        folds: their number.
        seed: of the assignment.
        data: name of the data in errors.

    Returns:
        [pairs] of 0..folds-1.

    Raises:
        DataError: too few queries with one of the labels.
    """
    labels_of: dict[str, set[bool]] = {}
    for group in groups:
        labels_of.setdefault(query_key(group.query), set()).update(_relevant(group, min_rel))
    needed = max(MIN_QUERIES, folds)
    for label, name in ((True, "a relevant document"), (False, "one that is not relevant")):
        if (count := sum(label in labels for labels in labels_of.values())) < needed:
            raise DataError(f"{data}: {count} queries have {name}; a calibration in {folds} folds needs at least {needed}")
    queries = sorted(labels_of)
    Random(f"folds/{seed}").shuffle(queries)
    # In this order queries with the same labels are neighbours, so dealing them out in turn leaves no fold without a label.
    queries.sort(key=lambda query: (True in labels_of[query], False not in labels_of[query]))
    fold_of = {query: i % folds for i, query in enumerate(queries)}
    return np.array([fold_of[query_key(group.query)] for group in groups for _ in group.documents])


def _relevant(group: Group, min_rel: float | None) -> list[bool]:
    return [label > 0 if min_rel is None else label >= min_rel for label in group.labels]


def data_name(data: str | Path) -> str:
    """Name of the data in figures and in the saved file, without the machine's folders."""
    return str(data) if is_irds(data) else Path(data).name


def warn_of_training_data(folder: Path, data: str | Path, split: str) -> None:
    """Warn if a run is calibrated on its own training data, where its scores are overconfident.

    Args:
        folder: the checkpoint's folder, inside its run if it has one.
        data: of the calibration.
        split: of the data if they are a BEIR folder.
    """
    config = folder.parent / "config.yaml"
    if folder.name != "model" or not config.is_file() or (Path(data).is_dir() and split != "train"):
        return
    trained_on = read_values(config).get("data") or []
    paths = [trained_on] if isinstance(trained_on, str) else trained_on
    if Path(data).resolve() in [Path(path).resolve() for path in paths]:
        log.warning("%s: the model was trained on these data; probabilities fitted on them will be overconfident", data)


def check_scores_rise(scores: np.ndarray, labels: np.ndarray, data: str | Path) -> None:
    """Raise DataError if relevant documents score no higher on average: the best slope would be 0 or negative."""
    relevant, other = scores[labels > 0].mean(), scores[labels == 0].mean()
    if relevant <= other:
        raise DataError(
            f"{data}: relevant documents score no higher than the others ({relevant:+.3f} against {other:+.3f} on average), so "
            f"their scores say nothing about relevance; is it the right checkpoint, prompt and data?"
        )
