"""Training: stages, their settings, and the trainer they share. `prorank.train(settings)` is `prorank.train.run.train`."""

from ..utils.callable_modules import make_callable

make_callable(__name__, "prorank.train.run:train")
