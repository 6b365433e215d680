"""Phase 2: cross-layer heads over salient slices, for every depth.

``Sweep.candidates`` trains, for each depth ``d`` and size of the salient sets, the heads on the
salient features of layers ``0..d``, judges them on rows that they were not fitted on, and adds the
mean of each depth's best two; :mod:`pipeline.candidates` chooses. Only salient slices are held.

Heads are judged on the validation rows, or on these and the training rows together: each of those
by a head fitted without its fold, on the salient features of a probe that was fitted without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.calibration import METHODS
from pipeline.candidates import Candidate, best_of
from pipeline.config import HeadConfig, ProbeConfig
from pipeline.densehead import iterate_dense
from pipeline.heads import LayerEdges, Part
from pipeline.metrics import utility
from pipeline.probe import Problem
from pipeline.salientsets import SalientLayer, SalientSets, salient_sets
from pipeline.solver import iterate_path

Array = NDArray[Any]
PATIENCE = 2
"""Penalties in a row without a gain after which a path is given up."""


@dataclass(frozen=True)
class TrainingData:
    """Targets of the training and validation rows, and what parts the training rows play.

    Attributes:
        y_train, y_val: class indices or values.
        folds: fold of each training row; None without out-of-fold probes.
        weight: weight of each training row; None for all alike.
        seed: of the frozen head's start.
    """

    y_train: Array
    y_val: Array
    folds: Array | None = None
    weight: Array | None = None
    seed: int = 0


class _Model(Protocol):
    def outputs(self, x: Array, /) -> Array: ...


M = TypeVar("M", bound=_Model)


@dataclass(frozen=True)
class Sweep:
    """Trains and judges heads on one task's salient slices.

    Attributes:
        layers: the salient slices of layers 0, 1, … in order.
        data: targets and folds.
        problem: classes and metric.
        probe_config: penalties and solver of the sparse head.
        config: kinds, sizes, network width and training data.
    """

    layers: Sequence[SalientLayer]
    data: TrainingData
    problem: Problem
    probe_config: ProbeConfig
    config: HeadConfig

    @property
    def num_judge_folds(self) -> int:
        """Folds of the training rows that heads are judged on; 0 for validation rows only."""
        return self.config.num_folds if self.config.judge == "cross_validation" else 0

    @property
    def judged(self) -> Array:
        """Targets of the rows that heads are judged on."""
        if not self.num_judge_folds:
            return self.data.y_val
        return np.concatenate([self.data.y_val, self.data.y_train])

    def candidates(self) -> Iterator[Candidate]:
        """A head per kind, size and depth, and the ensembles of each depth."""
        found = []
        for size in self.config.sizes:
            for depth in range(len(self.layers)):
                sets = salient_sets(self.layers, depth, size, self.config)
                if "frozen" in self.config.kinds:
                    found.append(self._frozen(sets, size))
                num_features = sum(map(len, sets.whole))
                if "sparse" in self.config.kinds and num_features <= self.config.max_features:
                    found.append(self._sparse(sets, size))
        yield from found
        if "ensemble" in self.config.kinds:
            yield from self._ensembles(found)

    # -- sparse ------------------------------------------------------------------------------

    def _sparse(self, sets: SalientSets, size: float) -> Candidate:
        """One regularised linear model on the concatenated salient activations."""
        data = self.data
        x, x_val = sets.standardised(), sets.standardised_val()
        paths = [self._path(x, data.y_train, data.weight)]
        held = [(np.zeros(0, np.int64), x_val)]
        for k in range(self.num_judge_folds):
            assert data.folds is not None
            x_fold = sets.standardised(k)
            fit = data.folds != k
            weight = None if data.weight is None else data.weight[fit]
            paths.append(self._path(x_fold[fit], data.y_train[fit], weight))
            held.append((np.flatnonzero(~fit), x_fold[~fit]))
        model, outputs, score = self._best(zip(*paths, strict=False), held)
        ends = np.cumsum([0, *(len(own) for own in sets.whole)])
        last = len(sets.whole) - 1
        edges = tuple(
            _edges(
                layer,
                own,
                model.weights[:, ends[i] : ends[i + 1]],
                model.bias if i == last else np.zeros_like(model.bias),
            )
            for i, (layer, own) in enumerate(sets.pairs())
        )
        return self._candidate("sparse", size, score, (Part(edges),), outputs)

    def _path(self, x: Array, y: Array, weight: Array | None) -> Iterator[Any]:
        regression = self.problem.num_classes is None
        return iterate_path(
            x,
            y,
            num_classes=self.problem.num_classes,
            penalties=self.probe_config.alpha if regression else self.probe_config.C,
            solver=self.probe_config.solver,
            sample_weight=weight,
            tol=self.probe_config.tol,
        )

    # -- frozen ------------------------------------------------------------------------------

    def _frozen(self, sets: SalientSets, size: float) -> Candidate:
        """Frozen Phase-1 edges under a dense network."""
        data = self.data
        projected = [self._project(sets, i) for i in range(len(sets.whole))]
        z = np.concatenate([z for z, _, _ in projected], axis=1)
        z_val = np.concatenate([z_val for _, z_val, _ in projected], axis=1)
        use = np.ones(len(z), bool)
        if self.config.training == "unseen":
            assert data.folds is not None
            use = data.folds == 0
        paths = [self._network(z, use)]
        held = [(np.zeros(0, np.int64), z_val)]
        for k in range(self.num_judge_folds):
            assert data.folds is not None
            paths.append(self._network(z, data.folds != k))
            held.append((np.flatnonzero(data.folds == k), z[data.folds == k]))
        dense, outputs, score = self._best(zip(*paths, strict=True), held)
        part = Part(tuple(edges for _, _, edges in projected), dense)
        return self._candidate("frozen", size, score, (part,), outputs)

    def _network(self, z: Array, rows: Array) -> Iterator[Any]:
        weight = None if self.data.weight is None else self.data.weight[rows]
        return iterate_dense(
            z[rows],
            self.data.y_train[rows],
            num_classes=self.problem.num_classes,
            width=self.config.hidden_width,
            seed=self.data.seed,
            weight=weight,
        )

    def _project(self, sets: SalientSets, i: int) -> tuple[Array, Array, LayerEdges]:
        """Phase-1 outputs on the training and validation rows with the other edges dropped."""
        layer, own = sets.layers[i], sets.whole[i]
        probe = layer.probe
        full = layer.standardised(own) @ probe.weights[:, own].T + probe.bias
        z = full
        if self.config.training == "cross_fit":
            folds = self.data.folds
            if folds is None or folds.max() + 1 != len(probe.fold_weights):
                raise ValueError("cross_fit needs the folds that the probes were fitted on")
            z = np.empty_like(full)
            for k, (weights, bias) in enumerate(
                zip(probe.fold_weights, probe.fold_bias, strict=True)
            ):
                columns = sets.folds[k][i] if sets.folds else own
                rows = folds == k
                z[rows] = layer.standardised(columns)[rows] @ weights[:, columns].T + bias
        # Centred and scaled by the whole model's outputs, which the network sees when scoring.
        mean, scale = full.mean(axis=0), np.maximum(full.std(axis=0), 1e-6)
        weights = probe.weights[:, own] / scale[:, None]
        edges = _edges(layer, own, weights, (probe.bias - mean) / scale)
        z_val = edges.project(layer.raw_val(own))
        return (z - mean) / scale, z_val, edges

    # -- ensembles ---------------------------------------------------------------------------

    def _ensembles(self, found: Sequence[Candidate]) -> Iterator[Candidate]:
        """The mean of each depth's best frozen and best sparse head, at their own temperatures."""
        for depth in sorted({candidate.depth for candidate in found}):
            here = [candidate for candidate in found if candidate.depth == depth]
            if {candidate.kind for candidate in here} != {"frozen", "sparse"}:
                continue
            parts, outputs = [], []
            metric = self.problem.metric
            best = [best_of(here, metric=metric, kind=kind) for kind in ("frozen", "sparse")]
            for candidate in best:
                (part,), out = candidate.parts, candidate.outputs
                if self.problem.num_classes is not None:
                    # Of equal confidence: the louder one would drown the other.
                    scale, shift = METHODS["temperature"](out, self.judged)
                    part, out = part.rescaled(scale, shift), out * scale
                parts.append(part)
                outputs.append(out)
            mean = np.asarray(sum(outputs) / len(outputs), np.float32)
            size = best[0].size if best[0].size == best[1].size else None
            score = self.problem.score(self.judged, mean)
            yield self._candidate("ensemble", size, score, tuple(parts), mean)

    # -- judging -----------------------------------------------------------------------------

    def _best(
        self, steps: Iterable[tuple[M, ...]], held: Sequence[tuple[Array, Array]]
    ) -> tuple[M, Array, float]:
        """The best step of a path, giving up after some in a row without a gain.

        Args:
            steps: per penalty the model of all training rows, and one without each fold.
            held: per model the training rows that it is judged on and its inputs; of the first
                model those are the validation rows' inputs.

        Returns:
            The model of all training rows, its outputs on the judged rows and its score.
        """
        best: tuple[M, Array, float] | None = None
        worse, num_val = 0, len(self.data.y_val)
        for models in steps:
            first = models[0].outputs(held[0][1].astype(np.float32))
            outputs = np.empty((len(self.judged), first.shape[1]), np.float32)
            outputs[:num_val] = first
            for model, (rows, x) in zip(models[1:], held[1:], strict=True):
                outputs[num_val + rows] = model.outputs(x.astype(np.float32))
            score = self.problem.score(self.judged, outputs)
            metric = self.problem.metric
            if best is None or utility(metric, score) > utility(metric, best[2]):
                best, worse = (models[0], outputs, score), 0
            elif (worse := worse + 1) == PATIENCE:
                break
        assert best is not None
        return best

    def _candidate(
        self, kind: str, size: float | None, score: float, parts: tuple[Part, ...], outputs: Array
    ) -> Candidate:
        features = {
            (edges.layer, feature)
            for part in parts
            for edges in part.layers
            for feature in edges.features.tolist()
        }
        depth = max(edges.layer for part in parts for edges in part.layers)
        num_val = len(self.data.y_val)
        val_score = self.problem.score(self.data.y_val, outputs[:num_val])
        return Candidate(kind, depth, size, score, val_score, len(features), parts, outputs)


def _edges(layer: SalientLayer, features: Array, weights: Array, bias: Array) -> LayerEdges:
    return LayerEdges(
        layer.layer,
        features,
        layer.probe.standardiser.take(features),
        np.ascontiguousarray(weights, dtype=np.float32),
        bias.astype(np.float32),
    )
