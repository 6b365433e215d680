from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import HeadConfig
from pipeline.heads.salient import RULES, features_read, salient_features
from pipeline.probes.importance import importance_shares


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=60),
    st.floats(0.01, 1),
)
def test_salient_set_is_the_smallest_that_reaches_the_share(
    values: list[float], eta: float
) -> None:
    importance = np.array(values)
    chosen = salient_features(importance, eta)
    assert len(chosen) >= 1
    assert (np.diff(chosen) > 0).all()
    total = np.square(importance).sum()
    if total == 0:
        return
    inside = np.square(importance[chosen]).sum()
    assert inside >= eta * total * (1 - 1e-9)
    if len(chosen) > 1:
        assert inside - np.square(importance[chosen]).min() < eta * total * (1 + 1e-9)
        rest = np.delete(importance, chosen)
        assert rest.max(initial=0) <= importance[chosen].min()


def test_salient_sets_nest() -> None:
    importance = np.random.default_rng(0).exponential(size=500)
    small, large = salient_features(importance, 0.2), salient_features(importance, 0.6)
    assert set(small) < set(large)


def layers(seed: int, *, num: int = 4, width: int = 30) -> list[NDArray[Any]]:
    draw = np.random.default_rng(seed)
    return [importance_shares(draw.exponential(size=width)) for _ in range(num)]


@given(st.integers(0, 1000), st.integers(1, 130))
def test_a_budget_takes_the_largest_shares_of_all_layers(seed: int, size: int) -> None:
    shares = layers(seed)
    chosen = RULES["budget"](shares, size)
    assert sum(map(len, chosen)) == min(size, 120)
    inside = np.concatenate([own[index] for own, index in zip(shares, chosen, strict=True)])
    outside = [np.delete(own, index) for own, index in zip(shares, chosen, strict=True)]
    assert np.concatenate(outside).max(initial=0) <= inside.min()
    assert all((np.diff(index) > 0).all() for index in chosen)


def test_top_k_takes_as_many_of_each_layer() -> None:
    for own, index in zip(layers(1), RULES["top_k"](layers(1), 7), strict=True):
        assert set(index) == set(np.argsort(-own)[:7])
    assert [len(index) for index in RULES["top_k"](layers(1), 99)] == [30] * 4


@pytest.mark.parametrize("select", RULES)
def test_what_is_read_is_what_the_candidates_need(select: Any) -> None:
    shares, folds = layers(2), [tuple(layers(seed)[i] for seed in (3, 4)) for i in range(4)]
    config = HeadConfig(select=select, eta=(0.2, 0.5), top_k=(3, 6), budget=(5, 40))
    needed: list[set[int]] = [set() for _ in shares]
    for source in (shares, [own[0] for own in folds], [own[1] for own in folds]):
        for size in config.sizes:
            for depth in range(4):
                found = RULES[select](source[: depth + 1], size)
                for own, index in zip(needed, found, strict=False):
                    own |= set(index.tolist())
    read = features_read(shares, folds, config)
    assert [index.tolist() for index in read] == [sorted(own) for own in needed]
