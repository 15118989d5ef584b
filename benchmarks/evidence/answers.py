"""What systems do at the answer position: format, accuracy, order and hidden states, as a table.

All systems are measured on the same pairs, because effective ranks are comparable only on the same sample. Accuracy is that of the
answers (log-odds above 0) on judged candidates, averaged over relevant and other ones, so a constant answer has accuracy .5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from benchmarks.common import MAIN, arms_of
from benchmarks.protocol import accuracy, ndcg_of, pairs_of
from prorank.evaluate.candidates import Task
from prorank.evaluate.diagnostics import tie_share
from prorank.evaluate.scoring import Scored

COLUMNS = ("format", "p(0)+p(1)", "accuracy", MAIN, "effective rank", "mean cosine", "ties")


def figures(task: Task, result: Scored, top_k: int) -> dict[str, float]:
    """Return a system's figures on one set, see `COLUMNS`; NaN where the system has no answers."""
    seen, order = result.findings or {}, fmean(ndcg_of(task, result, top_k).values())
    _, scores, labels = pairs_of(task, result)
    right = accuracy(scores, labels) if seen else float("nan")
    found = [seen.get(key, float("nan")) for key in ("format_rate", "format_mass", "effective_rank", "mean_cosine")]
    return dict(zip(COLUMNS, (*found[:2], right, order, *found[2:], tie_share(result.scores))))


def answers_table(tasks: Sequence[Task], found: Mapping[str, Mapping[str, Scored]], names: Sequence[str], top_k: int) -> None:
    """Print a Markdown table: an arm's means over its runs and over the sets, without NaN.

    Args:
        tasks: the sets.
        found: set -> system -> scores.
        names: the systems; runs of an arm are called "ARM #SEED".
        top_k: number of candidates that were scored.
    """
    print("| system | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 1))
    for arm, members in arms_of(names).items():
        rows = [figures(task, found[task.name][name], top_k) for task in tasks for name in members]
        print(f"| {arm} | " + " | ".join(_mean([row[column] for row in rows]) for column in COLUMNS) + " |")


def _mean(values: Sequence[float]) -> str:
    known = [value for value in values if not np.isnan(value)]
    if not known:
        return "–"
    mean = fmean(known)
    return f"{mean:.4f}" if mean < 10 else f"{mean:.1f}"
