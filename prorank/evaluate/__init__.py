"""Measure rerankers: first stage and models on judged datasets, with significance and a report.

Hard fact: averages run over the judged queries, not over those a system happened to answer.
"""

from .benchmark import evaluate
from .results import Evaluation
from .scoring import Scorer

__all__ = ["Evaluation", "Scorer", "evaluate"]
