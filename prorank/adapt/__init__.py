"""Fine-tune a checkpoint on a team's own labels. `prorank.adapt(...)` is `prorank.adapt.adaptation.adapt`."""

from ..utils.callable_modules import make_callable
from .adaptation import adapt
from .adaptation_result import AdaptationResult

make_callable(__name__, "prorank.adapt.adaptation:adapt")

__all__ = ["AdaptationResult", "adapt"]
