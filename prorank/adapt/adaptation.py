"""Fine-tune a checkpoint on a team's own labels, and keep the result only if it is better on held-out queries.

No query is scored by weights that were trained on it; queries that differ only in case and punctuation count as the same. With many
queries, one part is held out. With few queries, there are three trainings that hold out a third each, so that every query is
evaluated once, and the result is the mean of their weights.
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
from ..data.languages import AUTO
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
from .best_chunks import best_chunks
from .held_out_folds import Fold, check_source_language, read_labelled_lists, split_folds
from .weight_averaging import interpolate_weights

RESULT_FILE = "adapted.json"
PASSES = 4.0  # maximum number of passes over the documents
Report = Callable[[float, dict], None]


def adapt(
    data: str | Path | Sequence[str | Path], model: str = DEFAULT, out: str | Path = "runs/adapted", minutes: float = 7.0,
    held_out: int | None = None, seed: int = 0, report: Report | None = None, blend_weight: float | None = None,
    gain: str = LINEAR, keep_anyway: bool = False, long_documents: str = "auto", language: str = AUTO,
    **settings: Any,
) -> AdaptationResult:  # fmt: skip
    """Train `model` by stage `score` on labelled data, and copy the result to `<out>/model` if it ranks held-out queries better.

    If `model` is an adapter, the adapter is trained, otherwise all weights. The new model is kept if the log-likelihood of the
    held-out relevant documents rises significantly (two-sided p below .05) and nDCG does not fall significantly. With few queries,
    nDCG alone is too coarse to show a gain.

    Args:
        data: labels or logs: BEIR folders or ir_datasets:NAME (negatives are mined in addition to the judged documents), JSONL
            pairs or lists.
        model: checkpoint to start from.
        out: folder of the run; an interrupted run is resumed.
        minutes: maximum time of all trainings together, which also end after four passes over the documents. Evaluation takes extra
            time.
        held_out: number of held-out queries. By default a fifth, at most 200; with fewer than 150 queries all of them, each in one
            of three trainings.
        seed: seed of the split and the training.
        report: called with the share of the budget used so far, and the latest figures.
        blend_weight: share of the trained weights in the result; the rest are weights of `model`, which reduces forgetting. By
            default .5 (.75 for the mean of three trainings) if the checkpoint has a prompt and thus was trained to rank, else 1.
        gain: gain of a label in the losses, in nDCG and in the likelihood: "linear", the label, or "exponential", 2^label - 1.
        keep_anyway: keep the new checkpoint even without evidence that it is better. If `out` contains a finished run that kept
            none, its weights are used without training again.
        long_documents: how documents that do not fit into a prompt are read, see `Reranker`. If in chunks, training reads the best
            chunk of such a document by the scores of `model`.
        language: language of BM25, which mines the negatives of BEIR folders and ir_datasets; "auto" detects it from the corpus.
        **settings: settings of stage `score`, see docs/reference/settings.md. `device`, `dtype` and `compile` also apply to the
            evaluation.

    Raises:
        DataError: fewer than 10 queries with a relevant and a non-relevant document can be held out.
        ConfigError: `out` contains a finished run, `model` has a prompt of several documents, a setting is unknown or invalid, or
            `language` is set but no labels need BM25.
    """
    out = Path(out)
    finished = _finished(out, model, keep_anyway)
    check_folder(out)
    start = resolve(model)
    check_gain(gain)
    chosen = choose_settings(start, {"gain": gain, **settings})
    weights = choose_blend_weights(start, blend_weight)
    sources = [str(source) for source in ([data] if isinstance(data, (str, Path)) else data)]
    check_source_language(sources, language)
    plan = AdaptationPlan(model, start, weights, out, sources, {"minutes": minutes, "seed": seed, **chosen}, long_documents)
    plan.stage(sources[0] if sources else "", out)  # raises ConfigError for wrong settings before labels are read
    if finished:
        return _keep(plan, finished)
    groups = read_labelled_lists(sources, language)
    result = _train_and_compare(plan, groups, split_folds(groups, held_out, seed), report)
    return _keep(plan, result) if result.better or keep_anyway else _save(out, result)


def _train_and_compare(plan: AdaptationPlan, groups: list[Group], folds: list[Fold], report: Report | None) -> AdaptationResult:
    """Train on each fold, and compare the results with the start on the held-out queries."""
    after: list[Sequence[float] | np.ndarray] = []
    prompt = plan.settings["prompt"]
    options = {**_compute_options(plan.stage(plan.out / "train.jsonl", plan.out)), "long_documents": plan.long_documents}
    start = Reranker(plan.model, prompt=prompt_of(plan.start, prompt), **options)
    readable = dict(zip(map(id, groups), best_chunks(start, groups)))
    del start  # free its memory before the trainings
    for i, fold in enumerate(folds):
        folder = plan.folder(i, len(folds))
        stage = _stage(plan, fold._replace(training=[readable[id(group)] for group in fold.training]), folder, len(folds))
        trained = _trained(stage, report and partial(_report_share, report, i, len(folds)))
        blended = interpolate_weights(plan.start, trained, folder / "made", plan.measured_blend(len(folds)))
        after += scores_of(blended, fold.deciding, prompt, **options)
        shutil.rmtree(blended)
    deciding = [group for fold in folds for group in fold.deciding]
    before = scores_of(plan.model, deciding, prompt, **options)
    trained_on = len(folds[0].training if len(folds) == 1 else groups)
    models, gain = (plan.model, str(plan.out / "model")), plan.settings["gain"]
    return compare(deciding, before, after, models, gain, trained_on=trained_on, trainings=len(folds))


def _compute_options(stage: Score) -> dict[str, Any]:
    """Return options of Reranker to score a checkpoint with the device and number format of its training."""
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
    """Return the result of an earlier call whose weights are kept now; None if `out` contains no finished run.

    Raises:
        ConfigError: `out` contains a finished run, and `keep_anyway` does not apply.
    """
    if not (out / RESULT_FILE).is_file():
        return None
    result = AdaptationResult(**json.loads((out / RESULT_FILE).read_text(encoding="utf-8")))
    if result.better or result.kept_anyway:
        raise ConfigError(f"{out}: already contains an adapted model; choose another folder")
    if not keep_anyway or result.model != model:
        remedy = "choose another folder, or keep its weights with --keep-anyway"
        raise ConfigError(f"{out}: contains a run from {result.model} without a significant gain; {remedy}")
    return result


def _stage(plan: AdaptationPlan, fold: Fold, folder: Path, trainings: int) -> Score:
    """Make the settings of a training, and write its lists into `folder`.

    An epoch samples `list_size` documents of each list, so longer lists need more epochs for one pass over their documents.
    """
    for name, groups in (("train", fold.training), ("held-out", fold.deciding)):
        write_groups(folder / f"{name}.jsonl", groups)
    documents = float(np.mean([len(group.documents) for group in fold.training]))
    epochs = PASSES * max(1.0, documents / max_list_size(plan.settings["list_size"]))
    return plan.stage(folder / "train.jsonl", folder / "run", trainings, epochs)


def _trained(stage: Score, report: Report | None) -> Path:
    """Run a training unless an earlier call finished it. Returns its checkpoint."""
    run = Path(stage.out)
    if not is_done(run):
        train(stage, resume=True, report=report)
    return run / "model"


def _report_share(report: Report, training: int, trainings: int, share: float, figures: dict) -> None:
    """Report the progress of all trainings, when training number `training` (from 0) has made `share` of its progress."""
    report((training + share) / trainings, figures)


def scores_of(checkpoint: str | Path, groups: Sequence[Group], prompt: Any, **options: Any) -> Rows:
    """Score the documents of each group with a checkpoint.

    Args:
        checkpoint: name or folder, see `Reranker`.
        groups: labelled lists.
        prompt: prompt for a checkpoint that has none.
        **options: further arguments of Reranker.

    Returns:
        One row of scores per group.
    """
    reranker = Reranker(checkpoint, prompt=prompt_of(resolve(checkpoint), prompt), **options)
    return reranker.score_lists([group.query for group in groups], [list(group.documents) for group in groups])
