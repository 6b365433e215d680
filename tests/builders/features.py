"""Features in memory, and a joint model over them, for tests of Phase 2's numerics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.heads.features import Features
from pipeline.heads.joint import Joint
from pipeline.linear.threads import BlockThreads
from pipeline.measures.folds import stratified_folds
from pipeline.probes.model import Problem
from pipeline.probes.rows import TaskRows
from store import ActivationStore
from store.layout import Source

Array = NDArray[Any]


def memory_sources(count: int) -> list[Source]:
    """Sources that no store holds, so that their features come from memory."""
    return [Source("unit", layer) for layer in range(1, count + 1)]


def make_joint(
    xs: Sequence[Array],
    targets: Array,
    threads: BlockThreads,
    *,
    classes: int | None,
    folds: Sequence[Array] | None = None,
    groups: Array | None = None,
    weight: Array | None = None,
    num_train: int | None = None,
    is_shift: bool = False,
    block_rows: int = 1000,
    metric: str | None = None,
) -> Joint:
    """A joint model; with ``num_train`` the rows behind it judge, else folds do.

    Args:
        xs: of each of :func:`memory_sources` ``(n, features)``, divided by its root.
        targets: ``(n,)`` class indices or values.
        threads: to run on.
        classes: how many; None for values.
        folds: assignments ``(n,)``; default one to four folds.
        groups: ``(n,)`` of near-duplicates; default none.
        weight: ``(n,)`` of the rows.
        num_train: rows that are fitted on.
        is_shift: as in :class:`TaskRows`.
        block_rows: as in :class:`Joint`.
        metric: default accuracy, of values Pearson's correlation.
    """
    n = len(targets)
    groups = np.arange(n) if groups is None else groups
    if folds is None:
        folds = [stratified_folds(targets, folds=4, seed=0, groups=groups)]
    others = {
        source: np.ascontiguousarray(x / np.sqrt(x.shape[1]), np.float32)
        for source, x in zip(memory_sources(len(xs)), xs, strict=True)
    }
    store = cast(ActivationStore, None)  # no source asks for it
    return Joint(
        Features(store, np.arange(n), {}, others),
        TaskRows(np.arange(n), targets, num_train or n * 3 // 4, groups, tuple(folds), is_shift),
        Problem(classes, metric or ("pearson" if classes is None else "accuracy")),
        weight,
        num_train is None,
        0,
        block_rows,
        threads,
    )


def refit(features: Array, targets: Array, rows: Array, weight: Array | None = None) -> Array:
    """Scores ``(n, outputs)`` of all rows by a plain ridge model of some rows, in float64.

    Args:
        features: ``(n, k)`` times the roots of their weights.
        targets: ``(n, outputs)``.
        rows: ``(m,)`` to fit.
        weight: ``(n,)`` of the rows.
    """
    x = np.concatenate([features, np.ones((len(features), 1))], axis=1).astype(np.float64)
    share = np.ones(len(rows)) if weight is None else weight[rows]
    system = x[rows].T @ (share[:, None] * x[rows]) + np.eye(x.shape[1])
    found = np.linalg.solve(system, x[rows].T @ (share[:, None] * targets[rows]))
    return np.asarray(x @ found)
