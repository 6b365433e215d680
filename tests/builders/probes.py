"""Probes and designs of matrices in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ProbeConfig
from pipeline.linear.design import MemoryDesign
from pipeline.linear.fitted import Standardiser
from pipeline.probes.fitting import ProbeTask, fit_probes
from pipeline.probes.model import ProbeFit, Problem

Array = NDArray[Any]


def design_of(x: Array) -> MemoryDesign:
    """A design over rows ``(n, features)`` float32 that are standardised already."""
    one = np.ones(x.shape[1], np.float32)
    return MemoryDesign(np.ascontiguousarray(x.T), Standardiser(0 * one, one, np.inf))


def fit_probe(
    x_train: Array,
    y_train: Array,
    x_val: Array,
    y_val: Array,
    *,
    problem: Problem,
    config: ProbeConfig,
    folds: Array | None = None,
) -> ProbeFit:
    """Of raw activations ``(n, features)``; with ``folds`` ``(n,)`` also models out of fold."""
    train = MemoryDesign(np.ascontiguousarray(x_train.T))
    val = MemoryDesign(np.ascontiguousarray(x_val.T), train.standardiser)
    num_folds = 0 if folds is None else 1 + int(folds.max())
    own = np.arange(len(y_train)), y_train, np.arange(len(y_val)), y_val, folds, num_folds
    task = ProbeTask(problem, *own)
    return fit_probes(train, val, [task], config=config)[0]
