"""Phase 2: cross-layer heads over salient slices, for every depth.

``Sweep.candidates`` trains, for each depth ``d`` and size of the salient sets, the heads on the
salient features of layers ``0..d``, judges them on rows that they were not fitted on, and adds the
mean of each depth's best two; :mod:`pipeline.heads.choice` chooses. Only salient slices are
held.

Which rows a head is trained and judged on is said by :mod:`pipeline.heads.modes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.config import HeadConfig, ProbeConfig
from pipeline.heads.choice import Candidate, best_of
from pipeline.heads.dense import iterate_dense
from pipeline.heads.model import Dense, LayerEdges, Part
from pipeline.heads.modes import Index, Mode
from pipeline.heads.salient import SalientLayer, SalientSets, salient_sets
from pipeline.linear import Linear, iterate_path
from pipeline.measures import METHODS, utility
from pipeline.probes import Problem

Array = NDArray[Any]
PATIENCE = 2
"""Penalties in a row without a gain after which a path is given up."""


@dataclass(frozen=True)
class TrainingData:
    """Targets of the training and validation rows, with folds and weights of the former.

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
class _Fit(Generic[M]):
    """A model for each penalty, and the rows that judge it.

    Attributes:
        path: the models, fitted as they are asked for.
        x: ``(k, inputs)`` what the model takes for the rows that judge it.
        rows: where these are among the judged rows.
    """

    path: Iterator[M]
    x: Array
    rows: Index


@dataclass(frozen=True)
class Sweep:
    """Trains and judges heads on one task's salient slices; :meth:`candidates` does all of it.

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
    def mode(self) -> Mode:
        """Which rows train, and which judge."""
        return Mode.of(self.config)

    @property
    def judged(self) -> Array:
        """Targets of the rows that heads are judged on, validation rows first."""
        if not self.mode.num_judge_folds:
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
        fits, x_val = [], sets.standardised_val()
        for fold in self.mode.fits:
            x = sets.standardised(fold)
            path = self._path(x, self.mode.train_rows(self.data.folds, fold))
            fits.append(self._fit(path, fold, x_val, x))
        model, outputs, score = self._best(fits)
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

    def _path(self, x: Array, rows: Index) -> Iterator[Linear]:
        regression = self.problem.num_classes is None
        return iterate_path(
            x[rows],
            self.data.y_train[rows],
            num_classes=self.problem.num_classes,
            penalties=self.probe_config.alpha if regression else self.probe_config.C,
            solver=self.probe_config.solver,
            sample_weight=self._weight(rows),
            tol=self.probe_config.tol,
        )

    # -- frozen ------------------------------------------------------------------------------

    def _frozen(self, sets: SalientSets, size: float) -> Candidate:
        """Frozen Phase-1 edges under a dense network."""
        projected = [self._project(sets, i) for i in range(len(sets.whole))]
        z = np.concatenate([z for z, _, _ in projected], axis=1)
        z_val = np.concatenate([z_val for _, z_val, _ in projected], axis=1)
        fits = []
        for fold in self.mode.fits:
            path = self._network(z, self.mode.network_rows(self.data.folds, fold))
            fits.append(self._fit(path, fold, z_val, z))
        dense, outputs, score = self._best(fits)
        part = Part(tuple(edges for _, _, edges in projected), dense)
        return self._candidate("frozen", size, score, (part,), outputs)

    def _network(self, z: Array, rows: Index) -> Iterator[Dense]:
        return iterate_dense(
            z[rows],
            self.data.y_train[rows],
            num_classes=self.problem.num_classes,
            width=self.config.hidden_width,
            seed=self.data.seed,
            weight=self._weight(rows),
        )

    def _project(self, sets: SalientSets, i: int) -> tuple[Array, Array, LayerEdges]:
        """Phase-1 outputs on the training and validation rows with the other edges dropped."""
        layer, own = sets.layers[i], sets.whole[i]
        probe, num_folds = layer.probe, len(layer.probe.fold_weights)
        z = full = layer.probe_outputs(own)
        if self.mode.out_of_fold:
            folds = self.data.folds
            if folds is None or folds.max() + 1 != num_folds:
                raise ValueError("cross_fit needs the folds that the probes were fitted on")
            read = [by_layer[i] for by_layer in sets.folds] or [own] * num_folds
            z = layer.fold_outputs(read, folds)
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

    def _fit(self, path: Iterator[M], fold: int | None, x_val: Array, x: Array) -> _Fit[M]:
        """With the validation rows to judge the head itself, those of a fold the one without it.

        Args:
            path: models fitted without the fold.
            fold: None for the head itself.
            x_val, x: inputs of all validation and of all training rows.
        """
        num_val = len(self.data.y_val)
        if fold is None:
            return _Fit(path, x_val, slice(num_val))
        rows = self.mode.judge_rows(self.data.folds, fold)
        return _Fit(path, x[rows], num_val + np.flatnonzero(rows))

    def _weight(self, rows: Index) -> Array | None:
        return None if self.data.weight is None else self.data.weight[rows]

    def _best(self, fits: Sequence[_Fit[M]]) -> tuple[M, Array, float]:
        """The best step of a path, giving up after some in a row without a gain.

        Args:
            fits: of the head itself, and of those without a fold.

        Returns:
            The head's model, the outputs on the judged rows and their score.
        """
        best: tuple[M, Array, float] | None = None
        judged, metric, worse = self.judged, self.problem.metric, 0
        for models in zip(*(fit.path for fit in fits), strict=True):
            found = [
                model.outputs(fit.x.astype(np.float32))
                for model, fit in zip(models, fits, strict=True)
            ]
            outputs = np.empty((len(judged), found[0].shape[1]), np.float32)
            for fit, own in zip(fits, found, strict=True):
                outputs[fit.rows] = own
            score = self.problem.score(judged, outputs)
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
