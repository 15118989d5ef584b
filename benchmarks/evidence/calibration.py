"""Measure calibration by list: ECE and Brier score before and after three fits, on queries that are not part of any fit.

The fits are the checkpoint's own (`prorank calibrate`; also moved to the list's share of relevant documents, known or estimated
without labels), one on the dev sets, and a cross-validated one on the list's other queries,
which represents calibration on a team's own labels.

    PRORANK_DATA=... python -m benchmarks.evidence.calibration --model runs/smollm2-135m/score --out runs/calibration

A label above 0 is relevant. If a list has judged candidates of both kinds, only these count. If it judges relevant documents only,
the other candidates count as not relevant, as in nDCG. The method of a fit is the one with the lowest log loss on held-out folds of
its data. Scores are stored in `--out`; `results.json` contains all figures, `reliability.png` the diagram over all lists.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.common import loader, machine
from benchmarks.protocol import pairs_of, parsed, scored, tasks_of
from prorank.calibrate.fit import AUTO, choose, fit, out_of_fold
from prorank.checkpoints.calibration import Calibration, sigmoid
from prorank.evaluate.candidates import Task
from prorank.evaluate.format import percent
from prorank.evaluate.reliability import draw, figures
from prorank.utils.files import atomic_file

FOLDS = 5
SHOWN = ("ece", "ece_equal_count", "brier")


def folds_of(queries: Sequence[str], folds: int = FOLDS) -> np.ndarray:
    """Return the fold of every pair [n]; all pairs of a query are in the same fold."""
    names = sorted(set(queries))
    Random("folds").shuffle(names)
    place = {name: i % folds for i, name in enumerate(names)}
    return np.array([place[query] for query in queries])


@dataclass(frozen=True)
class Pairs:
    """Pairs [n] of a list: query ids, scores, labels of 0 and 1; `unjudged`: whether they include candidates without judgement."""

    queries: list[str]
    scores: np.ndarray
    labels: np.ndarray
    unjudged: bool

    def about(self) -> dict[str, Any]:
        return {"pairs": len(self.labels), "relevant": float(self.labels.mean()), "unjudged": self.unjudged}


def judged(task: Task, result: Any) -> Pairs:
    """Return the judged candidates of a list; all candidates if only relevant ones are judged."""
    pairs = Pairs(*pairs_of(task, result), False)
    return pairs if len(set(pairs.labels)) == 2 else Pairs(*pairs_of(task, result, unjudged=True), True)


def probabilities(one: Pairs, dev: Calibration, own: Calibration | None) -> dict[str, np.ndarray]:
    """Return the probabilities [n] of a list before and after each fit."""
    values = {"before": sigmoid(one.scores)} | ({"own": own.apply(one.scores)} if own else {})
    if own and own.relevant:
        values["own, share known"] = own.apply(one.scores, float(one.labels.mean()))
        values["own, share estimated"] = own.apply(one.scores, own.estimate_prior(one.scores))
    folds = out_of_fold(one.scores, one.labels, folds_of(one.queries), AUTO)
    return values | {"dev sets": dev.apply(one.scores), "folds": folds}


def picture(lists: dict[str, Pairs], stated: dict[str, dict[str, np.ndarray]], path: Path) -> Path:
    """Draw the reliability diagram over all lists, before and after the model's own calibration, or that of the dev sets."""
    every = {fit: np.concatenate([fits[fit] for fits in stated.values()]) for fit in next(iter(stated.values()))}
    after = "own" if "own" in every else "dev sets"
    labels = np.concatenate([one.labels for one in lists.values()])
    return draw({"before": every["before"], f"after ({after})": every[after]}, labels, path, ", ".join(lists))


def table(rows: dict[str, dict[str, Any]], measure: str) -> None:
    """Print one measure of all lists, with a column for each fit."""
    fits = [name for name, value in next(iter(rows.values())).items() if isinstance(value, dict)]
    print(f"| {measure} | pairs | relevant | unjudged | " + " | ".join(fits) + " |\n|" + "---|" * (len(fits) + 4))
    for name, row in rows.items():
        counted = "not relevant" if row["unjudged"] else "left out"
        cells = " | ".join(f"{row[one][measure]:.4f}" for one in fits)
        print(f"| {name} | {row['pairs']} | {percent(row['relevant'])} | {counted} | {cells} |")


def loaded(options: argparse.Namespace, model: Any) -> dict[str, dict[str, Pairs]]:
    """Return the pairs of every set, by kind and name."""
    tasks = tasks_of(options.lists, options.dev, options.top_k, options.limit)
    score = lambda kind, task: scored(task, model, options.out / kind, options.top_k)  # noqa: E731
    return {kind: {task.name: judged(task, score(kind, task)) for task in group} for kind, group in tasks.items()}


def fitted(sets: dict[str, Pairs]) -> tuple[Calibration, str]:
    """Return (calibration, description of its data) of all dev sets together."""
    queries = [f"{name}/{query}" for name, one in sets.items() for query in one.queries]
    scores, labels = (np.concatenate([getattr(one, name) for one in sets.values()]) for name in ("scores", "labels"))
    method = choose(scores, labels, folds_of(queries))
    return fit(scores, labels, method), f"{len(labels)} pairs of {len(set(queries))} queries"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    options = parsed(parser, "runs/calibration")
    if not (options.lists and options.dev):
        parser.error("--lists and --dev must name at least one set each")
    model = loader("model", options.model, options.length, "echo", long_documents="auto")()
    pairs = loaded(options, model)
    dev, where = fitted(pairs["dev"])
    print(f"dev sets: {dev}, fitted on {where}; the model's own: {model.calibration or 'none'}")
    stated = {name: probabilities(one, dev, model.calibration) for name, one in pairs["lists"].items()}
    rows = {
        name: one.about() | {fit: figures(p, one.labels) for fit, p in stated[name].items()} for name, one in pairs["lists"].items()
    }
    for measure in SHOWN:
        table(rows, measure)
    print(picture(pairs["lists"], stated, options.out / "reliability.png"))
    with atomic_file(options.out / "results.json") as handle:
        json.dump({"lists": rows, "dev": str(dev), **machine()}, handle, indent=1)


if __name__ == "__main__":
    main()
