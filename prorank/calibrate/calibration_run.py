"""Fit a checkpoint's calibration on labelled lists and write it into the checkpoint, or into a copy of it.

The saved calibration is fitted on all queries. Its figures are cross-validated over folds of queries.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..checkpoints.calibration import Calibration, check_prior, sigmoid
from ..checkpoints.card import calibrated
from ..checkpoints.resolve import Resolved, prompt_of, resolve
from ..data.examples import Group
from ..data.formats import read_groups
from ..errors import ConfigError, ModelError, nearest
from ..evaluate.reliability import draw, figures, pyplot
from ..prompts.prompt import Prompt
from ..utils.files import atomic_folder, check_folder, copy_folder
from .calibration_data import assign_folds, binary_labels, check_scores_rise, data_name, warn_of_training_data
from .fit import AUTO, METHODS, choose, fit, out_of_fold

log = logging.getLogger("prorank")
PICTURE = "reliability.png"
DEFAULT_COPY = Path("runs/calibrated")  # copy of a checkpoint that is not a local folder


class CalibrationRun(NamedTuple):
    """The result of `calibrate`.

    Attributes:
        calibration: the fitted calibration.
        path: file that it was written to.
        picture: file of the reliability diagram.
    """

    calibration: Calibration
    path: Path
    picture: Path


@dataclass(frozen=True)
class ScoredPairs:
    """Scores of labelled pairs.

    Attributes:
        scores: log-odds [n].
        prompt: fingerprint of the prompt.
        weights: hashes of the weights.
    """

    scores: np.ndarray
    prompt: str
    weights: list[str]


def calibrate(
    model: str | Path,
    data: str | Path,
    split: str = "dev",
    method: str = AUTO,
    folds: int = 5,
    seed: int = 0,
    min_rel: float | None = None,
    out: str | Path | None = None,
    progress: Callable[[float, dict], None] | None = None,
    copy: str | Path | None = None,
    prior: float | None = None,
    **options: Any,
) -> CalibrationRun:
    """Score labelled lists, fit a calibration, measure it on held-out folds, and write `calibration.json` into the checkpoint.

    Args:
        model: folder of a checkpoint or of its run; or another name of a checkpoint, which is then copied.
        data: labelled lists, pairs or a BEIR folder (`data.formats.read_groups`) that the model was not trained on.
        split: label file of a BEIR folder.
        method: "temperature", "platt", "isotonic", or "auto" for the one with the lowest log loss on held-out folds. With "auto",
            the figures are computed by `out_of_fold`, which chooses the method without the evaluated fold.
        folds: number of parts that the queries are split into.
        seed: seed of the split.
        min_rel: smallest label that counts as relevant; by default any label above 0.
        out: folder of the reliability diagram; the checkpoint's by default.
        progress: called with the share of pairs scored so far, and an empty dict.
        copy: folder for a copy of the checkpoint to write into. By default runs/calibrated if `model` is not a folder, else none.
        prior: share of relevant documents where the model is used, if it differs from that of the labels; probabilities are for it.
        **options: arguments of Reranker (device, dtype, prompt, think, ...).

    Raises:
        ConfigError: invalid arguments, a `copy` that exists, or a prompt of several documents.
        DataError: there are too few labels, or relevant documents do not score higher than others.
        ModelError: the checkpoint is unknown or cannot be written. Everything except the scores is checked before weights are
        loaded.
    """
    resolved = resolve(model, options.get("base"), options.get("trust_remote_code", False))
    target = _target(resolved, model, copy)
    _check_prompt(resolved, options.get("prompt"))
    _check(method, folds, out)
    if prior is not None:
        check_prior(prior)
    groups = read_groups(data, split)
    labels, fold = binary_labels(groups, min_rel, data), assign_folds(groups, min_rel, folds, seed, data)
    warn_of_training_data(resolved.folder, data, split)
    pyplot()
    scored = _score(model, groups, progress, options)
    scores = scored.scores
    check_scores_rise(scores, labels, data)
    chosen = choose(scores, labels, fold) if method == AUTO else method
    before, after = sigmoid(scores), out_of_fold(scores, labels, fold, method)
    calibration = replace(
        fit(scores, labels, chosen),
        prompt_id=scored.prompt,
        weights=scored.weights,
        data=data_name(data), split=split if Path(data).is_dir() else "", min_rel=min_rel, folds=folds, seed=seed,
        queries=len(groups), pairs=len(labels), relevant=float(labels.mean()), prior=prior,
        before=figures(before, labels), after=figures(after, labels),
    )  # fmt: skip
    _warn_if_no_better(model, calibration)
    path = _write(calibration, resolved.folder, target)
    series = {"before": before, f"after ({chosen})": after}
    return CalibrationRun(calibration, path, draw(series, labels, Path(out or path.parent) / PICTURE, data_name(data)))


def _target(resolved: Resolved, model: str | Path, copy: str | Path | None) -> Path | None:
    """Return the folder of the copy to write into, None to write into the checkpoint. Raises ConfigError or ModelError."""
    path = Path(os.path.expanduser(model))
    target = Path(copy) if copy else None if resolved.folder in (path, path / "model") else DEFAULT_COPY
    if target and target.exists():
        raise ConfigError(f"{target}: already exists; calibrate it (MODEL {target}), or name another folder with --copy")
    if not target and not os.access(resolved.folder, os.W_OK):
        raise ModelError(f"{resolved.folder}: cannot be written, but calibrate writes into it; name another folder with --copy")
    check_folder(target or resolved.folder)
    return target


def _check_prompt(resolved: Resolved, prompt: Any) -> None:
    """Raise ConfigError for a prompt of several documents, which gives no log-odds."""
    chosen = Prompt.of(prompt) if prompt else prompt_of(resolved)
    if chosen.lists:
        raise ConfigError(f"prompt {chosen.name} shows several documents and gives no log-odds, so there is nothing to calibrate")


def _check(method: str, folds: int, out: str | Path | None) -> None:
    """Raise ConfigError for an unknown method, too few folds or a file in place of the folder."""
    if method not in (AUTO, *METHODS):
        raise ConfigError(f"calibration method '{method}' is not known{nearest(method, (AUTO, *METHODS))}")
    if folds < 2:
        raise ConfigError(f"folds must be at least 2, not {folds}")
    if out and Path(out).exists() and not Path(out).is_dir():
        raise ConfigError(f"--out {out}: is a file, expected a folder")
    if out:
        check_folder(out)


def _score(
    model: str | Path, groups: Sequence[Group], progress: Callable[[float, dict], None] | None, options: dict[str, Any]
) -> ScoredPairs:
    """Score every pair of the groups with the model."""
    from ..reranker import Reranker

    reranker = Reranker(model, **{"long_documents": "truncate"} | options)  # a calibration is for documents in one prompt
    total, done = sum(len(group.documents) for group in groups), 0

    def count(documents: int) -> None:
        nonlocal done
        done += documents
        if progress:
            progress(done / total, {})

    rows = reranker.score_lists([group.query for group in groups], [group.documents for group in groups], progress=count)
    return ScoredPairs(np.concatenate(rows).astype(np.float64), reranker.prompt_fingerprint, reranker.weight_hashes)


def _warn_if_no_better(model: str | Path, calibration: Calibration) -> None:
    before, after = calibration.before["ece"], calibration.after["ece"]
    if after >= before:
        log.warning("%s: ECE does not fall on held-out queries (before %.4f, after %.4f)", model, before, after)


def _write(calibration: Calibration, folder: Path, copy: Path | None) -> Path:
    """Save a calibration into a checkpoint, or into a copy of it, atomically. Returns its file."""
    if copy is None:
        path = calibration.save(folder)
        calibrated(folder, calibration)
        return path
    with atomic_folder(copy) as beside:
        copy_folder(folder, beside)
        calibrated(beside, calibration, str(copy))
        return copy / calibration.save(beside).name
