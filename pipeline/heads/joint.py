"""Linear models on all features of many sources, and on chosen ones, in closed form.

    joint = Joint(features, rows, problem, weight)
    fits = joint.fit({"dense 3": [Source("ffn", 0), …, Source("hidden", 4)], …})
    fits["dense 3"].outputs, fits["dense 3"].weights        # held out; on standardised features

Every source is a group of features with a learnt weight (:mod:`pipeline.linear.mixture`). More than
``block_rows`` rows are divided into blocks, and the blocks' models averaged: linear in the rows,
and about as good as one model of all (Zhang, Duchi & Wainwright 2013, "Divide and conquer kernel
ridge regression"). Near-duplicates are in one block and one fold: what is said of a row comes from
models that have seen neither it nor its like. A group of them larger than a fold of a block is
divided over the blocks; then, and where folds are times or authors, the models of other blocks that
judge a row are those without its fold, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.heads.features import Features
from pipeline.linear import INTERCEPT, BlockThreads, Mixture, RidgeFit
from pipeline.measures import stratified_folds
from pipeline.probes import Problem, TaskRows
from store.layout import Source

Array = NDArray[Any]
PIECE = 2048
"""Rows that are read at a time where no model is fitted on them."""
MATRICES = 4
"""Matrices of a block's size that a fit takes beside its kernels: sum, factor, inverse, a copy."""
Sets = Mapping[Source, Array]
"""Source -> ``(k,)`` features that are read of it."""


@dataclass(frozen=True)
class JointFit:
    """A linear model over sources.

    Attributes:
        shares: source -> its learnt weight.
        weights: source -> ``(features, outputs)`` float32 on standardised features.
        bias: ``(outputs,)`` float64.
        outputs: ``(assignments, n, outputs)`` float32 scores of the judged rows: held out, or of
            rows that were not fitted on. Of classes regressions on their indicators.
    """

    shares: dict[Source, float]
    weights: dict[Source, Array]
    bias: Array
    outputs: Array


@dataclass(frozen=True)
class Goal:
    """Targets as a regression has them: ``center + spread * centred``.

    Attributes:
        centred: ``(n, outputs)`` float32; of classes their indicators (of two the second's), of
            label sets those of the labels.
        center, spread: ``(outputs,)`` float64.
    """

    centred: Array
    center: Array
    spread: Array

    @classmethod
    def of(cls, targets: Array, num_classes: int | None, weight: Array | None) -> Goal:
        """Of class indices, label sets ``(n, labels)``, or values where ``num_classes`` is None."""
        if targets.ndim == 2:
            y = np.asarray(targets, np.float64)
        elif num_classes is None:
            y = np.asarray(targets, np.float64)[:, None]
        else:
            y = np.eye(num_classes)[targets]
            y = y[:, 1:] if num_classes == 2 else y
        center = np.average(y, axis=0, weights=weight)
        spread = np.full(y.shape[1], float(y.std()) or 1.0)
        return cls(((y - center) / spread).astype(np.float32), center, spread)


