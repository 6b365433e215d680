from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backbone.loading import load_backbone
from pipeline.heads.drift import (
    MAX_FEATURES,
    SITE_NAMES,
    Drift,
    DriftCounts,
    Reference,
    important_features,
    psi,
)
from pipeline.heads.model import Head, Part
from pipeline.scoring.alerts import Watched, drift_report, write_drift
from store.layout import NGRAMS, Source, ffn
from store.tables import read_arrays, read_json, write_arrays
from tests.builders.heads import make_head, make_reference

FEATURES = {ffn(0): np.arange(40), ffn(2): np.arange(50, 90), Source("hidden", 2): np.arange(30)}
CLASSES = ("glad", "mad", "sad")
SIZES = {"ffn": 48, "hidden": 32}
SHARES = st.lists(st.floats(0.01, 1), min_size=2, max_size=8)


@pytest.fixture(scope="module")
def head(tiny_bert: Path) -> Head:
    backbone = load_backbone(tiny_bert)
    return make_head(backbone, FEATURES, classes=CLASSES)


def sample(head: Head, count: int, *, seed: int, shift: float = 0.0) -> dict[Source, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        source: (draw.normal(size=(count, len(index))) * 0.1 + shift).astype(np.float32)
        for source, index in head.features.items()
    }


@pytest.fixture(scope="module")
def reference(head: Head) -> Reference:
    x = sample(head, 400, seed=0)
    return make_reference(head, x, head.outputs(x))


def counts(head: Head, reference: Reference, count: int, **options) -> DriftCounts:
    x = sample(head, count, **options)
    return reference.count(head, x, head.outputs(x))


@given(SHARES, SHARES)
def test_psi_is_symmetric_zero_for_equal_shares_and_grows_with_the_distance(
    one: list[float], other: list[float]
) -> None:
    size = min(len(one), len(other))
    a, b = (np.array(s[:size]) / sum(s[:size]) for s in (one, other))
    assert psi(a, a) == 0
    assert psi(a, b) == pytest.approx(psi(b, a))
    way = [psi(a, a + step * (b - a)) for step in (0, 0.25, 0.5, 0.75, 1)]
    if np.abs(b - a).max() > 1e-6:
        assert (np.diff(way) > 0).all()


def test_the_same_texts_show_no_drift_and_a_larger_shift_more(
    head: Head, reference: Reference
) -> None:
    found = [
        reference.compare(counts(head, reference, 400, seed=0, shift=shift))
        for shift in (0.0, 0.05, 0.1, 0.2)
    ]
    same, *_ = found
    assert {one.psi for one in (*same.activations, *same.predictions, same.classes)} == {0}
    means = [np.mean([one.psi for one in each.activations]) for each in found]
    assert (np.diff(means) > 0.1).all()


def test_psi_by_hand() -> None:
    expected = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])
    found = psi(expected, np.array([[0.75, 0.25, 0.0], [0.5, 0.5, 0.0]]))
    assert found[0] == pytest.approx(0.25 * np.log(1.5) + 0.25 * np.log(2))
    assert found[1] == 0
    assert psi(np.array([0.5, 0.5]), np.array([1.0, 0.0])) == np.inf


def test_chance_is_what_rows_of_the_same_kind_show(head: Head, reference: Reference) -> None:
    """The expected index without drift is (bins - 1) (1 / n + 1 / m), within a quarter."""
    for size in (60, 500):
        found = [
            reference.compare(counts(head, reference, size, seed=seed)).activations
            for seed in range(1, 31)
        ]
        mean = np.mean([one.psi for per_run in found for one in per_run])
        assert found[0][0].by_chance == pytest.approx(9 * (1 / size + 1 / 400))
        assert mean == pytest.approx(found[0][0].by_chance, rel=0.25)
        assert not any(one.drifts(0.2) for per_run in found for one in per_run)


def test_a_shift_is_seen_where_there_are_rows_enough(head: Head, reference: Reference) -> None:
    seen = reference.compare(counts(head, reference, 500, seed=5, shift=0.1))
    assert all(one.drifts(0.2) and one.can_tell(0.2) for one in seen.activations)
    few = reference.compare(counts(head, reference, 8, seed=5, shift=0.0))
    assert not any(one.can_tell(0.2) for one in few.activations)
    assert not any(one.drifts(0.2) for one in few.activations)


