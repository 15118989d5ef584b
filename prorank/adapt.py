"""Fine-tune a checkpoint on a team's own labels, and keep it only if it is better on queries it has not seen.

Hard fact: three sets of queries are kept apart: those trained on, those by which the weights are chosen, and those that decide; a
query, whatever its case and marks, never lies in two of them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .blend import blend as blend_weights
from .checkpoint import Resolved, prompt_of, resolve
from .data.examples import Group, list_groups, split_groups
from .data.formats import is_collection, read_collection, read_groups, write_groups
from .data.negatives import mine
from .errors import ConfigError, DataError
from .evaluate.measures import MAIN, measure
from .evaluate.significance import randomisation_test
from .files import atomic_file
from .prompt import Prompt
from .reranker import Reranker
from .shipped import DEFAULT
from .train.config import Lora, Score
from .train.run import is_done, train

LEAST = 10  # queries that decide
RATES = {"adapter": 5e-4, "weights": 3e-5}  # learning rates
SHARE = 0.75  # of the trained weights, where the start has learnt to rank


@dataclass(frozen=True)
class Adapted:
    """What came of it. `before`, `after`: nDCG@10 over the `queries` that decide; `p`: of their difference (paired randomisation);
    `better`: whether the new checkpoint is kept; `model`: the one to use."""

    before: float
    after: float
    p: float
    queries: int
    trained_on: int
    better: bool
    model: str

    def __str__(self) -> str:
        chance = "" if self.p < 0.05 else ", which may be chance"
        kept = f"kept: {self.model}" if self.better else f"not better, so the model stays {self.model}"
        gain = f"{self.after - self.before:+.4f}, p {self.p:.4f}{chance}"
        where = f"on {self.queries} held-out queries, trained on {self.trained_on}"
        return f"{MAIN} before {self.before:.4f}, after {self.after:.4f} ({gain}) {where}\n{kept}"


def adapt(
    data: str | Path | Sequence[str | Path], model: str = DEFAULT, out: str | Path = "runs/adapted", minutes: float = 7.0,
    held_out: int | None = None, seed: int = 0, report: Callable[[float, dict], None] | None = None, blend: float | None = None,
    **settings: object,
) -> Adapted:  # fmt: skip
    """Train `model` by stage `score` on labelled data, and copy the result to `<out>/model` if it ranks held-out queries better.

    An adapter goes on being trained as it is; of another checkpoint all weights are.

    Args:
        data: labels or logs: BEIR folders or ir_datasets:NAME (negatives are mined beside those judged), JSONL pairs or lists.
        model: checkpoint to start from.
        out: folder of the run; a run that was stopped goes on.
        minutes: of training; measuring comes on top.
        held_out: queries that decide; a fifth of all by default, at most 200.
        seed: of the split and the training.
        report: hears of the share of the budget spent and the latest figures.
        blend: share of the trained weights in the result, the rest being those of `model`, so that it forgets less. By default
            three quarters for a checkpoint that has a prompt of its own and so has learnt to rank, and all for others.
        settings: of stage `score`, see docs/training.md.

    Raises:
        DataError: fewer than 30 queries with a relevant and another document. ConfigError: `out` holds a finished run; `model` is
        shown several documents at once.
    """
    out, run = Path(out), Path(out) / "run"
    if (out / "adapted.json").is_file():
        raise ConfigError(f"{out}: holds an adapted model already; choose another folder")
    start = resolve(model)
    chosen, share = _settings(start, settings), _share(start, blend)
    parts = _split(_groups([data] if isinstance(data, (str, Path)) else data), held_out, seed)
    files = [out / f"{name}.jsonl" for name in ("train", "dev", "held-out")]
    for path, groups in zip(files, parts):
        write_groups(path, groups)
    stage = Score(base=model, data=str(files[0]), dev=str(files[1]), out=str(run), minutes=minutes, seed=seed, **chosen)
    if not is_done(run):
        train(stage, resume=True, report=report)
    made = blend_weights(start, run / "model", out / "made", share)
    before, after = (_values(str(path), parts[2], stage) for path in (model, made))
    better = bool(after.mean() > before.mean())
    found = Adapted(
        float(before.mean()), float(after.mean()), randomisation_test(after, before), len(after), len(parts[0]), better,
        str(out / "model") if better else model,
    )  # fmt: skip
    if better:
        shutil.rmtree(out / "model", ignore_errors=True)
        os.replace(made, out / "model")
    shutil.rmtree(made, ignore_errors=True)
    with atomic_file(out / "adapted.json") as handle:
        json.dump(asdict(found), handle, indent=2)
    return found


def _share(start: Resolved, blend: float | None) -> float:
    """The share of the trained weights. Raises ConfigError for one outside of 0..1."""
    if blend is None:
        return SHARE if Prompt.load(start.folder) else 1.0
    if not 0 < blend <= 1:
        raise ConfigError(f"blend must be above 0 and at most 1, not {blend}")
    return blend


def _settings(start: Resolved, given: dict[str, object]) -> dict[str, object]:
    """Settings of the stage for this start. Raises ConfigError for prompts of several documents, which cannot be measured here."""
    own = {"lora": Lora(), "learning_rate": RATES["adapter"]} if start.adapter else {"learning_rate": RATES["weights"]}
    chosen = {"list_size": 6, "prompt": "echo", **own, **given}
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


def _split(groups: list[Group], held_out: int | None, seed: int) -> tuple[list[Group], list[Group], list[Group]]:
    """(training, choice of weights, decision): groups of different queries."""
    queries = len({group.query for group in groups})
    count = held_out or min(200, queries // 5)
    rest, decide = split_groups(groups, count, seed)
    train_on, choose = split_groups(rest, min(40, max(LEAST, queries // 10)), seed)
    if len(decide) < LEAST or len(choose) < 1 or not train_on:
        why = f"{len(decide)} of {queries} queries could be held out, and at least {LEAST} have to decide"
        raise DataError(f"too few queries with a relevant and another document: {why}; label more")
    return train_on, choose, decide


def _values(checkpoint: str, groups: list[Group], stage: Score) -> np.ndarray:
    """nDCG@10 of each group [n] by a checkpoint, with the prompt it has, or that of the stage."""
    reranker = Reranker(checkpoint, prompt=prompt_of(resolve(checkpoint), stage.prompt))
    ranked = reranker.rank_many([g.query for g in groups], [list(g.documents) for g in groups])
    qrels = {str(i): {str(j): int(label) for j, label in enumerate(g.labels)} for i, g in enumerate(groups)}
    ranking = {str(i): [str(hit.index) for hit in hits] for i, hits in enumerate(ranked)}
    values = measure(qrels, ranking)[MAIN]
    return np.array([values[str(i)] for i in range(len(groups))])
