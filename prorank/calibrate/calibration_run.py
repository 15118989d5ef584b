"""Fit a checkpoint's calibration on labelled lists and write it into the checkpoint, or into a copy of it.

The figures are of queries that the fit had not seen (folds by query); the calibration that is written is fitted on all.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from ..checkpoints.calibration import Calibration, sigmoid
from ..checkpoints.card import calibrated
from ..checkpoints.resolve import Resolved, prompt_of, resolve
from ..data.examples import Group, query_key
from ..data.formats import read_groups
from ..data.irds import is_irds
from ..errors import ConfigError, DataError, ModelError, nearest
from ..evaluate.reliability import draw, figures, pyplot
from ..prompts.prompt import Prompt
from ..utils.config_files import read_values
from ..utils.files import atomic_folder, check_folder, copy_folder
from .fit import AUTO, METHODS, choose, fit, out_of_fold

log = logging.getLogger("prorank")
LEAST = 10  # queries with a relevant document, and with another one
PICTURE = "reliability.png"
COPY = Path("runs/calibrated")  # of a checkpoint that is no folder of the user's own


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
    **how: Any,
) -> tuple[Calibration, Path, Path]:
    """Score labelled lists, fit, measure on held-out folds, write `calibration.json` into the checkpoint.

    Args:
        model: a checkpoint's folder, its run's, or another name of a checkpoint, which is copied.
        data: labelled lists, pairs or BEIR folder (`data.formats.read_groups`) that the model was not trained on.
        split: label file of a BEIR folder.
        method: "temperature", "platt", "isotonic", or "auto" for the one of least log loss on held-out folds;
            its figures are those of `out_of_fold`, where no fold has a say in the method it is measured by.
        folds: parts that the queries are split into, at random by `seed`.
        min_rel: least label that is relevant; any above 0 by default.
        out: folder of the picture; the checkpoint's by default.
        progress: hears of the share that is scored.
        copy: folder of a copy of the checkpoint to write into; by default runs/calibrated where `model` is no folder, else none.
        how: arguments of Reranker (device, dtype, prompt, think, ...).

    Returns:
        (calibration, its file, the reliability diagram).

    Raises:
        ConfigError, DataError, ModelError: before any weights are read, but for scores that do not rise with relevance (DataError).
    """
    resolved = resolve(model, how.get("base"), how.get("trust_remote_code", False))
    folder, copy = _folders(resolved, model, how.get("prompt"), copy)
    _check(method, folds, out)
    groups = read_groups(data, split)
    labels, fold = _labels(groups, min_rel, data), _folds(groups, min_rel, folds, seed, data)
    _warn_of_training_data(folder, data, split)
    pyplot()
    scores, asked, weights = _score(model, groups, progress, how)
    _check_scores(scores, labels, data)
    chosen = choose(scores, labels, fold) if method == AUTO else method
    raw, said = sigmoid(scores), out_of_fold(scores, labels, fold, method)
    found = replace(
        fit(scores, labels, chosen), prompt_id=asked, weights=weights, data=_name(data), min_rel=min_rel, folds=folds, seed=seed,
        split=split if Path(data).is_dir() else "", queries=len(groups), pairs=len(labels), relevant=float(labels.mean()),
        before=figures(raw, labels), after=figures(said, labels),
    )  # fmt: skip
    if found.after["ece"] >= found.before["ece"]:
        log.warning("%s: ECE does not fall on held-out queries (%.4f, %.4f)", model, found.before["ece"], found.after["ece"])
    path = _write(found, folder, copy)
    picture = draw({"before": raw, f"after ({chosen})": said}, labels, Path(out or path.parent) / PICTURE, _name(data))
    return found, path, picture


def _folders(resolved: Resolved, model: str | Path, prompt: Any, copy: str | Path | None) -> tuple[Path, Path | None]:
    """(the checkpoint's folder, that of the copy to write into or None); it must be asked about one document at a time."""
    path = Path(os.path.expanduser(model))
    target = Path(copy) if copy else None if resolved.folder in (path, path / "model") else COPY
    if target and target.exists():
        raise ConfigError(f"{target}: is there already; calibrate that one (MODEL {target}), or name another folder by --copy")
    if not target and not os.access(resolved.folder, os.W_OK):
        raise ModelError(f"{resolved.folder}: cannot be written, and calibrate writes into the checkpoint; name a --copy")
    check_folder(target or resolved.folder)
    chosen = Prompt.of(prompt) if prompt else prompt_of(resolved)
    if chosen.lists:
        raise ConfigError(f"prompt {chosen.name} shows several documents and gives no log-odds, so there is nothing to calibrate")
    return resolved.folder, target


def _write(found: Calibration, folder: Path, copy: Path | None) -> Path:
    """Save the calibration into the checkpoint, or into a copy of it, which appears whole; returns its file."""
    if copy is None:
        path = found.save(folder)
        calibrated(folder, found)
        return path
    with atomic_folder(copy) as beside:
        copy_folder(folder, beside)
        calibrated(beside, found, str(copy))
        return copy / found.save(beside).name


def _check(method: str, folds: int, out: str | Path | None) -> None:
    if method not in (AUTO, *METHODS):
        raise ConfigError(f"calibration method '{method}' is not known{nearest(method, (AUTO, *METHODS))}")
    if folds < 2:
        raise ConfigError(f"folds must be at least 2, not {folds}")
    if out and Path(out).exists() and not Path(out).is_dir():
        raise ConfigError(f"--out {out}: is a file, expected a folder")
    if out:
        check_folder(out)


def _relevant(group: Group, min_rel: float | None) -> list[bool]:
    return [label > 0 if min_rel is None else label >= min_rel for label in group.labels]


def _labels(groups: Sequence[Group], min_rel: float | None, data: str | Path) -> np.ndarray:
    """0 or 1 of every pair, in order. Raises DataError where all are the same."""
    labels = np.array([float(one) for group in groups for one in _relevant(group, min_rel)])
    if labels.min() == labels.max():
        some = "all" if labels.max() else "no"
        raise DataError(f"{data}: {some} documents are labelled relevant; a calibration needs both kinds")
    return labels


def _folds(groups: Sequence[Group], min_rel: float | None, folds: int, seed: int, data: str | Path) -> np.ndarray:
    """The fold of every pair: equal queries stay together, and every fold gets queries with each of the two labels."""
    kinds: dict[str, set[bool]] = {}
    for group in groups:
        kinds.setdefault(query_key(group.query), set()).update(_relevant(group, min_rel))
    need = max(LEAST, folds)
    for kind, name in ((True, "a relevant document"), (False, "another one")):
        if (there := sum(kind in some for some in kinds.values())) < need:
            raise DataError(f"{data}: {there} queries have {name}; a calibration in {folds} folds needs at least {need}")
    queries = sorted(kinds)
    Random(f"folds/{seed}").shuffle(queries)
    # Dealt out in this order, the queries of either label lie side by side, so none of the folds goes without.
    queries.sort(key=lambda query: (True in kinds[query], False not in kinds[query]))
    fold = {query: place % folds for place, query in enumerate(queries)}
    return np.array([fold[query_key(g.query)] for g in groups for _ in g.documents])


def _name(data: str | Path) -> str:
    """Data as they are called in figures: without the machine's folders."""
    return str(data) if is_irds(data) else Path(data).name


def _warn_of_training_data(folder: Path, data: str | Path, split: str) -> None:
    """Say so where a run's own training data are to calibrate it: scores on them are too sure."""
    config = folder.parent / "config.yaml"
    if folder.name != "model" or not config.is_file() or (Path(data).is_dir() and split != "train"):
        return
    used = read_values(config).get("data") or []
    if Path(data).resolve() in [Path(one).resolve() for one in ([used] if isinstance(used, str) else used)]:
        log.warning("%s: the model was trained on these data; probabilities fitted on them will be too sure", data)


def _score(
    model: str | Path, groups: Sequence[Group], progress: Callable[[float, dict], None] | None, how: dict[str, Any]
) -> tuple[np.ndarray, str, list[str]]:
    """(log-odds of every pair, how it was asked, hashes of the weights)."""
    from ..reranker import Reranker

    reranker, total, done = Reranker(model, **how), sum(len(group.documents) for group in groups), 0

    def hear(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done / total, {})

    rows = reranker.score_lists([group.query for group in groups], [group.documents for group in groups], progress=hear)
    return np.concatenate(rows).astype(np.float64), reranker.asked, reranker.weights


def _check_scores(scores: np.ndarray, labels: np.ndarray, data: str | Path) -> None:
    """Raise DataError where the best slope is none or falls: the mean scores of the two labels tell."""
    yes, no = scores[labels > 0].mean(), scores[labels == 0].mean()
    if yes <= no:
        raise DataError(
            f"{data}: relevant documents score no higher than the others ({yes:+.3f} against {no:+.3f} on average), so their "
            f"scores tell nothing of relevance; is it the right checkpoint, prompt and data?"
        )
