"""Labels and folds of a calibration, and checks of the data."""

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
MIN_QUERIES = 10  # minimum number of queries with a relevant document, and with a non-relevant one


def binary_labels(groups: Sequence[Group], min_rel: float | None, data: str | Path) -> np.ndarray:
    """Return whether each document of each group is relevant.

    Args:
        groups: labelled lists.
        min_rel: smallest label that counts as relevant; None for any label above 0.
        data: name of the data in errors.

    Returns:
        Labels [pairs] of 0 and 1, in the order of the groups.

    Raises:
        DataError: all labels are equal.
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
        folds: number of folds.
        seed: seed of the assignment.
        data: name of the data in errors.

    Returns:
        Folds [pairs], 0 to folds - 1.

    Raises:
        DataError: there are too few queries with one of the labels.
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
    # Queries with the same labels are neighbours in this order, so assigning folds in turn gives every fold both labels.
    queries.sort(key=lambda query: (True in labels_of[query], False not in labels_of[query]))
    fold_of = {query: i % folds for i, query in enumerate(queries)}
    return np.array([fold_of[query_key(group.query)] for group in groups for _ in group.documents])


def _relevant(group: Group, min_rel: float | None) -> list[bool]:
    return [label > 0 if min_rel is None else label >= min_rel for label in group.labels]


def data_name(data: str | Path) -> str:
    """Return the name of the data for reports and the saved file, without the folders of this machine."""
    return str(data) if is_irds(data) else Path(data).name


def warn_of_training_data(folder: Path, data: str | Path, split: str) -> None:
    """Warn if a run is calibrated on its own training data, where its scores are overconfident.

    Args:
        folder: folder of the checkpoint, in its run folder if it has one.
        data: the data of the calibration.
        split: split of a BEIR folder.
    """
    config = folder.parent / "config.yaml"
    if folder.name != "model" or not config.is_file() or (Path(data).is_dir() and split != "train"):
        return
    trained_on = read_values(config).get("data") or []
    paths = [trained_on] if isinstance(trained_on, str) else trained_on
    if Path(data).resolve() in [Path(path).resolve() for path in paths]:
        log.warning("%s: the model was trained on these data; probabilities fitted on them will be overconfident", data)


def check_scores_rise(scores: np.ndarray, labels: np.ndarray, data: str | Path) -> None:
    """Raise DataError if relevant documents do not score higher on average, as the best slope would be 0 or negative.

    Args:
        scores: log-odds [pairs].
        labels: labels [pairs] of 0 and 1.
        data: name of the data in errors.
    """
    relevant, other = scores[labels > 0].mean(), scores[labels == 0].mean()
    if relevant <= other:
        raise DataError(
            f"{data}: relevant documents score no higher than the others ({relevant:+.3f} against {other:+.3f} on average), so "
            f"their scores do not indicate relevance; check checkpoint, prompt and data"
        )
