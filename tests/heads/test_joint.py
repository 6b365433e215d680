"""Against plain refits in float64 on the rows that a score may come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config import RunConfig
from pipeline.heads.features import Features
from pipeline.heads.joint import Goal, Joint, JointFit
from pipeline.linear.threads import BlockThreads
from pipeline.measures.folds import stratified_folds
from pipeline.probes.model import load_probe
from pipeline.runfolder import RunFolder
from store import ActivationStore
from store.layout import Source, ffn
from tests.builders.features import make_joint, memory_sources, refit

Array = NDArray[Any]


def made(
    seed: int, threads: BlockThreads, classes: int | None, *, n: int = 60, **options: Any
) -> Joint:
    """Two sources, of which the first has the signal."""
    draw = np.random.default_rng(seed)
    xs = [draw.normal(size=(n, width)).astype(np.float32) for width in (6, 25)]
    signal = xs[0][:, 0] + xs[0][:, 1] + 0.3 * draw.normal(size=n)
    if classes is None:
        targets = 5.0 + 3.0 * signal
    else:
        edges = np.quantile(signal, np.linspace(0, 1, classes + 1)[1:-1])
        targets = np.searchsorted(edges, signal)
    return make_joint(xs, targets, threads, classes=classes, **options)


def scaled(joint: Joint, fit: JointFit) -> Array:
    """All features times the roots of their sources' shares."""
    return np.concatenate(
        [joint.features.others[s] * np.sqrt(fit.shares[s]) for s in sorted(fit.shares)], axis=1
    )


def expected_outputs(joint: Joint, fit: JointFit) -> Array:
    """Scores of the judged rows, a block and a fold at a time."""
    goal, features = joint.goal, scaled(joint, fit)
    targets = np.zeros((len(joint.rows), goal.centred.shape[1]))
    targets[joint.fitted] = goal.centred
    number = len(joint.blocks)
    if not joint.by_folds:
        total = sum(refit(features, targets, block, joint.weight) for block in joint.blocks)
        return (np.asarray(total)[joint.judged] / number * goal.spread + goal.center)[None]
    out = np.zeros((len(joint.rows.folds), *targets.shape))
    for a, folds in enumerate(joint.rows.folds):
        for k in np.unique(folds):
            for block in joint.blocks:
                rest = block[folds[block] != k]
                apart = refit(features, targets, rest, joint.weight)
                whole = apart
                if not joint.is_apart:
                    whole = refit(features, targets, block, joint.weight)
                inside = np.isin(np.arange(len(folds)), block)
                held = folds == k
                out[a, held & inside] += apart[held & inside]
                out[a, held & ~inside] += whole[held & ~inside]
    return np.asarray(out / number * goal.spread + goal.center)


def check(joint: Joint, fit: JointFit) -> None:
    np.testing.assert_allclose(fit.outputs, expected_outputs(joint, fit), atol=2e-3)
    features, goal = scaled(joint, fit), joint.goal
    targets = np.zeros((len(joint.rows), goal.centred.shape[1]))
    targets[joint.fitted] = goal.centred
    whole = np.mean([refit(features, targets, b, joint.weight) for b in joint.blocks], axis=0)
    x = joint.features.others
    found = sum(x[source] @ weights for source, weights in fit.weights.items()) + fit.bias
    np.testing.assert_allclose(found, whole * goal.spread + goal.center, atol=2e-3)


CASES = [2, 3, None]


@pytest.mark.parametrize("classes", CASES)
@pytest.mark.parametrize("block_rows", [1000, 25])
@pytest.mark.parametrize("weighted", [False, True])
def test_scores_and_weights_are_those_of_refits(
    classes: int | None,
    block_rows: int,
    weighted: bool,
    threads: BlockThreads,
) -> None:
    weight = np.exp(np.random.default_rng(1).normal(size=60)) if weighted else None
    draw = np.random.default_rng(2)
    folds = [draw.integers(4, size=60) for _ in range(1 if block_rows < 60 else 3)]
    joint = made(0, threads, classes, weight=weight, folds=folds, block_rows=block_rows)
    assert len(joint.blocks) == (3 if block_rows < 60 else 1)
    first, second = memory_sources(2)
    found = joint.fit({"both": [first, second], "second": [second]})
    for name, fit in found.items():
        assert fit.outputs.shape == (len(folds), 60, classes if classes and classes > 2 else 1)
        assert set(fit.weights) == set(fit.shares) == {"both": {first, second}}.get(name, {second})
        check(joint, fit)


