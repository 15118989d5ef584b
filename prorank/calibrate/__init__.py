"""Fit a checkpoint's probabilities on labels. `prorank.calibrate(...)` is `prorank.calibrate.calibration_run.calibrate`."""

from ..utils.callable_modules import make_callable
from .calibration_run import CalibrationRun, calibrate

make_callable(__name__, "prorank.calibrate.calibration_run:calibrate")

__all__ = ["CalibrationRun", "calibrate"]
