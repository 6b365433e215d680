"""Folds: groups together and classes even; blocks of time; whole labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.errors import ProbeError
from pipeline.measures.folds import label_folds, ordered_folds, stratified_folds


@given(
    pairs=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), min_size=1, max_size=200),
    folds=st.integers(2, 6),
    values=st.booleans(),
)
def test_groups_are_in_one_fold(pairs: list[tuple[int, int]], folds: int, values: bool) -> None:
    groups, targets = np.array(pairs).T
    targets = targets / 7 if values else targets
    found = stratified_folds(targets, folds=folds, seed=1, groups=groups)
    assert found.dtype == np.int64 and found.min() >= 0 and found.max() < folds
    for group in np.unique(groups):
        assert len(set(found[groups == group])) == 1
    assert (found == stratified_folds(targets, folds=folds, seed=1, groups=groups + 5)).all()


@given(seed=st.integers(0, 10_000), folds=st.integers(2, 8))
def test_classes_are_even_though_groups_differ_in_size(seed: int, folds: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.choice([1, 1, 1, 1, 2, 3, 8], 400)
    groups = np.repeat(np.arange(400), sizes)
    targets = np.repeat(rng.choice(3, 400, p=[0.6, 0.3, 0.1]), sizes)
    shuffled = rng.permutation(len(groups))
    groups, targets = groups[shuffled], targets[shuffled]
    found = stratified_folds(targets, folds=folds, seed=seed, groups=groups)
    counts = np.zeros((folds, 3), int)
    np.add.at(counts, (found, targets), 1)
    # Single rows fill what the groups leave uneven, where there are enough of them.
    alone = np.bincount(groups)[groups] == 1
    enough = np.bincount(targets[alone], minlength=3) >= folds * sizes.max()
    assert (np.ptp(counts, axis=0) <= np.where(enough, 1, sizes.max())).all()
    assert np.ptp(counts.sum(axis=1)) <= 3


@given(seed=st.integers(0, 10_000))
def test_values_are_even_though_groups_differ_in_size(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(300), rng.choice([1, 1, 2, 6], 300))
    targets = rng.random(len(groups))
    found = stratified_folds(targets, folds=5, seed=seed, groups=groups)
    means = [targets[found == fold].mean() for fold in range(5)]
    assert max(means) - min(means) < 0.05
    sizes = np.bincount(found)
    assert sizes.max() - sizes.min() <= 10


def test_one_class_within_mixed_groups() -> None:
    groups = np.repeat(np.arange(30), 4)
    targets = np.tile([0, 0, 1, 1], 30)
    found = stratified_folds(targets, folds=5, seed=0, groups=groups)
    assert np.bincount(found).tolist() == [24] * 5


@given(
    times=arrays(np.int64, st.integers(6, 120), elements=st.integers(0, 50)),
    folds=st.integers(2, 6),
)
def test_blocks_of_time(times: np.ndarray, folds: int) -> None:
    if len(np.unique(times)) < folds:
        with pytest.raises(ProbeError, match=f"{folds} folds, but .* different times; ask"):
            ordered_folds(times, folds)
        return
    found = ordered_folds(times, folds)
    assert found.dtype == np.int64 and set(found) == set(range(folds))
    for fold in range(folds - 1):
        assert times[found == fold].max() < times[found == fold + 1].min()


def test_blocks_of_time_are_even() -> None:
    times = np.random.default_rng(0).permutation(100) / 2
    assert np.bincount(ordered_folds(times, 5)).tolist() == [20] * 5
    assert ordered_folds(np.array([3, 1, 1, 1, 1, 2]), 2).tolist() == [1, 0, 0, 0, 0, 1]
    assert ordered_folds(np.array([1, 2, 3, 3, 3, 3]), 3).tolist() == [0, 1, 2, 2, 2, 2]


@given(
    labels=st.lists(st.sampled_from("abcdefgh"), max_size=80),
    folds=st.integers(2, 5),
)
def test_labels_are_in_one_fold(labels: list[str], folds: int) -> None:
    if len(set(labels)) < folds:
        with pytest.raises(ProbeError, match="different authors; ask for fewer folds"):
            label_folds(labels, folds, what="authors")
        return
    found = label_folds(labels, folds)
    assert found.dtype == np.int64 and set(found) == set(range(folds))
    for label in set(labels):
        assert len({fold for fold, one in zip(found, labels, strict=True) if one == label}) == 1
    sizes = np.bincount(found)
    assert sizes.max() - sizes.min() <= max(map(labels.count, labels))


def test_labels_are_balanced_from_the_largest_down() -> None:
    labels = [*"aaaaabbbccdd"]
    assert label_folds(labels, 2).tolist() == [*[0] * 5, 1, 1, 1, 1, 1, 0, 0]
    assert label_folds(labels[::-1], 2)[::-1].tolist() == label_folds(labels, 2).tolist()
