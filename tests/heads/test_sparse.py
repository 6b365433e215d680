"""Against plain refits, and against labels that say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import HeadConfig
from pipeline.heads.joint import Joint, JointFit, Sets
from pipeline.heads.salient import joint_sets
from pipeline.heads.sparse import SCALES, fit_chosen, walk
from pipeline.linear.threads import BlockThreads
from store.layout import Source
from tests.builders.features import make_joint, memory_sources, refit

Array = NDArray[Any]
CONFIG = HeadConfig(select="budget", budget=(12,))


def made(
    seed: int, threads: BlockThreads, classes: int | None, *, n: int = 80, **options: Any
) -> Joint:
    """Two sources; a few features of each speak."""
    draw = np.random.default_rng(seed)
    xs = [draw.normal(size=(n, width)).astype(np.float32) for width in (20, 50)]
    signal = xs[0][:, 3] + xs[1][:, 7] + xs[1][:, 8] + 0.5 * draw.normal(size=n)
    targets: Array = 2.0 * signal - 1.0
    if classes is not None:
        edges = np.quantile(signal, np.linspace(0, 1, classes + 1)[1:-1])
        targets = np.searchsorted(edges, signal)
    return make_joint(xs, targets, threads, classes=classes, **options)


def chosen_of(joint: Joint, config: HeadConfig = CONFIG) -> tuple[dict[Source, float], list[Sets]]:
    sources = memory_sources(2)
    shares = joint.fit({"all": sources})["all"].shares
    return shares, [joint_sets(own, 12, config) for own in joint.importance(sources)]


def scaled(joint: Joint, fit: JointFit, sets: Sets) -> Array:
    columns = [
        joint.features.others[source][:, index] * np.sqrt(fit.shares[source])
        for source, index in sets.items()
    ]
    return np.concatenate(columns, axis=1)


def expected(joint: Joint, fit: JointFit, chosen: Sequence[Sets]) -> tuple[Array, Array]:
    """Scores of all rows by the whole model, and of the judged rows, by refits."""
    goal, (sets, *without) = joint.goal, chosen
    targets = np.zeros((len(joint.rows), goal.centred.shape[1]))
    targets[joint.fitted] = goal.centred
    x = scaled(joint, fit, sets)
    whole = np.mean([refit(x, targets, block, joint.weight) for block in joint.blocks], axis=0)
    judged = whole
    if joint.by_folds:
        judged = np.zeros_like(targets)
        folds = joint.rows.folds[0]
        for k, own in enumerate(without):
            x, held = scaled(joint, fit, own), folds == k
            for block in joint.blocks:
                inside = np.isin(np.arange(len(folds)), block)
                rest = block[folds[block] != k]
                judged[held & inside] += refit(x, targets, rest, joint.weight)[held & inside]
                others = rest if joint.is_apart else block
                judged[held & ~inside] += refit(x, targets, others, joint.weight)[held & ~inside]
        judged /= len(joint.blocks)
    judged = judged[joint.judged]
    return whole * goal.spread + goal.center, judged * goal.spread + goal.center


@pytest.mark.parametrize("classes", [2, 3, None])
@pytest.mark.parametrize("block_rows", [1000, 30])
@pytest.mark.parametrize("how", ["folds", "weighted folds", "shift", "group", "validation"])
def test_scores_and_weights_are_those_of_refits_on_the_chosen_features(
    classes: int | None,
    block_rows: int,
    how: str,
    threads: BlockThreads,
) -> None:
    weight = np.exp(np.random.default_rng(1).normal(size=80)) if "weighted" in how else None
    joint = made(
        0,
        threads,
        classes,
        weight=weight,
        is_shift=how == "shift",
        groups=np.maximum(np.arange(80), 40) if how == "group" else None,  # half are nearly alike
        block_rows=block_rows,
        num_train=60 if how == "validation" else None,
    )
    shares, chosen = chosen_of(joint)
    assert len(chosen) == (5 if joint.by_folds else 1)
    fit = fit_chosen(joint, shares, chosen)
    factors = {fit.shares[source] / share for source, share in shares.items()}
    assert min(abs(max(factors) - scale) for scale in SCALES) < 1e-6
    assert fit.outputs.shape[:2] == (1, len(joint.judged))
    whole, judged = expected(joint, fit, chosen)
    np.testing.assert_allclose(fit.outputs[0], judged, atol=5e-3)
    found = fit.bias + sum(
        joint.features.others[source][:, chosen[0][source]] @ weights
        for source, weights in fit.weights.items()
    )
    np.testing.assert_allclose(found, whole, atol=5e-3)


def test_features_are_chosen_without_the_fold_that_they_judge(threads: BlockThreads) -> None:
    joint = made(2, threads, 2)
    _, (whole, *without) = chosen_of(joint)
    assert len(without) == 4
    different = {tuple((s, tuple(own)) for s, own in sets.items()) for sets in (whole, *without)}
    assert len(different) > 1
    # The labels of fold 0 may change as they like.
    joint.rows.targets[joint.rows.folds[0] == 0] ^= 1
    flipped = Joint(
        joint.features, joint.rows, joint.problem, None, True, 0, 1000, threads, joint._learnt
    )
    flipped.fit({"all": memory_sources(2)})
    again = joint_sets(flipped.importance(memory_sources(2))[1], 12, CONFIG)
    assert {s: own.tolist() for s, own in again.items()} == {
        s: own.tolist() for s, own in without[0].items()
    }


def noise(seed: int, threads: BlockThreads, **options: Any) -> Joint:
    draw = np.random.default_rng(seed)
    xs = [draw.normal(size=(200, 600)) for _ in range(2)]
    return make_joint(xs, draw.integers(2, size=200), threads, classes=2, **options)


def accuracy(joint: Joint, fit: JointFit) -> float:
    targets = joint.rows.targets[joint.judged]
    return float(((fit.outputs[0, :, 0] > joint.goal.center[0]) == targets).mean())


@pytest.mark.parametrize("select", ["share", "top_k", "budget"])
@pytest.mark.parametrize("block_rows", [1000, 70])
def test_noise_scores_at_chance_out_of_fold(
    select: Any,
    block_rows: int,
    threads: BlockThreads,
) -> None:
    size = {"share": 0.3, "top_k": 20, "budget": 40}[select]
    config = HeadConfig(select=select)
    leaked = []
    for seed in range(3):
        joint = noise(seed, threads, block_rows=block_rows)
        shares = joint.fit({"all": memory_sources(2)})["all"].shares
        chosen = [joint_sets(own, size, config) for own in joint.importance(memory_sources(2))]
        assert abs(accuracy(joint, fit_chosen(joint, shares, chosen)) - 0.5) < 0.12
        leaked.append(accuracy(joint, fit_chosen(joint, shares, [chosen[0]] * 5)))
    assert np.mean(leaked) > 0.7  # the test would see it


def test_noise_scores_at_chance_on_validation_rows(threads: BlockThreads) -> None:
    joint = noise(4, threads, num_train=120)
    shares, chosen = chosen_of(joint)
    assert abs(accuracy(joint, fit_chosen(joint, shares, chosen)) - 0.5) < 0.16


def test_random_features_are_the_same_in_every_fold(threads: BlockThreads) -> None:
    joint = made(5, threads, None)
    shares, chosen = chosen_of(joint)
    draw = np.random.default_rng(0)
    sizes = {source: len(own) for source, own in chosen[0].items()}
    sets = {
        source: np.sort(draw.choice(joint.features.size(source), size, replace=False))
        for source, size in sizes.items()
    }
    fit = fit_chosen(joint, shares, [sets] * 5)
    _, judged = expected(joint, fit, [sets] * 5)
    np.testing.assert_allclose(fit.outputs[0], judged, atol=5e-3)
    salient = fit_chosen(joint, shares, chosen)
    errors = [np.square(f.outputs[0, :, 0] - joint.rows.targets).mean() for f in (salient, fit)]
    assert errors[0] < errors[1]


def test_a_source_may_have_no_feature(threads: BlockThreads) -> None:
    joint = made(6, threads, 2)
    shares, _ = chosen_of(joint)
    first, second = memory_sources(2)
    none = np.zeros(0, np.int64)
    for sets in ({second: np.array([7, 8])}, {first: none, second: np.array([7, 8])}):
        fit = fit_chosen(joint, shares, [sets] * 5)
        assert set(fit.weights) == {second}
        assert np.isfinite(fit.outputs).all()


@pytest.mark.parametrize("block_rows", [1000, 30])
def test_of_one_fold_nothing_is_learnt(block_rows: int, threads: BlockThreads) -> None:
    folds = [np.zeros(80, np.int64)]
    joint = made(7, threads, 2, folds=folds, block_rows=block_rows, is_shift=True)
    shares, chosen = chosen_of(joint)
    fit = fit_chosen(joint, shares, chosen)
    center = np.full_like(fit.outputs, joint.goal.center[0])
    np.testing.assert_allclose(fit.outputs, center, atol=1e-4)


@given(st.integers(0, 4), st.lists(st.floats(0.1, 10), min_size=5, max_size=5))
def test_walking_finds_the_least_of_errors_that_fall_and_rise(
    lowest: int, steps: list[float]
) -> None:
    rise = np.cumsum(steps)
    errors = [float(rise[abs(i - lowest)]) for i in range(5)]
    asked: list[float] = []

    def error(value: float) -> float:
        asked.append(value)
        return errors[SCALES.index(value)]

    assert walk(error, SCALES) == SCALES[lowest]
    assert len(asked) == len(set(asked))
