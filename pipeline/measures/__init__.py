"""Metrics, bootstrap intervals, folds and calibration: pure functions of predictions.

In: targets and outputs, arrays of ``(row,)`` and ``(output, row)``. Out: scores, their intervals,
calibrated outputs.

Read first: `metrics`.

Tables that take a new row: `metrics.METRICS`, `calibration.METHODS`.
"""

from pipeline.errors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
