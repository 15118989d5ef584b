"""Measure rerankers: first stage and models on judged datasets, with significance and a report.

Averages run over the judged queries, not over those a system happened to answer.
"""

from ..utils.callable_modules import make_callable
from .benchmark import evaluate
from .results import Evaluation
from .scoring import Scorer

make_callable(__name__, "prorank.evaluate.benchmark:evaluate")

__all__ = ["Evaluation", "Scorer", "evaluate"]
