"""The arms of an ablation: salient neurons, random ones, and what stands in for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.backbone.loading import load_backbone
from pipeline.errors import ConfigError
from pipeline.extraction.storing import StoreOptions, extract_corpus
from pipeline.neurons.arms import random_neurons, salient_neurons, token_means
from pipeline.probes.importance import importance_table
from store import ActivationStore
from tests.builders.models import random_texts
from tests.builders.reference import Reference


@settings(max_examples=30)
@given(seed=st.integers(0, 999), top=st.integers(0, 7), share=st.floats(0.01, 1.0))
def test_salient_neurons_are_the_largest(seed: int, top: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    weights = {layer: rng.normal(size=(3, 14)).astype(np.float32) for layer in (0, 4)}
    table = pa.concat_tables(
        importance_table(w, layer=i, poolings=("mean", "max"), classes=("a", "b", "c"))
        for i, w in weights.items()
    )
    most = salient_neurons(table, [4, 0], top=top, share=None)
    enough = salient_neurons(table, [0, 4], top=None, share=share)
    for layer, w in weights.items():
        squared = np.square(w.astype(float)).reshape(3, 2, 7).sum((0, 1))
        order = np.argsort(-squared)
        assert set(most[layer]) == set(order[:top])
        size = len(enough[layer])
        assert set(enough[layer]) == set(order[:size])
        reached = np.cumsum(squared[order]) / squared.sum()
        assert reached[size - 1] >= share - 1e-5
        assert size == 1 or reached[size - 2] < share + 1e-5


def test_random_neurons_are_as_many_and_repeatable() -> None:
    like = {3: np.arange(5), 7: np.arange(40)}
    draws = [random_neurons(like, 40, seed=1, draw=draw) for draw in (0, 0, 1)]
    for layer, chosen in like.items():
        np.testing.assert_array_equal(draws[0][layer], draws[1][layer])
        assert len(np.unique(draws[0][layer])) == len(chosen)
    assert not np.array_equal(draws[0][3], draws[2][3])
    counts = np.zeros(40)
    for draw in range(2000):
        counts[random_neurons({0: np.arange(10)}, 40, seed=0, draw=draw)[0]] += 1
    # Binomial(2000, 1/4): five deviations.
    assert np.abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


@pytest.mark.parametrize("special_tokens", [True, False])
def test_token_means_are_those_over_all_tokens(
    tiny_bert: Path, tmp_path: Path, special_tokens: bool
) -> None:
    texts = [f"{text} {i}" for i, text in enumerate(random_texts(25, max_words=12))]
    table = pa.table({"id": [str(i) for i in range(25)], "text": texts})
    backbone, reference = load_backbone(tiny_bert), Reference(tiny_bert)
    options = StoreOptions(dtype="float32", special_tokens=special_tokens)
    extract_corpus(table, backbone, tmp_path / "s", options)
    store = ActivationStore.open(tmp_path / "s")
    chosen = np.array([3, 17, 4, 4, 9])
    stored = store.samples()["text"].to_pylist()
    edge = slice(None) if special_tokens else slice(1, -1)
    tokens = [reference.tokens(stored[i], max_length=99)[0][1][edge] for i in set(chosen)]
    found = token_means(store, 1, chosen, unpooled=0 if special_tokens else 2)
    np.testing.assert_allclose(found, np.concatenate(tokens).mean(0), rtol=1e-4, atol=1e-5)


def test_token_means_need_the_mean_pooling(tiny_bert: Path, tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b"], "text": ["one", "two"]})
    options = StoreOptions(poolings=("max",))
    extract_corpus(table, load_backbone(tiny_bert), tmp_path / "s", options)
    with pytest.raises(ConfigError, match="--with zero"):
        token_means(ActivationStore.open(tmp_path / "s"), 0, np.array([0]))
