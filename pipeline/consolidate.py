"""Phase 2: cross-layer heads over salient slices, for every depth, and the choice among them.

``sweep`` trains, for each depth ``d`` and share ``eta``, a head on the salient features of layers
``0..d`` and scores it on validation; ``choose_depth`` picks the smallest depth whose score is
within a tolerance of the best. Only salient slices are ever read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from pipeline.config import HeadConfig, ProbeConfig
from pipeline.heads import Dense, LayerEdges
from pipeline.linear import Linear
from pipeline.metrics import probabilities, utility
from pipeline.probe import Probe, Problem, feature_importance, salient_features
from pipeline.solver import iterate_path

Array = NDArray[Any]
DECAYS = (1e-1, 1e-2, 1e-3, 1e-4)
"""Weight decays of the frozen head's network, per row; a warm-started path, best on validation."""


@dataclass(frozen=True)
class SalientLayer:
    """The salient slices of one layer, for the rows of one task.

    Attributes:
        layer: the layer's index.
        probe: its Phase-1 probe.
        features: ``(k,)`` int64 feature indices, the salient set of the largest eta.
        train, val: ``(n, k)`` float32 raw activations.
    """

    layer: int
    probe: Probe
    features: Array
    train: Array
    val: Array


@dataclass(frozen=True)
class Candidate:
    """A trained head of the sweep."""

    kind: str
    depth: int
    eta: float
    val_score: float
    num_features: int
    layers: tuple[LayerEdges, ...]
    dense: Dense | None


@dataclass(frozen=True)
class TrainingData:
    """Targets of the training and validation rows.

    Attributes:
        y_train, y_val: class indices or values.
        folds: fold of each training row; None without cross-fitting.
        weight: weight of each training row; None for all alike.
        seed: of the frozen head's start.
    """

    y_train: Array
    y_val: Array
    folds: Array | None
    weight: Array | None = None
    seed: int = 0


def layer_salient(probe: Probe, eta: float) -> Array:
    """Salient features of a layer, int64, increasing."""
    return salient_features(feature_importance(probe.weights), eta)


def sweep(
    layers: Sequence[SalientLayer],
    data: TrainingData,
    *,
    problem: Problem,
    probe_config: ProbeConfig,
    config: HeadConfig,
) -> Iterator[Candidate]:
    """Train and score a head per kind, eta and depth; deepest last.

    Args:
        layers: the salient slices of layers 0, 1, … in order.
        data: targets and folds.
        problem: classes and metric.
        probe_config: penalties and solver of the sparse head.
        config: kinds, etas, network width and training data.
    """
    for eta in sorted(config.eta):
        kept = [np.isin(layer.features, layer_salient(layer.probe, eta)) for layer in layers]
        if "frozen" in config.kinds:
            yield from _frozen_heads(layers, kept, data, eta, problem, config)
        if "sparse" in config.kinds:
            yield from _sparse_heads(layers, kept, data, eta, problem, probe_config, config)


def _standardised(layer: SalientLayer, kept: Array, x: Array) -> Array:
    return layer.probe.standardiser.take(layer.features[kept]).apply(x[:, kept])


def _edges(layer: SalientLayer, kept: Array, weights: Array, bias: Array) -> LayerEdges:
    columns = layer.features[kept]
    return LayerEdges(
        layer.layer,
        columns,
        layer.probe.standardiser.take(columns),
        np.ascontiguousarray(weights, dtype=np.float32),
        bias.astype(np.float32),
    )


