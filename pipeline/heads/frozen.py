"""The paper's head: Phase-1 edges outside the salient sets dropped, a network above the rest.

What the network is trained on are the probes' outputs ``z`` from the salient features alone, layer
by layer; :mod:`pipeline.heads.modes` says by which probes and on which rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import HeadConfig
from pipeline.heads.choice import Candidate, Judge, losses_of
from pipeline.heads.dense import iterate_dense
from pipeline.heads.model import Dense, Edges, Part
from pipeline.heads.modes import Mode
from pipeline.heads.salient import RULES
from pipeline.probes import Probe, TaskRows, feature_importance, importance_shares
from store import ActivationStore
from store.layout import ffn

Array = NDArray[Any]
PATIENCE = 2
"""Weight decays in a row without a gain after which a path is given up."""


@dataclass(frozen=True)
class FrozenHeads:
    """Trains frozen heads of one task.

    Attributes:
        store: where the activations are.
        rows: the task's rows.
        probes: layer with an FFN, ascending -> its probe, as the mode takes it.
        shares: of each layer ``(features,)`` share of its importance, whatever the fold; None for
            the probes' own, which are those without the fold where folds judge.
        judge: of the heads.
        weight: ``(n,)`` of the rows; None for all alike.
        config: rule, sizes and width.
        seed: of the network's start.
    """

    store: ActivationStore
    rows: TaskRows
    probes: Mapping[int, Probe]
    shares: Sequence[Array] | None
    judge: Judge
    weight: Array | None
    config: HeadConfig
    seed: int

    def candidate(self, depth: int, size: float) -> Candidate | None:
        """The head on layers ``0..depth`` with salient sets of one size; None without FFNs."""
        layers = self._layers(depth)
        if not layers:
            return None
        mode, problem = Mode.of(self.config), self.judge.problem
        sets, fold_sets = self._sets(layers, size, mode)
        found = [
            self._project(layers[number], own, [one[number] for one in fold_sets], mode)
            for number, own in enumerate(sets)
            if len(own)
        ]
        z = np.concatenate([own for own, _ in found], axis=1)
        folds, num_train = self.rows.folds[0], self.rows.num_train
        fits = []
        for fold in mode.fits:
            inside = mode.network_rows(folds, num_train, fold)
            path = iterate_dense(
                z[inside],
                self.rows.targets[inside],
                num_classes=problem.num_classes,
                width=self.config.hidden_width,
                seed=self.seed,
                weight=None if self.weight is None else self.weight[inside],
            )
            fits.append((path, mode.judged_rows(folds, num_train, fold)))
        model, outputs = self._best(fits, z, mode)
        selection = f"{self.config.select} {size:g} by {self.config.ranking}"
        part = Part(tuple(edges for _, edges in found), model)
        return self.judge.candidate(
            "frozen",
            (part,),
            outputs[None],
            selection=selection,
            size=size,
        )

    def _layers(self, depth: int) -> list[int]:
        """Those of ``0..depth`` that have a probe."""
        return [layer for layer in self.probes if layer <= depth]

    def _sets(
        self, layers: Sequence[int], size: float, mode: Mode
    ) -> tuple[list[Array], list[list[Array]]]:
        """Salient features of each layer, and those by the probes without each fold."""
        rule, probes = RULES[self.config.select], [self.probes[layer] for layer in layers]
        if self.shares is not None:
            whole = rule(self.shares[: len(layers)], size)
            return whole, [whole] * (len(probes[0].fold_weights) if mode.out_of_fold else 0)
        whole = rule([importance_shares(feature_importance(p.weights)) for p in probes], size)
        if not mode.num_judge_folds:
            return whole, [whole] * (len(probes[0].fold_weights) if mode.out_of_fold else 0)
        without = [
            rule([importance_shares(feature_importance(p.fold_weights[k])) for p in probes], size)
            for k in range(mode.num_judge_folds)
        ]
        return whole, without

    def _project(
        self, layer: int, features: Array, fold_features: Sequence[Array], mode: Mode
    ) -> tuple[Array, Edges]:
        """Phase-1 outputs ``(n, outputs)`` of all rows with the other edges dropped."""
        probe, num_train = self.probes[layer], self.rows.num_train
        read = np.unique(np.concatenate([features, *fold_features]))
        x = probe.standardiser.take(read).apply(
            self.store.read_features(layer=layer, features=read, samples=self.rows.positions)
        )
        own = x[:, np.searchsorted(read, features)]
        full = own @ probe.weights[:, features].T + probe.bias
        z = full.copy()
        if mode.out_of_fold:
            # Validation rows, too, where folds judge: a probe may have seen others of their fold.
            folds = self.rows.folds[0][: None if mode.num_judge_folds else num_train]
            for k, chosen in enumerate(fold_features):
                rows = np.flatnonzero(folds == k)
                part = x[np.ix_(rows, np.searchsorted(read, chosen))]
                z[rows] = part @ probe.fold_weights[k][:, chosen].T + probe.fold_bias[k]
        # Centred and scaled by the whole model's outputs, which the network sees when scoring.
        seen = full[:num_train]
        mean, scale = seen.mean(axis=0), np.maximum(seen.std(axis=0), 1e-6)
        edges = Edges(
            ffn(layer),
            features,
            probe.standardiser.take(features),
            np.ascontiguousarray(probe.weights[:, features] / scale[:, None], np.float32),
            ((probe.bias - mean) / scale).astype(np.float32),
        )
        return np.asarray((z - mean) / scale, np.float32), edges

    def _best(self, fits: Sequence[tuple[Any, Array]], z: Array, mode: Mode) -> tuple[Dense, Array]:
        """The best step of a path and its outputs on the judged rows."""
        best: tuple[Dense, Array] | None = None
        least, worse = np.inf, 0
        for models in zip(*(path for path, _ in fits), strict=True):
            outputs = np.zeros((len(z), len(models[0].bias)), np.float32)
            for model, (_, judged) in zip(models, fits, strict=True):
                outputs[judged] = model.outputs(z[judged])
            found = outputs[len(z) - len(self.judge.targets) :]
            loss = float(losses_of(self.judge.problem, self.judge.targets, found).mean())
            if loss < least:
                best, least, worse = (models[0], found), loss, 0
            elif (worse := worse + 1) == PATIENCE:
                break
        assert best is not None
        return best
