"""The systems that the demo measures, by name, and the measurement: the same test headings and candidates for all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.default_model import DEFAULT
from ..checkpoints.resolve import BUILT_IN
from .django_docs import CANDIDATES
from .plan import DEFAULT_LENGTH, PROMPT, READ_LENGTH, TEST_QUERIES, DemoPlan

if TYPE_CHECKING:
    from ..evaluate.results import Evaluation

SHIPPED, ADAPTED, ZERO_SHOT, LIKELIHOOD = DEFAULT, "adapted", "base, zero-shot", "base, query likelihood"
STAGE_1, STAGE_2 = "base, after stage 1", "base, after both stages"
SYSTEMS = (SHIPPED, ADAPTED, ZERO_SHOT, LIKELIHOOD, STAGE_1, STAGE_2)
ACTS = {SHIPPED: "rank", ADAPTED: "adapt"}  # the others belong to the act "train"
# Read in int8, which is faster than fp32 on every processor; the trainings compute in fp32.
READING: dict[str, Any] = {"dtype": "int8", "compile": False, "long_documents": "truncate"}
SAMPLE = 24  # pairs of which the format is diagnosed


def measure(plan: DemoPlan, systems: Sequence[str]) -> Evaluation:
    """Measure BM25 and these systems on the first test headings, and write `<out>/report`.

    Scores of systems that were measured before are reused.
    """
    from ..evaluate import evaluate
    from ..evaluate.terminal_report import bars

    # No probability is shown here, so it does not matter that the default model's calibration is for longer prompts.
    logging.getLogger("prorank.calibration").setLevel(logging.ERROR)
    with bars() as progress:
        return evaluate(
            [plan.paths.test], [_loader(plan, name) for name in systems], split="test", top_k=CANDIDATES, limit=TEST_QUERIES,
            out=plan.out / "report", seed=plan.seed, sample=SAMPLE, progress=progress, command="prorank demo",
        )  # fmt: skip


def _loader(plan: DemoPlan, name: str) -> Callable[[], Any]:
    """A function that loads a system."""
    from ..evaluate import Scorer
    from ..reranker import Reranker

    warmup, score = plan.stages()
    checkpoints: dict[str, str | Path] = {
        SHIPPED: DEFAULT, ADAPTED: plan.adapted / "model", STAGE_1: warmup.out, STAGE_2: score.out,
    }  # fmt: skip

    def load() -> Any:
        length = DEFAULT_LENGTH if name in ACTS else READ_LENGTH
        if name in checkpoints:
            reranker = Reranker(checkpoints[name], max_length=length, **READING)
        else:
            reranker = Reranker(BUILT_IN, prompt=PROMPT, max_length=length, **READING)
        if name == LIKELIHOOD:
            return Scorer(name, reranker.likelihood, f"likelihood {reranker.fingerprint}")
        reranker.name = name
        return reranker

    return load