def _sparse_heads(
    layers: Sequence[SalientLayer],
    kept: Sequence[Array],
    data: TrainingData,
    eta: float,
    problem: Problem,
    probe_config: ProbeConfig,
    config: HeadConfig,
) -> Iterator[Candidate]:
    """One regularised linear model on the concatenated salient activations, for each depth."""
    train = np.concatenate(
        [_standardised(layer, keep, layer.train) for layer, keep in zip(layers, kept, strict=True)],
        1,
    )
    val = np.concatenate(
        [_standardised(layer, keep, layer.val) for layer, keep in zip(layers, kept, strict=True)], 1
    )
    ends = np.cumsum([int(keep.sum()) for keep in kept])
    regression = problem.num_classes is None
    gram = None if regression or probe_config.solver != "lbfgs" else train.T @ train
    for depth, end in enumerate(ends):
        if end > config.max_features:
            break
        x_train, x_val = np.ascontiguousarray(train[:, :end]), val[:, :end]
        model, score = _best_on_path(
            iterate_path(
                x_train,
                data.y_train,
                num_classes=problem.num_classes,
                penalties=probe_config.alpha if regression else probe_config.C,
                solver=probe_config.solver,
                sample_weight=data.weight,
                tol=probe_config.tol,
                gram=None if gram is None else gram[:end, :end],
            ),
            x_val,
            data.y_val,
            problem,
        )
        bounds = [0, *ends[: depth + 1]]
        zero = np.zeros_like(model.bias)
        edges = tuple(
            _edges(
                layers[i],
                kept[i],
                model.weights[:, bounds[i] : bounds[i + 1]],
                model.bias if i == depth else zero,
            )
            for i in range(depth + 1)
        )
        yield Candidate("sparse", layers[depth].layer, eta, score, int(end), edges, None)


def _best_on_path(
    path: Iterator[Linear], x_val: Array, y_val: Array, problem: Problem
) -> tuple[Linear, float]:
    """The best model on validation, giving up after two penalties in a row without a gain."""
    best: tuple[Linear, float] | None = None
    worse = 0
    for model in path:
        score = problem.score(y_val, model.outputs(x_val))
        if best is None or utility(problem.metric, score) > utility(problem.metric, best[1]):
            best, worse = (model, score), 0
        elif (worse := worse + 1) == 2:
            break
    assert best is not None
    return best


def _frozen_heads(
    layers: Sequence[SalientLayer],
    kept: Sequence[Array],
    data: TrainingData,
    eta: float,
    problem: Problem,
    config: HeadConfig,
) -> Iterator[Candidate]:
    """Frozen Phase-1 edges under a dense network, for each depth."""
    z_train, z_val, edges, sizes = [], [], [], []
    for layer, keep in zip(layers, kept, strict=True):
        columns = layer.features[keep]
        x_train = _standardised(layer, keep, layer.train)
        full = x_train @ layer.probe.weights[:, columns].T + layer.probe.bias
        if config.training == "cross_fit":
            if data.folds is None or data.folds.max() + 1 != len(layer.probe.fold_weights):
                raise ValueError("cross_fit needs the folds that the probes were fitted on")
            z = np.empty_like(full)
            for k, (weights, bias) in enumerate(
                zip(layer.probe.fold_weights, layer.probe.fold_bias, strict=True)
            ):
                rows = data.folds == k
                z[rows] = x_train[rows] @ weights[:, columns].T + bias
        else:
            z = full
        # Centred and scaled by the whole model's outputs, which the network sees when scoring.
        mean, scale = full.mean(axis=0), np.maximum(full.std(axis=0), 1e-6)
        weights = layer.probe.weights[:, columns] / scale[:, None]
        edge = _edges(layer, keep, weights, (layer.probe.bias - mean) / scale)
        z_train.append((z - mean) / scale)
        z_val.append(edge.project(layer.val[:, keep]))
        edges.append(edge)
        sizes.append(len(columns))
    for depth in range(len(layers)):
        dense, score = _fit_dense(
            np.concatenate(z_train[: depth + 1], 1),
            np.concatenate(z_val[: depth + 1], 1),
            data,
            problem,
            config.hidden_width,
        )
        yield Candidate(
            "frozen",
            layers[depth].layer,
            eta,
            score,
            sum(sizes[: depth + 1]),
            tuple(edges[: depth + 1]),
            dense,
        )


def _fit_dense(
    z_train: Array, z_val: Array, data: TrainingData, problem: Problem, width: int
) -> tuple[Dense, float]:
    """The dense network by full-batch L-BFGS, its weight decay chosen on validation."""
    best: tuple[Dense, float] | None = None
    start: Array | None = None
    for decay in DECAYS:
        dense, start = _minimise_dense(z_train, data, problem, width, decay, start=start)
        score = problem.score(data.y_val, dense.outputs(z_val.astype(np.float32)))
        if best is None or utility(problem.metric, score) > utility(problem.metric, best[1]):
            best = dense, score
    assert best is not None
    return best


