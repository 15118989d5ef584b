"""Fine-tune a checkpoint on a team's own labels, and keep it only if it is better on queries it has not seen.

No query, whatever its case and marks, is measured by weights that were trained on it. Of many queries a part is held
out; of few none can be spared: three trainings hold out a third each, all decide, and the mean of the three weights is the result.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.card import adapted_card, command_line, hub_base
from ..checkpoints.default_model import DEFAULT
from ..checkpoints.resolve import Resolved, licence_of, prompt_of, resolve
from ..data.examples import Group, fold_groups, list_groups, query_key, split_groups
from ..data.formats import is_collection, read_collection, read_groups, write_groups
from ..data.negatives import mine
from ..errors import ConfigError, DataError
from ..evaluate.gains import LINEAR, check_gain
from ..evaluate.list_likelihood import log_likelihood
from ..evaluate.measures import ndcg_of
from ..evaluate.significance import randomisation_test
from ..prompts.prompt import Prompt
from ..reranker import Reranker
from ..train.run import train
from ..train.run_folder import is_done
from ..train.settings.common_settings import Lora, max_list_size
from ..train.settings.stage_settings import Score
from ..utils.files import atomic_file, check_folder
from .adaptation_result import SURE, AdaptationResult
from .weight_averaging import blend as blend_weights

Rows = Sequence[Sequence[float] | np.ndarray]  # scores of the documents of each list
LEAST = 10  # queries that decide
FEW, FOLDS = 150, 3  # below so many queries each is held out once, by one of so many trainings
PASSES = 4.0  # over the documents, at most
RATES = {"adapter": 5e-4, "weights": 3e-5}  # learning rates
SHARE, OF_MEAN = 0.5, 0.75  # of the weights of one training, or of the mean of several, where the start has learnt to rank


def adapt(
    data: str | Path | Sequence[str | Path], model: str = DEFAULT, out: str | Path = "runs/adapted", minutes: float = 7.0,
    held_out: int | None = None, seed: int = 0, report: Callable[[float, dict], None] | None = None, blend: float | None = None,
    gain: str = LINEAR, keep_anyway: bool = False, **settings: Any,
) -> AdaptationResult:  # fmt: skip
    """Train `model` by stage `score` on labelled data, and copy the result to `<out>/model` if it ranks held-out queries better.

    An adapter goes on being trained as it is; of another checkpoint all weights are. What decides is the log-likelihood of the
    held-out relevant documents, which must gain beyond chance (two-sided p below .05): with few queries nDCG moves more by chance
    than by training. One that loses nDCG beyond chance is not kept either.

    Args:
        data: labels or logs: BEIR folders or ir_datasets:NAME (negatives are mined beside those judged), JSONL pairs or lists.
        model: checkpoint to start from.
        out: folder of the run; a run that was stopped goes on.
        minutes: of all training at most; it ends earlier after four passes over the documents. Measuring comes on top.
        held_out: queries that decide. By default a fifth, at most 200; of fewer than 150 queries all decide, each held out by one
            of three trainings.
        seed: of the split and the training.
        report: hears of the share of the budget spent and the latest figures.
        blend: share of the trained weights in the result, the rest being those of `model`, so that it forgets less. By default
            a half (of the mean of three trainings three quarters) for a checkpoint that has a prompt of its own and so has learnt
            to rank, and all for others.
        gain: of a label in the losses, in the nDCG that is printed and in the likelihood that decides: "linear", the label, or
            "exponential", 2^label - 1.
        keep_anyway: keep the new checkpoint without evidence that it is better, too; for a finished `out` that kept none, it is
            taken from there.
        settings: of stage `score`, see docs/training.md; `device`, `dtype` and `compile` are those of the measures, too.

    Raises:
        DataError: fewer than 10 queries with a relevant and another document could decide. ConfigError: `out` holds a finished
        run; `model` is shown several documents at once.
    """
    out = Path(out)
    finished = _finished(out, model, keep_anyway)
    check_folder(out)
    start = resolve(model)
    check_gain(gain)
    chosen, shares = _settings(start, {"gain": gain, **settings}), _shares(start, blend)
    sources = [data] if isinstance(data, (str, Path)) else data
    keep = partial(_keep, model, start, shares, out, sources, {"minutes": minutes, "seed": seed, **chosen})
    if finished:
        return keep(finished)
    groups = _groups(sources)
    folds = _folds(groups, held_out, seed)
    alone = _alone(shares[len(folds) > 1], len(folds))
    decided = [group for _, decide in folds for group in decide]
    runs: list[Path] = []
    after: list[Sequence[float] | np.ndarray] = []
    for place, (train_on, decide) in enumerate(folds):
        folder = out if len(folds) == 1 else out / f"fold-{place + 1}"
        stage = _stage(folder, model, train_on, decide, {"minutes": minutes / len(folds), "seed": seed, **chosen})
        runs.append(_trained(stage, report and partial(_share_of, report, place, len(folds))))
        made = blend_weights(start, runs[-1], folder / "made", alone)
        after += scores_of(made, decide, stage.prompt, **_computed(stage))
        shutil.rmtree(made)
    before = scores_of(model, decided, chosen["prompt"], **_computed(stage))
    trained_on = len(folds[0][0] if len(folds) == 1 else groups)
    found = _found(decided, before, after, (model, str(out / "model")), gain, trained_on=trained_on, trainings=len(folds))
    return keep(found) if found.better or keep_anyway else _noted(out, found)


def _computed(stage: Score) -> dict[str, Any]:
    """How a training computes, for the Rerankers that measure what came of it."""
    return {"device": stage.device, "dtype": stage.dtype, "compile": stage.compile}


def _noted(out: Path, found: AdaptationResult) -> AdaptationResult:
    """The result, written to `adapted.json`."""
    with atomic_file(out / "adapted.json") as handle:
        json.dump(asdict(found), handle, indent=2, allow_nan=False)
    return found


def _keep(
    model: str, start: Resolved, shares: tuple[float, float], out: Path, data: Sequence[str | Path], told: dict[str, Any],
    found: AdaptationResult,
) -> AdaptationResult:  # fmt: skip
    """Write the new weights to `<out>/model`, with a card; where they are not better, the result says so."""
    found = replace(found, model=str(out / "model"), kept_anyway=not found.better)
    share = shares[found.trainings > 1]
    folders = [out] if found.trainings == 1 else [out / f"fold-{place + 1}" for place in range(found.trainings)]
    about = (model, hub_base(model, start.folder), licence_of(model, start.folder))
    settings = {key: asdict(value) if isinstance(value, Lora) else value for key, value in told.items()}
    measured = (share, _alone(share, found.trainings))
    command = command_line("prorank.adapt.adaptation.adapt")
    card = adapted_card(str(out), *about, list(map(str, data)), settings, asdict(found), measured, command)
    blend_weights(start, [folder / "run" / "model" for folder in folders], out / "model", share, card)
    return _noted(out, found)


def _alone(share: float, trainings: int) -> float:
    """The share of its weights that each training is measured with: chance moves one so much more than the mean of several. Of a
    start that cannot rank nothing is kept."""
    return share / trainings**0.5 if share < 1 else 1.0


def _finished(out: Path, model: str, keep_anyway: bool) -> AdaptationResult | None:
    """What an earlier call found without keeping its weights, which are wanted now; None where there was none. Raises ConfigError
    where there is nothing to keep."""
    if not (out / "adapted.json").is_file():
        return None
    found = AdaptationResult(**json.loads((out / "adapted.json").read_text(encoding="utf-8")))
    if found.better or found.kept_anyway:
        raise ConfigError(f"{out}: holds an adapted model already; choose another folder")
    if not keep_anyway or found.model != model:
        remedy = "choose another folder, or keep its weights by --keep-anyway"
        raise ConfigError(f"{out}: holds a run from {found.model} that ended without a significant gain; {remedy}")
    return found


def _stage(folder: Path, model: str, train_on: list[Group], decide: list[Group], chosen: dict[str, Any]) -> Score:
    """Settings of one training in `folder`, where its lists and those that decide are written. A pass over lists that are longer
    than what is drawn of them is a part of one over their documents."""
    for name, groups in (("train", train_on), ("held-out", decide)):
        write_groups(folder / f"{name}.jsonl", groups)
    longer = float(np.mean([len(group.documents) for group in train_on])) / max_list_size(chosen["list_size"])
    passes = {"max_epochs": PASSES * max(1.0, longer)}
    return Score(base=model, data=str(folder / "train.jsonl"), out=str(folder / "run"), **passes | chosen)


def _trained(stage: Score, report: Callable[[float, dict], None] | None) -> Path:
    """The checkpoint that a training leaves, from an earlier call if that came to its end."""
    run = Path(stage.out)
    if not is_done(run):
        train(stage, resume=True, report=report)
    return run / "model"


def _share_of(report: Callable[[float, dict], None], place: int, count: int, share: float, figures: dict) -> None:
    """Tell of the share that a training in its `place` among `count` has of all."""
    report((place + share) / count, figures)


def _found(
    groups: list[Group], before: Rows, after: Rows, models: tuple[str, str], gain: str = LINEAR, *, trained_on: int,
    trainings: int = 1,
) -> AdaptationResult:  # fmt: skip
    """What the scores of those that decide say, before and after, of the old and the new of `models`."""
    labels = [group.labels for group in groups]
    old, new = (ndcg_of(labels, scores, gain) for scores in (before, after))
    unlikely, likely = (log_likelihood(scores, labels, gain) for scores in (before, after))
    p, gained = randomisation_test(new, old), float((likely - unlikely).mean())
    gained_p = randomisation_test(likely, unlikely)
    better = gained > 0 and gained_p < SURE and bool(new.mean() >= old.mean() or p >= SURE)
    return AdaptationResult(
        float(old.mean()), float(new.mean()), p, gained, gained_p, len(groups), trained_on, better, models[better], trainings, gain,
    )  # fmt: skip


def _shares(start: Resolved, blend: float | None) -> tuple[float, float]:
    """The share of the weights of one training, and of the mean of several. Raises ConfigError for one outside of 0..1."""
    if blend is None:
        return (SHARE, OF_MEAN) if Prompt.load(start.folder) else (1.0, 1.0)
    if not 0 < blend <= 1:
        raise ConfigError(f"blend must be above 0 and at most 1, not {blend}")
    return blend, blend


def _settings(start: Resolved, given: dict[str, Any]) -> dict[str, Any]:
    """Settings of the stage for this start. Raises ConfigError for prompts of several documents, which cannot be measured here."""
    own = {"lora": Lora(), "learning_rate": RATES["adapter"]} if start.adapter else {"learning_rate": RATES["weights"]}
    chosen = {"list_size": 6, "prompt": "echo", "dev_queries": 0, "num_evaluations": 0, **own, **given}
    for prompt in (prompt_of(start, chosen["prompt"]), Prompt.of(chosen["prompt"])):
        if prompt.lists:
            why = f"prompt {prompt.name} shows several documents, and adapt trains models that judge each alone"
            raise ConfigError(f"{start.name}: {why}; use stage score itself")
    return chosen


def _groups(sources: Sequence[str | Path]) -> list[Group]:
    """Lists of all sources; a collection gets mined negatives beside those that are judged."""
    groups: list[Group] = []
    for source in sources:
        mined = is_collection(source)
        groups += mine(read_collection(source, "train"), negatives=8, random=4)[0] if mined else read_groups(source, "train")
    return list_groups(groups)


def _folds(groups: list[Group], held_out: int | None, seed: int) -> list[tuple[list[Group], list[Group]]]:
    """(training, decision) of each training: groups of different queries."""
    queries = len({query_key(group.query) for group in groups})
    if held_out is None and queries < FEW:
        folds = fold_groups(groups, FOLDS, seed)
    else:
        folds = [split_groups(groups, held_out or min(200, queries // 5), seed)]
    deciding = sum(len(decide) for _, decide in folds)
    if deciding < LEAST or not all(train_on for train_on, _ in folds):
        why = f"{deciding} of {queries} queries could be held out, and at least {LEAST} have to decide"
        raise DataError(f"too few queries with a relevant and another document: {why}; label more")
    return folds


def scores_of(checkpoint: str | Path, groups: Sequence[Group], prompt: Any, **how: Any) -> Rows:
    """Scores of each group's own documents by a checkpoint, with the prompt it has or else `prompt`; `how`: of Reranker."""
    reranker = Reranker(checkpoint, prompt=prompt_of(resolve(checkpoint), prompt), **how)
    return reranker.score_lists([g.query for g in groups], [list(g.documents) for g in groups])