@dataclass
class Joint:
    """Fits linear models over the sources of one task's rows.

    Attributes:
        features: what reads them.
        rows: the task's rows.
        problem: classes and metric.
        weight: ``(n,)`` of the rows; None for all alike.
        by_folds: fitted on all rows and judged by their held-out scores; else fitted on the
            training rows and judged on the validation rows.
        seed: of the blocks.
        block_rows: rows of one exact model.
        threads: to run on, each with single-threaded BLAS.
    """

    features: Features
    rows: TaskRows
    problem: Problem
    weight: Array | None
    by_folds: bool
    seed: int
    block_rows: int
    threads: BlockThreads
    _learnt: dict[tuple[Source, ...], dict[Source, float]] = field(default_factory=dict)
    _fitted: dict[tuple[Source, ...], list[RidgeFit]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fitted = len(self.rows) if self.by_folds else self.rows.num_train
        self.fitted = np.arange(fitted)
        self.judged = self.fitted if self.by_folds else np.arange(fitted, len(self.rows))
        weight = None if self.weight is None else self.weight[self.fitted]
        self.goal = Goal.of(self.rows.targets[self.fitted], self.problem.num_classes, weight)
        self.num_folds = 1 + max(int(own.max()) for own in self.rows.folds)
        self.blocks, is_split = self._divided()
        self.is_apart = self.by_folds and len(self.blocks) > 1 and (self.rows.is_shift or is_split)
        """Whether other blocks, too, judge by models without a row's fold."""

    def _divided(self) -> tuple[list[Array], bool]:
        """Fitted rows in blocks that are alike, and whether near-duplicates are in several.

        A group that is more than a fold of a block would leave little else in it.
        """
        number = -(-len(self.fitted) // self.block_rows)
        if number == 1:
            return [self.fitted], False
        _, groups, sizes = np.unique(
            self.rows.groups[self.fitted], return_inverse=True, return_counts=True
        )
        large = sizes[groups] > self.block_rows / self.num_folds
        groups[large] = len(sizes) + np.arange(large.sum())
        block = stratified_folds(
            self.rows.targets[self.fitted],
            folds=number,
            seed=self.seed + 1,  # not that of the folds
            groups=groups,
        )
        blocks = [np.flatnonzero(block == i) for i in range(number) if (block == i).any()]
        return blocks, bool(large.any())

    def mixture(self, kernels: Sequence[Array], block: Array) -> Mixture:
        """The problem of one block, whose kernels are given."""
        weight = None if self.weight is None else self.weight[block].astype(np.float32)
        folds = [own[block] for own in self.rows.folds]
        targets = self.goal.centred[block]
        return Mixture(kernels, targets, folds, weight, num_folds=self.num_folds)

    # -- all features of some sources ----------------------------------------------------------

    def fit(self, models: Mapping[str, Sequence[Source]]) -> dict[str, JointFit]:
        """Fit models on all features of their sources.

        Args:
            models: name -> sources; those that have all of another's are learnt first, and the
                other's weights sought from theirs.
        """
        used = sorted({source for sources in models.values() for source in sources})
        duals: list[dict[str, RidgeFit]] = []
        for number, block in enumerate(self.blocks):
            made = self.threads.ordered(partial(self.features.kernel, rows=block), used)
            kernels = dict(zip(used, made, strict=True))
            if number == 0:
                self._learn(models, kernels, block)

            def fitted(
                sources: Sequence[Source],
                kernels: Mapping[Source, Array] = kernels,
                block: Array = block,
            ) -> RidgeFit:
                shares = self._learnt[tuple(sources)]
                mixture = self.mixture([kernels[s] for s in sources], block)
                return mixture.fit(np.array([shares[s] for s in sources]))

            found = self.threads.ordered(fitted, models.values())
            duals.append(dict(zip(models, found, strict=True)))
        for name, sources in models.items():
            self._fitted[tuple(sources)] = [one[name] for one in duals]
        return self._assembled(models, duals)

    def _learn(
        self,
        models: Mapping[str, Sequence[Source]],
        kernels: Mapping[Source, Array],
        block: Array,
    ) -> None:
        new = [own for own in dict.fromkeys(map(tuple, models.values())) if own not in self._learnt]
        largest = [own for own in new if not any(set(own) < set(other) for other in new)]
        for together in (largest, [own for own in new if own not in largest]):
            learn = partial(self._weights, kernels=kernels, block=block)
            made = self.threads.ordered(learn, together)
            self._learnt |= dict(zip(together, made, strict=True))

    def _weights(
        self, sources: tuple[Source, ...], *, kernels: Mapping[Source, Array], block: Array
    ) -> dict[Source, float]:
        """Weights of a model's sources, sought from those of the smallest known one with them."""
        start = np.full(len(sources), 1.0 / len(sources))
        related = [own for own in self._learnt.values() if set(sources) <= set(own)]
        if related:
            nearest = min(related, key=len)
            start = np.array([nearest[source] for source in sources])
            start *= sum(nearest.values()) / start.sum()
        mixture = self.mixture([kernels[s] for s in sources], block)
        found = mixture.learn(start, is_near=bool(related))
        return dict(zip(sources, found.tolist(), strict=True))

    def _assembled(
        self, models: Mapping[str, Sequence[Source]], duals: Sequence[Mapping[str, RidgeFit]]
    ) -> dict[str, JointFit]:
        """Weights on features, and the judged rows' scores, from the blocks' duals."""
        members = {
            source: [name for name, own in models.items() if source in own]
            for source in sorted({source for own in models.values() for source in own})
        }
        size = self.goal.centred.shape[1]
        weights: dict[str, dict[Source, Array]] = {name: {} for name in models}
        cross = {name: np.zeros((len(self.rows), size), np.float32) for name in models}
        for source, names in members.items():
            share = {name: np.float32(self._learnt[tuple(models[name])][source]) for name in names}
            columns = [
                np.concatenate([share[name] * one[name].dual for name in names], axis=1)
                for one in duals
            ]
            without = [
                np.concatenate([share[name] * one[name].fold_duals[0] for name in names], axis=2)
                for one in (duals if self.is_apart else ())
            ]
            found, seen = self.project(source, columns, without=without)
            for i, name in enumerate(names):
                part = slice(i * size, (i + 1) * size)
                weights[name][source] = found[:, part]
                cross[name] += seen[:, part]
        return {
            name: self._finished(
                self._learnt[tuple(models[name])],
                weights[name],
                cross[name],
                [one[name] for one in duals],
            )
            for name in models
        }

    def project(
        self,
        source: Source,
        columns: Sequence[Array],
        sets: Array | None = None,
        *,
        without: Sequence[Array] = (),
    ) -> tuple[Array, Array]:
        """Weights of a source's features from the blocks' duals, and what they say of rows.

        Args:
            source: whose features.
            columns: of each block ``(n_b, k)`` duals, times the source's share.
            sets: ``(f,)`` features read; None for all.
            without: of each block ``(folds, n_b, k)``, the same of models without each fold: these
                say what they do of the fold's rows. None: the duals themselves do.

        Returns:
            ``(f, k)`` weights on standardised features, the mean over the blocks; ``(n, k)`` what
            the features add to the scores of each row, the mean over the blocks that the row is
            not in (each counted as one of all): zero where there is one block only.
        """
        each: list[Array] = []
        each_without: list[list[Array]] = []
        for i, (block, own) in enumerate(zip(self.blocks, columns, strict=True)):
            x = self.features.read(source, block, sets).T
            each.append(x @ own)
            each_without.append([x @ one for one in without[i]] if without else [each[-1]])
        total = np.asarray(sum(each))
        out = np.zeros((len(self.rows), columns[0].shape[1]), np.float32)
        if len(each) > 1 and self.by_folds:
            fold = self.rows.folds[0] if without else np.zeros(len(self.rows), np.int64)
            for k, said in enumerate(zip(*each_without, strict=True)):
                for block, own in zip(self.blocks, said, strict=True):
                    for rows in _pieces(block[fold[block] == k]):
                        out[rows] = self.features.read(source, rows, sets) @ (sum(said) - own)
        if not self.by_folds:
            for rows in _pieces(self.judged):
                out[rows] = self.features.read(source, rows, sets) @ total
        width = self.features.width(source)
        return total / np.float32(len(each) * np.sqrt(width)), out / np.float32(len(each))

    def _finished(
        self,
        shares: dict[Source, float],
        weights: dict[Source, Array],
        cross: Array,
        fits: Sequence[RidgeFit],
    ) -> JointFit:
        """Put a model together on the targets' own scale."""
        constants = INTERCEPT * np.stack([fit.dual.sum(axis=0, dtype=np.float64) for fit in fits])
        number = len(fits)
        if self.by_folds:
            shape = len(fits[0].held_out), len(self.rows), cross.shape[1]
            outputs = np.empty(shape, np.float32)
            said, fold = constants[:, None], np.zeros(len(self.rows), np.int64)
            if self.is_apart:
                said = INTERCEPT * np.stack([fit.fold_duals[0].sum(axis=1) for fit in fits])
                fold = self.rows.folds[0]
            for i, (block, fit) in enumerate(zip(self.blocks, fits, strict=True)):
                others = (said.sum(axis=0) - said[i])[fold[block]] / number
                outputs[:, block] = fit.held_out / number + cross[block] + others
        else:
            outputs = (cross[self.judged] + constants.mean(axis=0))[None]
        goal = self.goal
        scale = goal.spread.astype(np.float32)
        return JointFit(
            shares,
            {source: own * scale for source, own in weights.items()},
            constants.mean(axis=0) * goal.spread + goal.center,
            np.asarray(outputs * scale + goal.center, np.float32),
        )

    # -- chosen features -----------------------------------------------------------------------

    def importance(self, sources: Sequence[Source]) -> list[dict[Source, Array]]:
        """Importance of features: the norms of a fitted model's weights on features of spread 1.

        Returns:
            For the whole, then for each fold of each assignment that judges: source ->
            ``(features,)`` float64.
        """
        shares = self._learnt[tuple(sources)]
        size = self.goal.centred.shape[1]
        duals = [
            np.concatenate([fit.dual, *self._by_fold(fit)], axis=1)
            for fit in self._fitted[tuple(sources)]
        ]
        found: list[dict[Source, Array]] = [{} for _ in range(duals[0].shape[1] // size)]
        for source in sources:
            columns = [np.float32(shares[source]) * dual for dual in duals]
            weights = sum(
                self.features.read(source, block).T @ own
                for block, own in zip(self.blocks, columns, strict=True)
            )
            for i, own in enumerate(found):
                part = np.asarray(weights)[:, i * size : (i + 1) * size]
                norm = np.linalg.norm(part, axis=1) / np.sqrt(self.features.width(source))
                own[source] = norm * self.features.spread(source)
        return found

    def _by_fold(self, fit: RidgeFit) -> list[Array]:
        return [own for folds in fit.fold_duals for own in folds] if self.by_folds else []


def _pieces(rows: Array) -> Iterator[Array]:
    """Rows in pieces of ``PIECE``."""
    for start in range(0, len(rows), PIECE):
        yield rows[start : start + PIECE]


def joint_bytes(
    joint: Joint, *, num_sources: int, widest: int, num_folds: int, num_threads: int
) -> int:
    """Memory that fits take at most.

    Args:
        joint: of the rows.
        num_sources: that are read; there are about as many models.
        widest: features of the largest source.
        num_folds: that judge, over all assignments.
        num_threads: each with the kernels of one model on chosen features, one for every fold.
    """
    side = max(map(len, joint.blocks))
    kernels = side * side * (num_sources + num_threads * (num_folds + MATRICES))
    read = num_threads * 2 * side * widest
    duals = num_sources * (1 + num_folds) * joint.goal.centred.size
    return 4 * (kernels + read + duals)
