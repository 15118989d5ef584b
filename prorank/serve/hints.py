"""Short lines for people who start a server at a terminal: the address of the playground, and the meaning of a score."""

from __future__ import annotations

from ..reranker import Reranker

POINTWISE = "scores: log-odds 0 (0.5 in 0..1) means the model finds yes and no equally likely, -1.2 that it leans to no; "
UNCALIBRATED = "for probabilities: prorank calibrate, on a dozen labelled queries (one case: accuracy at 0 from .387 to .903)"
CALIBRATED = "values in 0..1 are calibrated probabilities"
LISTWISE = "scores: 1 for the best document, then down in equal steps; this model orders documents and gives no probabilities"


def playground_hint(host: str, port: int) -> str:
    """Return the line with the address of the playground. A wildcard address is shown as localhost."""
    shown = "localhost" if host in ("", "0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"playground: http://{shown}:{port}/ (API: http://{shown}:{port}/docs); requests are answered once the model is ready"


def score_hint(reranker: Reranker) -> str:
    """Return the line with the meaning of this model's scores."""
    if reranker.compares_documents:
        return LISTWISE
    return POINTWISE + (CALIBRATED if reranker.calibration else UNCALIBRATED)