@pytest.mark.parametrize("classes", CASES)
@pytest.mark.parametrize("block_rows", [1000, 20])
def test_where_validation_rows_judge_they_are_not_fitted_on(
    classes: int | None,
    block_rows: int,
    threads: BlockThreads,
) -> None:
    joint = made(3, threads, classes, num_train=45, block_rows=block_rows)
    assert joint.judged.tolist() == list(range(45, 60))
    (fit,) = joint.fit({"both": memory_sources(2)}).values()
    assert fit.outputs.shape[:2] == (1, 15)
    check(joint, fit)
    joint.rows.targets[45:] = joint.rows.targets[45:][::-1]  # nobody has looked at them
    again = make_joint(
        [joint.features.others[s] * np.sqrt(joint.features.others[s].shape[1])
         for s in memory_sources(2)],
        joint.rows.targets, threads, classes=classes, num_train=45, folds=joint.rows.folds,
        block_rows=block_rows,
    )  # fmt: skip
    (other,) = again.fit({"both": memory_sources(2)}).values()
    np.testing.assert_allclose(other.outputs, fit.outputs, atol=1e-4)


def test_the_source_that_speaks_gets_the_weight(threads: BlockThreads) -> None:
    joint = made(4, threads, None, n=150)
    first, second = memory_sources(2)
    fit = joint.fit({"both": [first, second]})["both"]
    assert fit.shares[first] > 10 * fit.shares[second]
    assert np.corrcoef(fit.outputs[0, :, 0], joint.rows.targets)[0, 1] > 0.9


def test_a_model_with_fewer_sources_starts_from_one_with_more(threads: BlockThreads) -> None:
    joint = made(5, threads, 2)
    first, second = memory_sources(2)
    together = joint.fit({"both": [first, second], "first": [first]})["first"]
    alone = made(5, threads, 2).fit({"first": [first]})["first"]
    np.testing.assert_allclose(together.outputs, alone.outputs, atol=0.02)
    # What is learnt stays learnt.
    assert joint.fit({"again": [first]})["again"].shares == together.shares


@pytest.mark.parametrize("block_rows", [1000, 60])
def test_noise_scores_at_chance(
    block_rows: int,
    threads: BlockThreads,
) -> None:
    draw = np.random.default_rng(6)
    xs = [draw.normal(size=(240, width)) for width in (40, 400)]
    targets = draw.integers(2, size=240)
    joint = make_joint(xs, targets, threads, classes=2, block_rows=block_rows)
    (fit,) = joint.fit({"both": memory_sources(2)}).values()
    decided = fit.outputs[0, :, 0] > 0.5
    assert abs(float((decided == targets).mean()) - 0.5) < 0.1


def families(seed: int) -> tuple[list[Array], Array, Array]:
    """Rows of forty families: alike within one, and of one label, which says nothing of others."""
    draw = np.random.default_rng(seed)
    family = np.repeat(np.arange(40), 6)
    x = draw.normal(size=(40, 60))[family] + 0.1 * draw.normal(size=(240, 60))
    targets = draw.permutation(np.arange(40) % 2)[family]
    order = draw.permutation(240)
    return [x[order]], targets[order], family[order]


def accuracy(joint: Joint) -> float:
    (fit,) = joint.fit({"all": memory_sources(1)}).values()
    return float(((fit.outputs[0, :, 0] > 0.5) == joint.rows.targets).mean())


@pytest.mark.parametrize("block_rows", [1000, 60])
def test_near_duplicates_do_not_judge_each_other(
    block_rows: int,
    threads: BlockThreads,
) -> None:
    xs, targets, family = families(7)
    apart = make_joint(xs, targets, threads, classes=2, groups=family, block_rows=block_rows)
    for block in apart.blocks:
        assert not set(family[block]) & set(np.delete(family, block))
    assert accuracy(apart) < 0.65
    known = make_joint(xs, targets, threads, classes=2, block_rows=block_rows)
    assert accuracy(known) > 0.95  # the test would see it


def one_large_group(seed: int) -> tuple[list[Array], Array, Array]:
    """Half of the rows are nearly one text, and of one label."""
    draw = np.random.default_rng(seed)
    family = np.r_[np.zeros(120, np.int64), np.arange(1, 121)]
    x = draw.normal(size=(121, 60))[family] + 0.1 * draw.normal(size=(240, 60))
    targets = np.r_[np.ones(120, np.int64), draw.permutation(np.arange(120) % 2)]
    order = draw.permutation(240)
    return [x[order]], targets[order], family[order]


@pytest.mark.parametrize("draws", [1, 2])
def test_a_group_larger_than_a_fold_of_a_block_is_in_all_of_them(
    draws: int, threads: BlockThreads
) -> None:
    xs, targets, family = one_large_group(10)
    folds = [stratified_folds(targets, folds=4, seed=i, groups=family) for i in range(draws)]
    joint = make_joint(xs, targets, threads, classes=2, groups=family, folds=folds, block_rows=60)
    assert [len(block) for block in joint.blocks] == [60] * 4
    for block in joint.blocks:
        assert 20 <= np.count_nonzero(family[block] == 0) <= 40
    assert joint.is_apart
    (fit,) = joint.fit({"all": memory_sources(1)}).values()
    if draws == 1:
        check(joint, fit)
    # No model that judges the group has seen any of it.
    decided = fit.outputs[:, :, 0] > joint.goal.center[0]
    assert decided[:, family == 0].mean() < 0.7
    known = make_joint(xs, targets, threads, classes=2, folds=folds, block_rows=60)
    (fit,) = known.fit({"all": memory_sources(1)}).values()
    assert (fit.outputs[:, family == 0, 0] > 0.7).mean() > 0.95  # the test would see it


