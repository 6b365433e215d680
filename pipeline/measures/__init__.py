"""Metrics, bootstrap intervals, folds and calibration: pure functions of predictions.

In: targets and outputs, arrays of ``(row,)`` and ``(output, row)``. Out: scores, their intervals,
calibrated outputs.

Read first: `metrics`.

Tables that take a new row: `metrics.METRICS`, `calibration.METHODS`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
