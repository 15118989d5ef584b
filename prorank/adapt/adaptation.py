"""Fine-tune a checkpoint on a team's own labels, and keep the result only if it is better on held-out queries.

No query is measured by weights that were trained on it, whatever its case and punctuation. Of many queries a part is held out. Of
few none can be spared: three trainings hold out a third each, all queries decide, and the result is the mean of the three weights.
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
from ..checkpoints.resolve import licence_of, prompt_of, resolve
from ..data.examples import Group
from ..data.formats import write_groups
from ..errors import ConfigError
from ..evaluate.gains import LINEAR, check_gain
from ..reranker import Reranker
from ..train.run import train
from ..train.run_folder import is_done
from ..train.settings.common_settings import Lora, max_list_size
from ..train.settings.stage_settings import Score
from ..utils.files import atomic_file, check_folder
from .adaptation_plan import AdaptationPlan, choose_blend_weights, choose_settings
from .adaptation_result import AdaptationResult, Rows, compare
from .held_out_folds import Fold, read_labelled_lists, split_folds
from .weight_averaging import interpolate_weights

RESULT_FILE = "adapted.json"
PASSES = 4.0  # over the documents, at most
Report = Callable[[float, dict], None]


def adapt(
    data: str | Path | Sequence[str | Path], model: str = DEFAULT, out: str | Path = "runs/adapted", minutes: float = 7.0,
    held_out: int | None = None, seed: int = 0, report: Report | None = None, blend_weight: float | None = None,
    gain: str = LINEAR, keep_anyway: bool = False, **settings: Any,
) -> AdaptationResult:  # fmt: skip
    """Train `model` by stage `score` on labelled data, and copy the result to `<out>/model` if it ranks held-out queries better.

    An adapter is trained further as an adapter; of other checkpoints all weights are trained. The log-likelihood of the held-out
    relevant documents decides: it must gain beyond chance (two-sided p below .05). nDCG is a coarser measure, which moves more by
    chance than by training on few queries; a model that loses nDCG beyond chance is not kept either.

    Args:
        data: labels or logs: BEIR folders or ir_datasets:NAME (negatives are mined beside the judged documents), JSONL pairs or
            lists.
        model: checkpoint to start from.
        out: folder of the run; a run that was stopped is resumed.
        minutes: of all training at most; it ends earlier after four passes over the documents. Measuring takes extra time.
        held_out: queries that decide. By default a fifth, at most 200; of fewer than 150 queries all decide, each held out by one
            of three trainings.
        seed: of the split and the training.
        report: called with the share of the budget that is spent, and the latest figures.
        blend_weight: share of the trained weights in the result, the rest being those of `model`, so that it forgets less. By
            default .5 (.75 of the mean of three trainings) for a checkpoint that has a prompt of its own and so has learnt to
            rank, and 1 for others.
        gain: of a label in the losses, in the nDCG that is printed and in the likelihood that decides: "linear", the label, or
            "exponential", 2^label - 1.
        keep_anyway: keep the new checkpoint even without evidence that it is better. If `out` holds a finished run that kept
            none, its weights are taken from there.
        settings: of stage `score`, see docs/reference/settings.md. `device`, `dtype` and `compile` also apply to measuring.

    Raises:
        DataError: fewer than 10 queries with a relevant and another document could decide.
        ConfigError: `out` holds a finished run, or `model` has a prompt of several documents.
    """
    out = Path(out)
    finished = _finished(out, model, keep_anyway)
    check_folder(out)
    start = resolve(model)
    check_gain(gain)
    chosen = choose_settings(start, {"gain": gain, **settings})
    weights = choose_blend_weights(start, blend_weight)
    sources = [str(source) for source in ([data] if isinstance(data, (str, Path)) else data)]
    plan = AdaptationPlan(model, start, weights, out, sources, {"minutes": minutes, "seed": seed, **chosen})
    if finished:
        return _keep(plan, finished)
    groups = read_labelled_lists(sources)
    result = _train_and_compare(plan, groups, split_folds(groups, held_out, seed), report)
    return _keep(plan, result) if result.better or keep_anyway else _save(out, result)


def _train_and_compare(plan: AdaptationPlan, groups: list[Group], folds: list[Fold], report: Report | None) -> AdaptationResult:
    """Train on each fold, and compare the results with the start on the queries that decide."""
    after: list[Sequence[float] | np.ndarray] = []
    for i, fold in enumerate(folds):
        folder = plan.folder(i, len(folds))
        stage = _stage(plan, fold, folder, len(folds))
        trained = _trained(stage, report and partial(_report_share, report, i, len(folds)))
        blended = interpolate_weights(plan.start, trained, folder / "made", plan.measured_blend(len(folds)))
        after += scores_of(blended, fold.deciding, stage.prompt, **_compute_options(stage))
        shutil.rmtree(blended)
    deciding = [group for fold in folds for group in fold.deciding]
    before = scores_of(plan.model, deciding, plan.settings["prompt"], **_compute_options(stage))
    trained_on = len(folds[0].training if len(folds) == 1 else groups)
    models, gain = (plan.model, str(plan.out / "model")), plan.settings["gain"]
    return compare(deciding, before, after, models, gain, trained_on=trained_on, trainings=len(folds))


def _compute_options(stage: Score) -> dict[str, Any]:
    """Options of Reranker that measure a checkpoint the way it was trained."""
    return {"device": stage.device, "dtype": stage.dtype, "compile": stage.compile}


def _save(out: Path, result: AdaptationResult) -> AdaptationResult:
    """Write the result to `adapted.json`."""
    with atomic_file(out / RESULT_FILE) as handle:
        json.dump(asdict(result), handle, indent=2, allow_nan=False)
    return result


def _keep(plan: AdaptationPlan, result: AdaptationResult) -> AdaptationResult:
    """Write the new weights and their card to `<out>/model`, and the result."""
    result = replace(result, model=str(plan.out / "model"), kept_anyway=not result.better)
    trainings = result.trainings
    share = plan.blend_weights.single if trainings == 1 else plan.blend_weights.mean
    settings = {key: asdict(value) if isinstance(value, Lora) else value for key, value in plan.settings.items()}
    card = adapted_card(
        str(plan.out), plan.model, hub_base(plan.model, plan.start.folder), licence_of(plan.model, plan.start.folder), plan.sources,
        settings, asdict(result), (share, plan.measured_blend(trainings)), command_line("prorank.adapt"),
    )  # fmt: skip
    trained = [plan.folder(i, trainings) / "run" / "model" for i in range(trainings)]
    interpolate_weights(plan.start, trained, plan.out / "model", share, card)
    return _save(plan.out, result)


def _finished(out: Path, model: str, keep_anyway: bool) -> AdaptationResult | None:
    """The result of an earlier call whose weights are to be kept now; None if `out` holds no finished run.

    Raises:
        ConfigError: `out` holds a finished run from which nothing is to be kept.
    """
    if not (out / RESULT_FILE).is_file():
        return None
    result = AdaptationResult(**json.loads((out / RESULT_FILE).read_text(encoding="utf-8")))
    if result.better or result.kept_anyway:
        raise ConfigError(f"{out}: holds an adapted model already; choose another folder")
    if not keep_anyway or result.model != model:
        remedy = "choose another folder, or keep its weights by --keep-anyway"
        raise ConfigError(f"{out}: holds a run from {result.model} that ended without a significant gain; {remedy}")
    return result


def _stage(plan: AdaptationPlan, fold: Fold, folder: Path, trainings: int) -> Score:
    """Settings of one training; its lists are written into `folder`.

    One epoch draws `list_size` documents of each list, so lists that are longer need more epochs for one pass over their documents.
    """
    for name, groups in (("train", fold.training), ("held-out", fold.deciding)):
        write_groups(folder / f"{name}.jsonl", groups)
    documents = float(np.mean([len(group.documents) for group in fold.training]))
    epochs = PASSES * max(1.0, documents / max_list_size(plan.settings["list_size"]))
    settings = {"max_epochs": epochs, **plan.settings, "minutes": plan.settings["minutes"] / trainings}
    return Score(base=plan.model, data=str(folder / "train.jsonl"), out=str(folder / "run"), **settings)


def _trained(stage: Score, report: Report | None) -> Path:
    """Run a training unless an earlier call finished it. Returns its checkpoint."""
    run = Path(stage.out)
    if not is_done(run):
        train(stage, resume=True, report=report)
    return run / "model"


def _report_share(report: Report, training: int, trainings: int, share: float, figures: dict) -> None:
    """Report the share of all trainings that is done while one of them, counted from 0, has done `share` of its own."""
    report((training + share) / trainings, figures)


def scores_of(checkpoint: str | Path, groups: Sequence[Group], prompt: Any, **options: Any) -> Rows:
    """Score each group's own documents by a checkpoint.

    Args:
        checkpoint: as `Reranker` takes it.
        groups: labelled lists.
        prompt: for a checkpoint without a prompt of its own.
        options: of Reranker.

    Returns:
        One row of scores a group.
    """
    reranker = Reranker(checkpoint, prompt=prompt_of(resolve(checkpoint), prompt), **options)
    return reranker.score_lists([group.query for group in groups], [list(group.documents) for group in groups])
