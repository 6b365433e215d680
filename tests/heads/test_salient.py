from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import HeadConfig
from pipeline.heads.salient import RULES, joint_sets, salient_features
from pipeline.probes.importance import importance_shares
from store.layout import Source, ffn


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


SOURCES = (ffn(0), ffn(1), Source("hidden", 1))


def importance(seed: int) -> dict[Source, NDArray[Any]]:
    """The weights of the last source are ten times as large."""
    draw = np.random.default_rng(seed)
    scales = (1.0, 1.0, 10.0)
    return {s: c * draw.exponential(size=30) for s, c in zip(SOURCES, scales, strict=True)}


@given(st.integers(0, 1000), st.floats(0.01, 1))
def test_a_share_of_all_sources_together_is_the_smallest_that_holds_it(
    seed: int, size: float
) -> None:
    found = importance(seed)
    chosen = joint_sets(found, size, HeadConfig(select="share"))
    total = sum(np.square(own).sum() for own in found.values())
    inside = np.concatenate([found[s][index] for s, index in chosen.items()])
    assert np.square(inside).sum() >= size * total * (1 - 1e-9)
    assert np.square(inside).sum() - np.square(inside).min() < size * total * (1 + 1e-9)
    assert set(chosen) <= set(SOURCES) and all(len(index) for index in chosen.values())
    assert all((np.diff(index) > 0).all() for index in chosen.values())


def test_a_source_of_small_weights_has_few_salient_features_or_none() -> None:
    chosen = joint_sets(importance(0), 0.3, HeadConfig(select="share"))
    assert list(chosen) == [SOURCES[2]]
    assert list(joint_sets(importance(0), 5, HeadConfig(select="budget"))) == [SOURCES[2]]
    every = joint_sets(importance(0), 5, HeadConfig(select="top_k"))
    assert [len(index) for index in every.values()] == [5, 5, 5]


@pytest.mark.parametrize("select", RULES)
def test_weights_that_are_all_0_have_a_salient_set(select: Any) -> None:
    nothing = {source: np.zeros(4) for source in SOURCES}
    chosen = joint_sets(nothing, 1, HeadConfig(select=select))
    assert 1 <= sum(map(len, chosen.values())) <= 3