def test_counts_add_up_and_travel_as_json(head: Head, reference: Reference) -> None:
    x = sample(head, 90, seed=3)
    outputs = head.outputs(x)
    all_at_once = reference.count(head, x, outputs)
    parts = [
        reference.count(head, {i: v[a:b] for i, v in x.items()}, outputs[a:b])
        for a, b in ((0, 20), (20, 20), (20, 90))
    ]
    drift = Drift()
    for date, part in zip(("d1", "d2", "d1"), parts, strict=True):
        drift += Drift({date: {"made": part}})
    again = Drift.from_dict(json.loads(json.dumps(drift.to_dict())))
    total = again.total("made")
    assert total is not None
    assert total.num_texts == 90
    np.testing.assert_array_equal(total.bins, all_at_once.bins)
    np.testing.assert_array_equal(total.classes, all_at_once.classes)
    assert (total.bins.sum(1) == 90).all()
    assert again.total("other") is None


def test_a_reference_is_stored(head: Head, reference: Reference, tmp_path: Path) -> None:
    write_arrays(tmp_path / "reference.safetensors", reference.arrays())
    again = Reference.from_arrays(read_arrays(tmp_path / "reference.safetensors"))
    assert again.num_rows == reference.num_rows == 400
    for name, array in reference.arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[name])
    # Earlier ones knew FFN layers only.
    neurons = reference.features[reference.features[:, 0] == 0]
    old = Reference.from_arrays(reference.arrays() | {"features": neurons[:, 1:]})
    np.testing.assert_array_equal(old.features, neurons)
    assert {source.site for source, _ in old.places()} == {"ffn"}


def test_constant_and_binary_activations_have_bins(head: Head) -> None:
    x = sample(head, 300, seed=0)
    watched = important_features(head, MAX_FEATURES).tolist()
    at, other = [i for i, (site, layer, _) in enumerate(watched) if (site, layer) == (0, 0)][:2]
    first, second = (np.searchsorted(head.features[ffn(0)], watched[i][2]) for i in (at, other))
    x[ffn(0)][:, first] = 0.0
    x[ffn(0)][:, second] = (np.arange(300) % 3 == 0) * 1.0
    reference = make_reference(head, x, head.outputs(x))
    same = reference.compare(reference.count(head, x, head.outputs(x)))
    assert max(one.psi for one in same.activations) == 0
    assert all(np.isfinite(one.chance_limit) for one in same.activations)
    x[ffn(0)][:, first] = 5.0
    woken = reference.compare(reference.count(head, x, head.outputs(x)))
    assert woken.activations[at].drifts(0.2)


def test_the_most_important_features_are_watched(head: Head) -> None:
    found = important_features(head, MAX_FEATURES)
    assert len(found) == MAX_FEATURES == len(np.unique(found, axis=0))
    norms = {
        (("ffn", "hidden").index(edges.source.site), edges.source.layer, feature): norm
        for edges in head.parts[0].edges
        for feature, norm in zip(
            edges.features.tolist(), np.linalg.norm(edges.weights, axis=0), strict=True
        )
    }
    ranked = sorted(norms, key=lambda key: -norms[key])
    assert [tuple(pair) for pair in found.tolist()] == ranked[:MAX_FEATURES]


@pytest.mark.parametrize("count", [1, 10, 64, 500])
def test_importance_is_the_largest_of_the_parts_and_ties_go_in_order(
    head: Head, count: int
) -> None:
    (part,) = head.parts
    few = [
        replace(
            edges,
            features=edges.features[::2],
            standardiser=edges.standardiser.take(np.arange(0, len(edges.features), 2)),
            weights=10 * np.roll(edges.weights[:, ::2], 3, axis=1),
        )
        for edges in part.edges
    ]
    rounded = [
        replace(edges, weights=np.round(3 * edges.weights / edges.weights.max()))
        for edges in part.edges
    ]
    both = replace(head, parts=(Part(tuple(rounded)), Part(tuple(few))))
    expected: dict[tuple[int, int, int], float] = {}
    for own in both.parts:
        norms = [np.linalg.norm(edges.weights, axis=0) for edges in own.edges]
        largest = max(float(norm.max()) for norm in norms)
        for edges, norm in zip(own.edges, norms, strict=True):
            for feature, value in zip(edges.features.tolist(), norm / largest, strict=True):
                key = (SITE_NAMES.index(edges.source.site), edges.source.layer, feature)
                expected[key] = max(expected.get(key, 0.0), float(value))
    ranked = sorted(expected, key=lambda key: (-expected[key], key))[:count]
    found = important_features(both, count)
    assert found.dtype == np.int64 and [tuple(row) for row in found.tolist()] == ranked


