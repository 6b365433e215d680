"""Which texts of a neuron are shown: at quantiles, of a split, with a label; and their CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.explorer.atlas import Atlas
from pipeline.explorer.choices import (
    QUANTILES,
    at_quantiles,
    label_groups,
    quantile_label,
    splits,
    subset,
)
from pipeline.explorer.exports import texts_csv
from pipeline.explorer.places import Neuron
from tests.builders.neurons import NASTY, write_store


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    path = tmp_path_factory.mktemp("choices") / "s"
    write_store(path)
    return Atlas.open(path)


def test_texts_are_those_nearest_to_the_quantiles() -> None:
    values = np.random.default_rng(0).permutation(1001).astype(np.float32)
    found = dict(at_quantiles(values, np.ones(1001, bool), [*QUANTILES], 3))
    shown = {name: values[at].tolist() for name, at in found.items()}
    assert shown == {
        "highest": [1000, 999, 998],
        "99": [991, 990, 989],
        "90": [901, 900, 899],
        "75": [751, 750, 749],
        "50": [501, 500, 499],
        "lowest": [0, 1, 2],
    }
    assert quantile_label("99") == "at 99 %" and quantile_label("lowest") == "lowest"


@given(
    st.lists(st.one_of(st.just(np.nan), st.floats(-10, 10, width=32)), max_size=40),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_no_text_is_shown_twice_and_none_that_does_not_count(
    numbers: list[float], count: int, draw: object
) -> None:
    values = np.array(numbers, np.float32)
    chosen = np.arange(len(values)) % 3 != 1
    found = [at for _, at in at_quantiles(values, chosen, [*QUANTILES], count)]
    shown = np.concatenate([np.zeros(0, np.int64), *found])
    alive = np.flatnonzero(chosen & np.isfinite(values))
    assert len(set(shown.tolist())) == len(shown) == min(len(alive), count * len(QUANTILES))
    assert set(shown.tolist()) <= set(alive.tolist())
    if len(alive):
        assert values[found[0][0]] == values[alive].max()


def test_splits_and_labels_choose_texts(atlas: Atlas) -> None:
    positions = np.arange(150)
    found = splits(atlas.texts, "mood")
    assert list(found) == ["train", "val", "test"] and splits(atlas.texts, "x") == {}
    np.testing.assert_array_equal(np.flatnonzero(found["val"]), positions[positions % 3 == 1])
    # A test text is found by its split, and never by its label.
    chosen = subset(atlas.texts, "mood", label="<i>a</i>")
    np.testing.assert_array_equal(chosen, (positions % 2 == 0) & (positions % 3 != 2))
    assert subset(atlas.texts, "mood", split="test").sum() == 50
    assert not subset(atlas.texts, "mood", split="test", label="<i>a</i>").any()
    assert subset(atlas.texts, None).all() and subset(atlas.texts, "mood").all()
    with pytest.raises(ConfigError, match=r"label=c: not of the task mood; there are: <i>a</i>"):
        subset(atlas.texts, "mood", label="c")


def test_values_are_chosen_by_thirds(atlas: Atlas) -> None:
    labels = atlas.texts.labels("level")
    assert labels is not None
    groups = dict(label_groups(atlas.texts, "level"))
    assert list(groups) == ["lower third", "middle third", "upper third"]
    assert sum(groups.values()).tolist() == labels.known.astype(int).tolist()
    assert labels.values[groups["lower third"]].max() < labels.values[groups["upper third"]].min()
    assert [int(mask.sum()) for mask in groups.values()] == pytest.approx([33, 33, 34], abs=1)


def test_the_csv_holds_what_is_shown(atlas: Atlas) -> None:
    neuron = Neuron(1, "max", 4)
    values = atlas.in_each_pooling(neuron)
    shown = {"highest": np.array([7, 8]), "50": np.array([9]), "lowest": np.zeros(0, np.int64)}
    rows = list(csv.DictReader(io.StringIO(texts_csv(atlas, "mood", neuron, shown, values))))
    assert [row["id"] for row in rows] == ["id7", "id8", "id9"]
    assert rows[0]["text"] == NASTY and rows[0]["label"] == "<i>b</i>" and rows[0]["split"] == "val"
    assert rows[1]["label"] == "" and rows[1]["split"] == "test"  # no label of a test text
    assert rows[2]["quantile"] == "50" and rows[2]["chosen_by"] == "max"
    assert float(rows[0]["mean"]) == pytest.approx(values["mean"][7], rel=1e-5)
    assert float(rows[0]["max"]) == pytest.approx(values["max"][7], rel=1e-5)


def test_no_texts_are_written_that_the_store_does_not_keep(tmp_path: Path) -> None:
    write_store(tmp_path / "s", store_text=False)
    atlas = Atlas.open(tmp_path / "s")
    neuron = Neuron(0, "mean", 0)
    values = atlas.in_each_pooling(neuron)
    written = texts_csv(atlas, None, neuron, {"highest": np.array([7])}, values)
    assert "text" not in written and "script" not in written and written.count("\n") == 2
