"""The result of a training run: a warning if its dev set is too small, and the last lines of the command line.

Figures come from `done.json`. Those before training are of the same dev set.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .settings.stage_settings import Settings

log = logging.getLogger("prorank")
FEW_QUERIES = 20  # with fewer queries, a single query changes the mean by more than training usually does
SHOWN = ("ndcg@10", "accuracy", "format_rate", "loss", "reward")


def count_queries(held_out: Sequence[Any]) -> int:
    """Return the number of a dev set's evaluated queries: every thought, and groups with a relevant document."""
    return sum(max(getattr(example, "labels", None) or (1.0,)) > 0 for example in held_out)


def warn_of_few(settings: Settings, held_out: Sequence[Any]) -> None:
    """Warn if the settings request a dev set that is too small for meaningful figures."""
    count = count_queries(held_out)
    if not settings.num_evaluations or not (settings.dev or settings.dev_queries) or count >= FEW_QUERIES:
        return
    remedy = "label more, or set 'dev' to held-out data"
    if count:
        one = "1 query" if count == 1 else f"{count} queries"
        log.warning("the dev set has only %s, so its figures are unreliable, and so is the choice of weights; %s", one, remedy)
    else:
        log.warning("there is no dev set, as the data have too few queries; the last weights are saved unevaluated; %s", remedy)


def summary(run: str | Path) -> str:
    """Return the last lines of a run's output: checkpoint, dev measures before and after, duration and curves.

    Args:
        run: folder of a complete run.
    """
    run = Path(run)
    done = json.loads((run / "done.json").read_text(encoding="utf-8"))
    spent = f"trained {done['step']:,} steps on {done['documents']:,} documents in {done['minutes']:.1f} minutes"
    return f"checkpoint: {run / 'model'}\n{_dev(done)}\n{spent}\ncurves: {run / 'train_curves.png'}"


def _dev(done: dict[str, Any]) -> str:
    """Dev measures before training and of the saved weights."""
    before, best = done["before"], done["best"]
    if not best:
        return "dev: not evaluated, so the last weights are saved"
    shown = ", ".join(f"{key} {before.get(key, float('nan')):.4f} -> {best[key]:.4f}" for key in SHOWN if key in best)
    better = best["score"] > before["score"] if before else True
    warned = "" if better else "; not better than before training"
    return f"dev, {done['dev_queries']} queries, before -> after (step {best['step']}): {shown}{warned}"