def test_of_n_grams_alone_nothing_is_watched(head: Head) -> None:
    (part,) = head.parts
    edges = replace(part.edges[0], source=NGRAMS)
    found = important_features(replace(head, parts=(Part((edges,)),)), MAX_FEATURES)
    assert found.shape == (0, 3) and found.dtype == np.int64


def test_what_tells_the_folds_models_apart_is_no_sign_of_drift(tiny_bert: Path) -> None:
    """Held-out outputs come from a model for each fold; where it says the same of all texts, as of
    a label that none has, the whole model says something else of them all."""
    head = make_head(load_backbone(tiny_bert), {ffn(1): np.arange(4)}, classes=CLASSES)
    head = replace(head, card=replace(head.card, type="multilabel"))
    folds = np.arange(200) % 5
    x, fresh = sample(head, 200, seed=0), sample(head, 500, seed=1)
    held_out, outputs = (head.outputs(one).astype(np.float32) for one in (x, fresh))
    held_out[:, 1], outputs[:, 1] = -6 + 0.1 * folds, -5.85
    shifted = outputs + np.array([1.5, 0, 0], np.float32)
    blind = make_reference(head, x, held_out)
    assert blind.compare(blind.count(head, fresh, outputs)).predictions[1].drifts(0.2)
    reference = make_reference(head, x, held_out, folds)
    found = reference.compare(reference.count(head, fresh, outputs)).predictions
    assert not any(one.drifts(0.2) for one in found) and found[1].psi == 0
    moved = reference.compare(reference.count(head, fresh, shifted)).predictions
    assert [one.drifts(0.2) for one in moved] == [True, False, False]
    np.testing.assert_array_equal(reference.edges[0], blind.edges[0])
    # All texts are suddenly said to have the label: the decided ones show it.
    outputs[:, 1] = 6
    classes = reference.compare(reference.count(head, fresh, outputs)).classes
    assert classes is not None and classes.drifts(0.2)


def test_the_report_names_what_drifted(head: Head, reference: Reference, tmp_path: Path) -> None:
    watched = {"made": Watched(head, reference, SIZES)}
    drift = Drift(
        {
            "2024-01-01": {"made": counts(head, reference, 500, seed=1)},
            "2024-01-02": {"made": counts(head, reference, 500, seed=2, shift=0.1)},
            "2024-01-03": {"made": counts(head, reference, 5, seed=3)},
        }
    )
    report = write_drift(tmp_path / "_drift", "run1", watched, drift)
    assert read_json(tmp_path / "_drift/run1.json") == report
    dates = report["tasks"]["made"]["dates"]
    assert [dates[date]["status"] for date in sorted(dates)] == [
        "stable",
        "drifted",
        "too few texts",
    ]
    assert "the activations" in dates["2024-01-02"]["drifted"]
    (warning,) = report["warnings"]
    assert warning.startswith("made, 2024-01-02: ") and "(500 texts)" in warning
    assert report["tasks"]["made"]["all"]["num_texts"] == 1005
    worst = dates["2024-01-02"]["activations"]["worst"][0]
    assert worst["pooling"] in ("mean", "max")
    assert 0 <= worst["neuron"] < SIZES[worst["site"]]
    shares = dates["2024-01-01"]["classes"]["shares"]
    assert sum(share["found"] for share in shares.values()) == pytest.approx(1)
    assert drift_report(watched, drift, threshold=50.0)["warnings"] == []
    pytest.importorskip("matplotlib")
    assert (tmp_path / "_drift/run1.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_new_texts_has_an_empty_report(
    head: Head, reference: Reference, tmp_path: Path
) -> None:
    report = write_drift(tmp_path, "none", {"made": Watched(head, reference, SIZES)}, Drift())
    assert report["warnings"] == []
    assert report["tasks"]["made"]["all"] is None
    assert not (tmp_path / "none.png").exists()


def test_regression_watches_its_value(tiny_bert: Path) -> None:
    head = make_head(load_backbone(tiny_bert), {ffn(1): np.arange(4)}, classes=())
    x = sample(head, 200, seed=0)
    reference = make_reference(head, x, head.outputs(x))
    found = drift_report(
        {"made": Watched(head, reference, SIZES)},
        Drift({"d": {"made": counts(head, reference, 300, seed=1, shift=1.0)}}),
    )["tasks"]["made"]["dates"]["d"]
    assert "the value" in found["drifted"]
    assert "classes" not in found