def test_of_times_and_authors_no_block_judges_what_it_has_seen(
    threads: BlockThreads,
) -> None:
    """An author's texts are no near-duplicates, so other blocks have some of them."""
    xs, targets, author = families(8)
    folds = [stratified_folds(targets, folds=4, seed=0, groups=author)]
    joint = make_joint(xs, targets, threads, classes=2, folds=folds, is_shift=True, block_rows=60)
    assert len(joint.blocks) == 4
    fit = joint.fit({"all": memory_sources(1)})["all"]
    check(joint, fit)
    assert accuracy(joint) < 0.65
    known = make_joint(xs, targets, threads, classes=2, folds=folds, block_rows=60)
    assert accuracy(known) > 0.75  # the test would see it


@pytest.mark.parametrize("block_rows", [1000, 25])
@pytest.mark.parametrize("by_folds", [True, False])
def test_importance_is_of_the_weights_with_and_without_each_fold(
    block_rows: int,
    by_folds: bool,
    threads: BlockThreads,
) -> None:
    joint = made(9, threads, 3, num_train=None if by_folds else 50, block_rows=block_rows)
    sources = memory_sources(2)
    fit = joint.fit({"both": sources})["both"]
    whole, *without = joint.importance(sources)
    assert len(without) == (4 if by_folds else 0)
    spread = joint.goal.spread[0]
    for source in sources:
        norms = np.linalg.norm(fit.weights[source] / spread, axis=1)
        norms *= joint.features.spread(source)
        np.testing.assert_allclose(
            norms / norms.max(), whole[source] / whole[source].max(), atol=1e-3
        )
    for k, found in enumerate(without):
        total = 0
        for block in joint.blocks:
            rest = block[joint.rows.folds[0][block] != k]
            features = scaled(joint, fit)
            x = np.concatenate([features, np.ones((len(features), 1))], axis=1)[rest]
            system = x.T @ x + np.eye(x.shape[1])
            total = total + np.linalg.solve(system, x.T @ joint.goal.centred[rest])
        root = np.sqrt(
            np.concatenate(
                [np.full(6, fit.shares[sources[0]]), np.full(25, fit.shares[sources[1]])]
            )
        )
        norms = np.linalg.norm(np.asarray(total)[:-1], axis=1) * root
        norms *= np.concatenate([joint.features.spread(source) for source in sources])
        np.testing.assert_allclose(
            np.concatenate([found[s] for s in sources]), norms, rtol=5e-3, atol=1e-4
        )


def test_goals() -> None:
    of_two = Goal.of(np.array([0, 1, 1, 1]), 2, None)
    np.testing.assert_allclose(of_two.center, [0.75])
    of_three = Goal.of(np.array([0, 1, 2, 1]), 3, np.array([1.0, 1.0, 1.0, 3.0]))
    np.testing.assert_allclose(of_three.center, [1 / 6, 4 / 6, 1 / 6])
    assert len(set(of_three.spread)) == 1
    values = Goal.of(np.array([3.0, 5.0]), None, None)
    np.testing.assert_allclose(values.centred[:, 0] * values.spread + values.center, [3, 5])
    constant = Goal.of(np.full(3, 7.0), None, None)
    assert not constant.centred.any() and np.isfinite(constant.spread).all()


def test_stored_features_are_standardised_and_their_kernels_of_unit_size(
    finished_run: Path,
) -> None:
    config = RunConfig.load(finished_run)
    store = ActivationStore.open(config.store.path)
    folder = RunFolder(Path(config.run_dir))
    sources = [ffn(1), Source("hidden", 2)]
    standardisers = {s: load_probe(folder, "mood", s).standardiser for s in sources}
    positions = np.arange(3, 43)
    features = Features(store, positions, standardisers, {})
    rows = np.array([5, 0, 17])
    for source in sources:
        raw = store.read_matrix(source.array or "", layer=source.layer, samples=positions[rows])
        width = features.size(source)
        assert width == features.width(source) == raw.shape[1]
        expected = standardisers[source].apply(np.asarray(raw, np.float32)) / np.sqrt(width)
        np.testing.assert_allclose(features.read(source, rows), expected, rtol=1e-5)
        some = np.array([1, 4, 9])
        np.testing.assert_allclose(features.read(source, rows, some), expected[:, some], rtol=1e-5)
        everything = features.kernel(source, np.arange(40))
        assert 0.3 < float(np.diag(everything).mean()) < 3
        np.testing.assert_allclose(
            features.kernel(source, rows, some),
            expected[:, some] @ expected[:, some].T,
            rtol=1e-4,
            atol=1e-6,
        )
