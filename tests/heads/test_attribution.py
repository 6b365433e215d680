from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.heads.attribution import contributions
from pipeline.heads.model import Dense, Edges, Head, HeadCard, Part
from pipeline.linear.fitted import Standardiser
from store.layout import Source, ffn

FIRST = ffn(0)
SOURCES = (FIRST, ffn(2), Source("hidden", 1))


def random_head(seed: int, *, outputs: int, widths: tuple[int | None, ...]) -> Head:
    """A head of one part per width: None is linear, 0 a dense layer, else a hidden layer."""
    draw = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return draw.normal(size=shape).astype(np.float32)

    parts = []
    for width in widths:
        inner = outputs if width is None else 3
        layers = tuple(
            Edges(
                source,
                np.sort(draw.choice(20, 6, replace=False)),
                Standardiser(normal(6), np.abs(normal(6)) + 0.5, 5.0),
                normal(inner, 6),
                normal(inner),
            )
            for source in SOURCES
        )
        dense = None
        if width is not None:
            hidden = normal(width, 9) if width else np.zeros((0, 9), np.float32)
            dense = Dense(hidden, normal(width), normal(outputs, width or 9), normal(outputs))
        parts.append(Part(layers, dense))
    classes = ("a", "b", "c")[: max(outputs, 2)]
    card = HeadCard(
        task="made", type="classification", kind="sparse", classes=classes, metric="accuracy",
        positive=None, depth=2, num_layers=3, num_features=12, selection="", val_score=0.0,
        poolings=("mean", "max"), stored_dtype="float32", extraction={}, extraction_fingerprint="",
    )  # fmt: skip
    return Head(card, tuple(parts))


@settings(max_examples=40)
@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 3]),
    st.lists(st.sampled_from([None, 0, 5]), min_size=1, max_size=3),
)
def test_contributions_add_up_to_the_outputs(
    seed: int, outputs: int, widths: list[int | None]
) -> None:
    head = random_head(seed, outputs=outputs, widths=tuple(widths))
    draw = np.random.default_rng(seed + 1)
    x = {source: 3 * draw.normal(size=len(index)) for source, index in head.features.items()}
    x = {source: values.astype(np.float32) for source, values in x.items()}
    found = contributions(head, x)
    expected = head.outputs({source: values[None] for source, values in x.items()})[0]
    total = found.base + sum(part.sum(axis=0) for part in found.parts.values())
    np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-4)
    # The base does not depend on the text: it is the output of the average training text.
    if len(widths) == 1:
        for edges in head.parts[0].edges:
            x[edges.source] = edges.standardiser.mean
        average = head.outputs({source: values[None] for source, values in x.items()})[0]
        np.testing.assert_allclose(found.base, average, rtol=1e-3, atol=1e-3)


def test_linear_contribution_is_weight_times_standardised_activation() -> None:
    head = random_head(3, outputs=3, widths=(None,))
    edges = head.parts[0].edges[0]
    x = {source: np.ones(len(index), np.float32) for source, index in head.features.items()}
    found = contributions(head, x)
    scaled = edges.standardiser.apply(x[FIRST][None])[0]
    np.testing.assert_allclose(found.standardised[FIRST], scaled, rtol=1e-6)
    np.testing.assert_allclose(found.parts[FIRST], (edges.weights * scaled).T, rtol=1e-5)
    # Of several classes, what speaks for all alike speaks for none.
    for_class = [found.towards(i)[FIRST] for i in range(3)]
    np.testing.assert_allclose(sum(for_class), 0.0, atol=1e-5)


def test_of_two_classes_one_logit_speaks_for_the_second() -> None:
    head = random_head(4, outputs=1, widths=(None,))
    x = {source: np.ones(len(index), np.float32) for source, index in head.features.items()}
    found = contributions(head, x)
    np.testing.assert_array_equal(found.towards(0)[FIRST], -found.towards(1)[FIRST])
    np.testing.assert_array_equal(found.towards(None)[FIRST], found.parts[FIRST][:, 0])


def test_features_that_one_part_reads_count_for_that_part(tmp_path: Path) -> None:
    head = random_head(5, outputs=1, widths=(None, None))
    only = replace(head, parts=head.parts[:1])
    x = {source: np.ones(len(index), np.float32) for source, index in head.features.items()}
    both = contributions(head, x).parts[FIRST]
    at = np.searchsorted(head.features[FIRST], only.features[FIRST])
    alone = contributions(only, {i: np.ones(len(f), np.float32) for i, f in only.features.items()})
    unique = ~np.isin(only.features[FIRST], head.parts[1].edges[0].features)
    assert unique.any()
    np.testing.assert_allclose(both[at][unique], alone.parts[FIRST][unique] / 2, rtol=1e-5)
    with pytest.raises(KeyError):
        contributions(head, {FIRST: x[FIRST]})
