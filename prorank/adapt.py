"""Fine-tune a checkpoint on a team's own labels, and keep it only if it is better on queries it has not seen.

Hard fact: no query, whatever its case and marks, is measured by weights that were trained on it. Of many queries a part is held
out; of few none can be spared: three trainings hold out a third each, all decide, and the mean of the three weights is the result.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .blend import blend as blend_weights
from .checkpoint import Resolved, licence_of, prompt_of, resolve
from .checkpoints.card import adapted_card, command_line, hub_base
from .data.examples import Group, fold_groups, list_groups, query_key, split_groups
from .data.formats import is_collection, read_collection, read_groups, write_groups
from .data.negatives import mine
from .errors import ConfigError, DataError
from .evaluate.gains import FORMULA, LINEAR, check_gain
from .evaluate.listwise import log_likelihood
from .evaluate.measures import MAIN, ndcg_of
from .evaluate.significance import randomisation_test
from .files import atomic_file, check_folder
from .prompt import Prompt
from .reranker import Reranker
from .shipped import DEFAULT
from .train.basics import Lora, largest
from .train.config import Score
from .train.run import is_done, train

Rows = Sequence[Sequence[float]]  # scores of the documents of each list
LEAST = 10  # queries that decide
FEW, FOLDS = 150, 3  # below so many queries each is held out once, by one of so many trainings
PASSES = 4.0  # over the documents, at most
RATES = {"adapter": 5e-4, "weights": 3e-5}  # learning rates
SHARE, OF_MEAN = 0.5, 0.75  # of the weights of one training, or of the mean of several, where the start has learnt to rank
SURE = 0.05  # a p below it is no chance


@dataclass(frozen=True)
class Adapted:
    """What came of it. `before`, `after`: nDCG@10 over the `queries` that decide; `p`: of their difference (paired randomisation);
    `likelihood`: what the log-likelihood of their relevant documents gained, and `likelihood_p`; `better`: whether the new
    checkpoint is kept; `model`: the one to use; `trainings`: one that left those queries out, or several that each left out a part
    of them, whose mean is the new checkpoint; `gain`: of a label in nDCG and in the likelihood."""

    before: float
    after: float
    p: float
    likelihood: float
    likelihood_p: float
    queries: int
    trained_on: int
    better: bool
    model: str
    trainings: int = 1
    gain: str = LINEAR

    def __str__(self) -> str:
        kept = f"kept: {self.model}" if self.better else f"not better, so the model stays {self.model}"
        where = f"on {self.queries} held-out queries, trained on {self.trained_on}"
        if self.trainings > 1:
            where = f"on {self.queries} queries, each held out by one of {self.trainings} trainings"
        gain = _told(self.after - self.before, self.p)
        heard = f"log-likelihood of their relevant documents {_told(self.likelihood, self.likelihood_p)}"
        measure = MAIN if self.gain == LINEAR else f"{MAIN} with gains {FORMULA[self.gain]}"
        return f"{measure} before {self.before:.4f}, after {self.after:.4f} ({gain}) {where}\n{heard}\n{kept}"


def _told(gain: float, p: float) -> str:
    return f"{gain:+.4f}, p {p:.4f}" + ("" if p < SURE else ", which may be chance")


def adapt(
    data: str | Path | Sequence[str | Path], model: str = DEFAULT, out: str | Path = "runs/adapted", minutes: float = 7.0,
    held_out: int | None = None, seed: int = 0, report: Callable[[float, dict], None] | None = None, blend: float | None = None,
    gain: str = LINEAR, **settings: object,
) -> Adapted:  # fmt: skip
    """Train `model` by stage `score` on labelled data, and copy the result to `<out>/model` if it ranks held-out queries better.

    An adapter goes on being trained as it is; of another checkpoint all weights are. What decides is the log-likelihood of the
    held-out relevant documents: with few queries nDCG moves more by chance than by training. One that loses nDCG beyond chance is
    not kept either.

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
        settings: of stage `score`, see docs/training.md.

    Raises:
        DataError: fewer than 10 queries with a relevant and another document could decide. ConfigError: `out` holds a finished
        run; `model` is shown several documents at once.
    """
    out = Path(out)
    if (out / "adapted.json").is_file():
        raise ConfigError(f"{out}: holds an adapted model already; choose another folder")
    check_folder(out)
    start = resolve(model)
    check_gain(gain)
    chosen, shares = _settings(start, {"gain": gain, **settings}), _shares(start, blend)
    groups = _groups([data] if isinstance(data, (str, Path)) else data)
    folds = _folds(groups, held_out, seed)
    share = shares[len(folds) > 1]
    # Chance moves one training's weights so much more than the mean of several. Of a start that cannot rank nothing is kept.
    alone = share / len(folds) ** 0.5 if share < 1 else 1.0
    decided = [group for _, decide in folds for group in decide]
    runs, after = [], []
    for place, (train_on, decide) in enumerate(folds):
        folder = out if len(folds) == 1 else out / f"fold-{place + 1}"
        stage = _stage(folder, model, train_on, decide, {"minutes": minutes / len(folds), "seed": seed, **chosen})
        runs.append(_trained(stage, report and partial(_share_of, report, place, len(folds))))
        made = blend_weights(start, runs[-1], folder / "made", alone)
        after += scores_of(made, decide, stage.prompt)
        shutil.rmtree(made)
    before = scores_of(model, decided, chosen["prompt"])
    trained_on = len(folds[0][0] if len(folds) == 1 else groups)
    found = _found(decided, before, after, (model, str(out / "model")), gain, trained_on=trained_on, trainings=len(folds))
    if found.better:
        told = {"minutes": minutes, "seed": seed, **{k: asdict(v) if isinstance(v, Lora) else v for k, v in chosen.items()}}
        sources = [str(one) for one in ([data] if isinstance(data, (str, Path)) else data)]
        about = (model, hub_base(model, start.folder), licence_of(model, start.folder))
        command = command_line("prorank.adapt.adapt")
        card = adapted_card(str(out), *about, sources, told, asdict(found), (share, alone), command)
        blend_weights(start, runs, out / "model", share, card)
    with atomic_file(out / "adapted.json") as handle:
        json.dump(asdict(found), handle, indent=2)
    return found


def _stage(folder: Path, model: str, train_on: list[Group], decide: list[Group], chosen: dict[str, object]) -> Score:
    """Settings of one training in `folder`, where its lists and those that decide are written. A pass over lists that are longer
    than what is drawn of them is a part of one over their documents."""
    for name, groups in (("train", train_on), ("held-out", decide)):
        write_groups(folder / f"{name}.jsonl", groups)
    longer = float(np.mean([len(group.documents) for group in train_on])) / largest(chosen["list_size"])
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


def _found(groups: list[Group], before: Rows, after: Rows, models: tuple[str, str], gain: str = LINEAR, **about: int) -> Adapted:
    """What the scores of those that decide say, before and after, of the old and the new of `models`."""
    labels = [group.labels for group in groups]
    old, new = (ndcg_of(labels, scores, gain) for scores in (before, after))
    unlikely, likely = (log_likelihood(scores, labels, gain) for scores in (before, after))
    p, gained = randomisation_test(new, old), float((likely - unlikely).mean())
    better = gained > 0 and bool(new.mean() >= old.mean() or p >= SURE)
    return Adapted(
        float(old.mean()), float(new.mean()), p, gained, randomisation_test(likely, unlikely), len(groups), better=better,
        model=models[better], gain=gain, **about,
    )  # fmt: skip


def _shares(start: Resolved, blend: float | None) -> tuple[float, float]:
    """The share of the weights of one training, and of the mean of several. Raises ConfigError for one outside of 0..1."""
    if blend is None:
        return (SHARE, OF_MEAN) if Prompt.load(start.folder) else (1.0, 1.0)
    if not 0 < blend <= 1:
        raise ConfigError(f"blend must be above 0 and at most 1, not {blend}")
    return blend, blend


def _settings(start: Resolved, given: dict[str, object]) -> dict[str, object]:
    """Settings of the stage for this start. Raises ConfigError for prompts of several documents, which cannot be measured here."""
    own = {"lora": Lora(), "learning_rate": RATES["adapter"]} if start.adapter else {"learning_rate": RATES["weights"]}
    chosen = {"list_size": 6, "prompt": "echo", "dev_queries": 0, "evals": 0, **own, **given}
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


def scores_of(checkpoint: str | Path, groups: Sequence[Group], prompt: Any) -> Rows:
    """Scores of each group's own documents by a checkpoint, with the prompt it has or else `prompt`."""
    reranker = Reranker(checkpoint, prompt=prompt_of(resolve(checkpoint), prompt))
    return reranker.score_lists([g.query for g in groups], [list(g.documents) for g in groups])
