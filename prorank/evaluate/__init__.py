"""Evaluate a first stage and rerankers on judged datasets, with significance tests and a report.

`prorank.evaluate(...)` is `prorank.evaluate.benchmark.evaluate`. Averages are over the judged queries; a query that a system lacks
counts 0.
"""

from ..utils.callable_modules import make_callable
from .benchmark import evaluate
from .results import Evaluation
from .scoring import Scorer

make_callable(__name__, "prorank.evaluate.benchmark:evaluate")

__all__ = ["Evaluation", "Scorer", "evaluate"]
