"""How far rankings of neurons can be trusted: agreement between rankings and under resampling.

A ranking's *top set* are the ``top`` features of one layer with the largest values. Rows are drawn
again with replacement, the ranking is made again from every draw (the sums of
:mod:`pipeline.neurons.rankings` take all draws along in one pass; a probe is fitted again), and the
draws are compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.linear import Design, Linear, Objective, solve_paths
from pipeline.measures import Resamples
from pipeline.probes import feature_importance, feature_rank

Array = NDArray[Any]
TOP_SHARE = 0.05
"""Share of a layer's features in the top set, unless told."""


@dataclass(frozen=True)
class Stability:
    """Agreement of a ranking's bootstrap replicates.

    Attributes:
        overlap: mean share of the top set that a replicate's top set has too.
        jaccard: mean Jaccard index of the top sets of two replicates.
        stability: chance-corrected agreement of the top sets, 1 if equal and 0 if random (Nogueira,
            Sechidis & Brown 2018, "On the stability of feature selection algorithms", eq. 4).
        spearman: mean rank correlation of a replicate with the ranking.
    """

    overlap: float
    jaccard: float
    stability: float
    spearman: float


def default_top(num_features: int) -> int:
    """Size of a layer's top set."""
    return max(1, round(TOP_SHARE * num_features))


def bootstrap_counts(num_rows: int, *, replicates: int, seed: int) -> Array:
    """How often each row is drawn, ``(replicates, num_rows)`` float64."""
    chunks = Resamples(num_rows, replicates, seed).chunks()
    return np.concatenate([counts for _, counts in chunks], axis=0)


def stability(values: Array, replicates: Array, *, top: int) -> Stability:
    """Compare a ranking's replicates.

    Args:
        values: ``(features,)`` of the ranking on all rows.
        replicates: ``(replicates, features)``, at least two.
        top: size of the top set.
    """
    num_features = len(values)
    reference = feature_rank(values)
    ranks = np.stack([feature_rank(row) for row in replicates])
    chosen = (ranks < top).astype(np.float64)
    shared = chosen @ chosen.T
    pairs = shared[np.triu_indices(len(replicates), k=1)]
    # The variance of each feature's selection, against that of random sets of this size.
    spread = chosen.var(axis=0, ddof=1).mean()
    share = top / num_features
    chance = share * (1 - share)
    return Stability(
        overlap=float((chosen @ (reference < top)).mean() / top),
        jaccard=float((pairs / (2 * top - pairs)).mean()),
        stability=float(1 - spread / chance) if chance > 0 else 1.0,
        spearman=float(np.mean([rank_correlation(reference, row) for row in ranks])),
    )


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's correlation of two complete rankings without ties."""
    n = len(a)
    gap = np.square(a.astype(np.float64) - b).sum()
    return float(1 - 6 * gap / (n * (n * n - 1))) if n > 1 else 1.0


def overlap_table(values: Mapping[str, Array], *, task: str, layer: int, top: int) -> pa.Table:
    """Agreement of the rankings of one layer, a row per pair.

    Returns:
        ``task``, ``layer``, ``ranking``, ``other``, ``top``, ``jaccard`` of the top sets,
        ``expected`` (that of random sets) and ``spearman`` over all features.
    """
    ranks = {name: feature_rank(column) for name, column in values.items()}
    rows = []
    for a, b in itertools.combinations(ranks, 2):
        shared = int(((ranks[a] < top) & (ranks[b] < top)).sum())
        rows.append(
            {
                "task": task,
                "layer": layer,
                "ranking": a,
                "other": b,
                "top": top,
                "jaccard": shared / (2 * top - shared),
                "expected": random_jaccard(len(ranks[a]), top),
                "spearman": rank_correlation(ranks[a], ranks[b]),
            }
        )
    return pa.Table.from_pylist(rows)


def random_jaccard(num_features: int, top: int) -> float:
    """Jaccard index of two random sets that share as many features as they do on average."""
    return top / (2 * num_features - top)


def refit_importance(
    design: Design,
    targets: Array,
    *,
    num_classes: int | None,
    weights: Sequence[Array],
    start: Linear,
    tol: float = 1e-4,
) -> Array:
    """The probe's importance, fitted again with other row weights, all fits in lock step.

    Args:
        design: the layer's training rows.
        targets: ``(n,)`` class indices or values, in the design's order.
        num_classes: number of classes; None for regression.
        weights: ``(n,)`` row weights of each fit, in the design's order.
        start: the probe on all rows; its penalty serves all fits.
        tol: the solver's.

    Returns:
        ``(fits, features)`` float64: L2 norms over the outputs.
    """
    objectives = [Objective(targets, num_classes, weight) for weight in weights]
    starts = [start] * len(objectives)
    paths = solve_paths(design, objectives, [start.penalty], tol=tol, starts=starts)
    return np.stack([feature_importance(path[0].weights) for path in paths])