def _minimise_dense(
    z: Array,
    data: TrainingData,
    problem: Problem,
    width: int,
    decay: float,
    *,
    start: Array | None,
) -> tuple[Dense, Array]:
    """Minimise the mean loss plus ``decay / 2 * ||W||^2``; from a seeded start, or a given one.

    Returns:
        The network, and its parameters as a start for the next decay.
    """
    y = data.y_train
    share = np.ones(len(y)) if data.weight is None else data.weight
    share = share / share.sum()
    z = z.astype(np.float64)
    classes = problem.num_classes
    num_outputs = classes if classes is not None and classes > 2 else 1
    center, spread = (0.0, 1.0) if classes is not None else (float(y.mean()), float(y.std()) or 1.0)
    goal = (y - center) / spread
    inner = width or z.shape[1]
    shapes = [(width, z.shape[1]), (width,), (num_outputs, inner), (num_outputs,)]
    sizes = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    penalised = np.concatenate(
        [np.full(int(np.prod(shape)), float(len(shape) == 2)) for shape in shapes]
    )

    def unpack(theta: Array) -> list[Array]:
        parts = np.split(theta, sizes)
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def objective(theta: Array) -> tuple[float, Array]:
        w1, b1, w2, b2 = unpack(theta)
        hidden = np.tanh(z @ w1.T + b1) if width else z
        out = hidden @ w2.T + b2
        loss, residual = _mean_loss(out, goal, share, classes)
        grad_w2, grad_b2 = residual.T @ hidden, residual.sum(0)
        back = (residual @ w2) * (1 - np.square(hidden)) if width else residual[:, :0]
        gradient = np.concatenate([(back.T @ z).ravel(), back.sum(0), grad_w2.ravel(), grad_b2])
        regular = penalised * theta
        return loss + 0.5 * decay * float(theta @ regular), gradient + decay * regular

    if start is None:
        start = np.random.default_rng(data.seed).normal(size=penalised.size) * penalised
        start[: sizes[0]] /= np.sqrt(z.shape[1])
        start[sizes[1] : sizes[2]] /= np.sqrt(inner)
    result = optimize.minimize(
        objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}
    )
    w1, b1, w2, b2 = (part.astype(np.float32) for part in unpack(result.x))
    scale = np.float32(spread)
    return Dense(w1, b1, w2 * scale, b2 * scale + np.float32(center)), result.x


def _mean_loss(out: Array, y: Array, share: Array, num_classes: int | None) -> tuple[float, Array]:
    """Weighted mean loss and its gradient with respect to the outputs ``(n, outputs)``."""
    if num_classes is None:
        error = out[:, 0] - y
        return 0.5 * float(share @ np.square(error)), (share * error)[:, None]
    probability = probabilities(out)
    rows, labels = np.arange(len(out)), y.astype(np.int64)
    loss = -float(share @ np.log(np.maximum(probability[rows, labels], 1e-300)))
    probability[rows, labels] -= 1.0
    return loss, (probability if num_classes > 2 else probability[:, 1:]) * share[:, None]


def choose_depth(
    candidates: Sequence[Candidate], *, metric: str, tolerance: float, max_layer: int
) -> Candidate:
    """The best head of the smallest depth that is good enough.

    Args:
        candidates: heads of one task, of any kind, eta and depth.
        metric: the selection metric of their ``val_score``.
        tolerance: a depth is good enough within this of the best score at any allowed depth.
        max_layer: the deepest layer allowed.
    """
    allowed = [c for c in candidates if c.depth <= max_layer]
    best = max(utility(metric, c.val_score) for c in allowed)
    good = [c for c in allowed if utility(metric, c.val_score) >= best - tolerance]
    depth = min(c.depth for c in good)
    return max(
        (c for c in good if c.depth == depth),
        key=lambda c: (utility(metric, c.val_score), -c.num_features),
    )


def best_of(candidates: Sequence[Candidate], *, metric: str, **where: Any) -> Candidate:
    """The candidate with the best validation score among those whose attributes match ``where``."""
    fitting = [c for c in candidates if all(getattr(c, k) == v for k, v in where.items())]
    return max(fitting, key=lambda c: (utility(metric, c.val_score), -c.num_features))


def sweep_rows(candidates: Sequence[Candidate]) -> list[Mapping[str, Any]]:
    """The sweep as table rows: kind, depth, eta, val_score, num_features."""
    names = ("kind", "depth", "eta", "val_score", "num_features")
    return [{name: getattr(candidate, name) for name in names} for candidate in candidates]
