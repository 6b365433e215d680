from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config import HeadConfig, ProbeConfig
from pipeline.errors import HeadError
from pipeline.heads.choice import Candidate, best_of, choose_depth
from pipeline.heads.model import Head, HeadCard
from pipeline.heads.modes import MODES, Mode
from pipeline.heads.salient import SalientLayer, features_read
from pipeline.heads.sweep import Sweep, TrainingData
from pipeline.probes.importance import feature_importance, importance_shares
from pipeline.probes.model import Problem
from tests.builders.probes import fit_probe

Array = NDArray[Any]
PROBE = ProbeConfig(C=(1e-2, 1e-1, 1.0), alpha=(1.0, 10.0))


def layered(seed: int, *, layers: int = 3, n: int = 240, width: int = 40) -> list[Array]:
    draw = np.random.default_rng(seed)
    return [draw.normal(size=(n, width)).astype(np.float32) for _ in range(layers)]


def target(xs: list[Array], classes: int | None) -> Array:
    """Half of the signal in layer 0, half in layer 1, none above."""
    signal = xs[0][:, 0] + xs[0][:, 1] + xs[1][:, 0] + xs[1][:, 1]
    if classes is None:
        return signal
    edges = np.quantile(signal, np.linspace(0, 1, classes + 1)[1:-1])
    return np.searchsorted(edges, signal)


SPLIT = 160


def swept(classes: int | None, **options: Any) -> tuple[Sweep, list[Candidate], list[Array]]:
    """A sweep over three layers, its candidates, and the layers' activations."""
    xs = layered(0)
    y = target(xs, classes)
    train, val = slice(0, SPLIT), slice(SPLIT, 240)
    problem = Problem(classes, "pearson" if classes is None else "accuracy")
    options = {"eta": (0.3, 0.9), "folds": 4, "hidden_width": 6} | options
    config = HeadConfig(**options)
    data = TrainingData(y[train], y[val], np.arange(SPLIT) % 4)
    fits = [
        fit_probe(
            x[train].copy(), y[train], x[val].copy(), y[val],
            problem=problem, config=PROBE, folds=data.folds,
        )
        for x in xs
    ]  # fmt: skip
    mode = Mode.of(config)
    probes = [mode.probe(fit.probe) for fit in fits]
    shares = [importance_shares(feature_importance(probe.weights)) for probe in probes]
    fold_shares = [
        tuple(
            importance_shares(feature_importance(w))
            for w in probe.fold_weights[: mode.num_judge_folds]
        )
        for probe in probes
    ]
    layers = [
        SalientLayer(
            i,
            probe,
            features,
            probe.standardiser.take(features).apply(x[train][:, features]),
            x[val][:, features],
            shares[i],
            fold_shares[i],
        )
        for i, (x, probe, features) in enumerate(
            zip(xs, probes, features_read(shares, fold_shares, config), strict=True)
        )
    ]
    sweep = Sweep(layers, data, problem, PROBE, config)
    return sweep, list(sweep.candidates()), xs


@pytest.mark.parametrize("training", MODES)
def test_a_network_is_trained_on_outputs_as_the_mode_says(training: Any) -> None:
    folds = np.arange(12) % 4
    mode = Mode.of(HeadConfig(training=training, folds=4))
    assert mode.fits == (None,)
    np.testing.assert_array_equal(folds[mode.train_rows(folds)], folds)
    trained_on = set(folds[mode.network_rows(folds)].tolist())
    assert trained_on == ({0} if training == "unseen" else {0, 1, 2, 3})
    # Seen outputs are those of a probe that knew the row.
    known = {0, 1, 2, 3} - {mode.probes_without}
    unseen = mode.out_of_fold or not trained_on & known
    assert unseen == (training in ("unseen", "cross_fit"))


def test_by_cross_validation_every_row_is_judged_once_by_a_head_that_has_not_seen_it() -> None:
    folds = np.arange(12) % 4
    mode = Mode.of(HeadConfig(judge="cross_validation", folds=4))
    none, *without = mode.fits
    assert none is None
    judged = np.stack([mode.judge_rows(folds, k) for k in without])
    np.testing.assert_array_equal(judged.sum(axis=0), 1)
    for k, own in zip(without, judged, strict=True):
        np.testing.assert_array_equal(mode.train_rows(folds, k), ~own)
        np.testing.assert_array_equal(mode.network_rows(folds, k), ~own)


def head_of(candidate: Candidate, problem: Problem) -> Head:
    return Head(card(candidate, problem), candidate.parts)


@pytest.mark.parametrize("classes", [2, 3, None])
@pytest.mark.parametrize("training", ["seen", "unseen", "both", "cross_fit"])
def test_heads_join_layers_and_reproduce_their_validation_score(
    classes: int | None, training: str, tmp_path: Path
) -> None:
    sweep, found, xs = swept(classes, training=training)
    problem, y_val = sweep.problem, sweep.data.y_val
    assert {(c.kind, c.depth, c.size) for c in found if c.kind != "ensemble"} == {
        (kind, depth, eta)
        for kind in ("frozen", "sparse")
        for depth in range(3)
        for eta in (0.3, 0.9)
    }
    assert [c.depth for c in found if c.kind == "ensemble"] == [0, 1, 2]
    for kind in ("frozen", "sparse"):
        shallow = best_of(found, metric=problem.metric, kind=kind, depth=0)
        joined = best_of(found, metric=problem.metric, kind=kind, depth=1)
        assert joined.val_score > shallow.val_score + 0.05
    val = {i: x[SPLIT:] for i, x in enumerate(xs)}
    for candidate in found:
        head = head_of(candidate, problem)
        head.save(tmp_path / "head")
        again = Head.load(tmp_path / "head")
        outputs = again.outputs_full(val)
        assert outputs.shape == (80, classes if classes and classes > 2 else 1)
        np.testing.assert_allclose(outputs, candidate.outputs, atol=1e-4)
        assert problem.score(y_val, outputs) == pytest.approx(candidate.val_score, abs=0.026)
        assert candidate.val_score == candidate.score
        np.testing.assert_allclose(outputs, head.outputs_full(val))
        assert again.card == head.card
        assert sum(map(len, again.features.values())) == candidate.num_features
        assert list(again.features) == list(range(candidate.depth + 1))


@pytest.mark.parametrize("classes", [3, None])
def test_cross_validation_judges_each_row_by_a_head_without_its_fold(classes: int | None) -> None:
    plain, by_val, _ = swept(classes)
    sweep, found, _ = swept(classes, judge="cross_validation")
    assert len(sweep.judged) == 240
    np.testing.assert_array_equal(sweep.judged[:80], plain.data.y_val)
    for candidate in found:
        assert len(candidate.outputs) == 240
        assert candidate.score == sweep.problem.score(sweep.judged, candidate.outputs)
        seen = np.concatenate([plain.data.y_val, plain.data.y_train])
        assert candidate.val_score == plain.problem.score(seen[:80], candidate.outputs[:80])
    # Of one penalty, the model of all training rows is the same whatever judges it.
    same = [
        np.allclose(a.outputs, b.outputs[:80], atol=1e-4)
        for a, b in zip(by_val, found, strict=True)
        if a.kind == "sparse"
    ]
    assert any(same)


def test_shuffled_labels_score_nothing_by_cross_validation() -> None:
    """Salient features chosen with the judged rows' labels would score far above chance."""
    draw = np.random.default_rng(5)
    x = draw.normal(size=(SPLIT + 80, 400)).astype(np.float32)
    y = draw.integers(2, size=SPLIT + 80)
    folds = np.arange(SPLIT) % 4
    problem = Problem(2, "accuracy")
    probe = fit_probe(
        x[:SPLIT].copy(), y[:SPLIT], x[SPLIT:].copy(), y[SPLIT:],
        problem=problem, config=PROBE, folds=folds,
    ).probe  # fmt: skip
    config = HeadConfig(eta=(0.2,), folds=4, judge="cross_validation")
    shares = importance_shares(feature_importance(probe.weights))
    fold_shares = tuple(importance_shares(feature_importance(w)) for w in probe.fold_weights)
    (features,) = features_read([shares], [fold_shares], config)
    train = probe.standardiser.take(features).apply(x[:SPLIT][:, features])
    layer = SalientLayer(0, probe, features, train, x[SPLIT:][:, features], shares, fold_shares)
    data = TrainingData(y[:SPLIT], y[SPLIT:], folds)
    scores = [one.score for one in Sweep([layer], data, problem, PROBE, config).candidates()]
    assert scores and max(abs(score - 0.5) for score in scores) < 0.12


def test_a_budget_skips_layers_that_have_nothing_to_say() -> None:
    sweep, found, _ = swept(2, select="budget", budget=(4,), kinds=("sparse",))
    deepest = found[-1]
    assert deepest.num_features == 4
    assert [edges.layer for edges in deepest.parts[0].layers] == sorted(
        {edges.layer for edges in deepest.parts[0].layers}
    )
    assert deepest.depth == max(edges.layer for edges in deepest.parts[0].layers)
    assert {len(edges.features) > 0 for c in found for edges in c.parts[0].layers} == {True}
    assert sum(len(layer.features) for layer in sweep.layers) <= 12


@pytest.mark.parametrize("classes", [2, 3])
def test_an_ensemble_is_the_mean_of_calibrated_parts(classes: int) -> None:
    sweep, found, xs = swept(classes)
    ensemble = best_of(found, metric="accuracy", kind="ensemble")
    assert {part.dense is None for part in ensemble.parts} == {True, False}
    head = head_of(ensemble, sweep.problem)
    val = {i: x[SPLIT:] for i, x in enumerate(xs)}
    alone = [replace(head, parts=(part,)).outputs_full(val) for part in head.parts]
    np.testing.assert_allclose(head.outputs_full(val), (alone[0] + alone[1]) / 2, rtol=1e-5)
    own = {i: val[i][:, features] for i, features in head.features.items()}
    np.testing.assert_allclose(head.outputs(own), head.outputs_full(val))


def test_rescaled_parts_rescale_their_outputs() -> None:
    sweep, found, xs = swept(3)
    val = {i: x[SPLIT:] for i, x in enumerate(xs)}
    scale, shift = np.array([2.0, 0.5, 1.0]), np.array([1.0, -1.0, 0.0])
    for candidate in found[:2]:
        head = head_of(candidate, sweep.problem)
        changed = replace(head, parts=(head.parts[0].rescaled(scale, shift),))
        expected = head.outputs_full(val) * scale + shift
        np.testing.assert_allclose(changed.outputs_full(val), expected, rtol=1e-4, atol=1e-4)
        assert changed.fingerprint != head.fingerprint


def card(candidate: Candidate, problem: Problem) -> HeadCard:
    return HeadCard(
        task="t",
        type="regression" if problem.num_classes is None else "classification",
        kind=candidate.kind,
        classes=tuple("abc"[: problem.num_classes or 0]),
        metric=problem.metric,
        positive=None,
        depth=candidate.depth,
        num_layers=3,
        num_features=candidate.num_features,
        selection="share 0.3 by weight",
        val_score=candidate.val_score,
        poolings=("mean", "max"),
        stored_dtype="float16",
        extraction={"backbone": {}},
        extraction_fingerprint="f",
    )


def make(depth: int, val_score: float, *, kind: str = "sparse", size: int = 10) -> Candidate:
    none = np.zeros((0, 1))
    return Candidate(kind, depth, 0.5, val_score, val_score, size, (), none)


def test_choose_depth_takes_the_shallowest_within_tolerance() -> None:
    heads = [make(0, 0.5), make(1, 0.695), make(2, 0.70), make(2, 0.698, size=5), make(3, 0.71)]
    options = {"metric": "macro_f1", "max_layer": 3}
    assert choose_depth(heads, tolerance=0, **options).depth == 3
    assert choose_depth(heads, tolerance=0.01, **options) is heads[2]
    assert choose_depth(heads, tolerance=0.02, **options).depth == 1
    assert choose_depth(heads, metric="macro_f1", tolerance=0, max_layer=2) is heads[2]
    assert choose_depth(heads, metric="mae", tolerance=0, max_layer=3).depth == 0


def test_of_equal_heads_the_smaller_wins() -> None:
    heads = [make(1, 0.7, size=10), make(1, 0.7, size=4)]
    assert choose_depth(heads, metric="accuracy", tolerance=0, max_layer=5) is heads[1]


def test_thresholds_belong_to_the_fingerprint(tmp_path: Path) -> None:
    sweep, found, _ = swept(3)
    head = head_of(found[0], sweep.problem)
    other = replace(head, thresholds=np.array([0.2, 0.3, 0.5]))
    assert other.fingerprint != head.fingerprint
    other.save(tmp_path / "head")
    np.testing.assert_array_equal(Head.load(tmp_path / "head").thresholds, other.thresholds)
    probability = np.array([[0.3, 0.3, 0.4], [0.1, 0.3, 0.6]])
    assert head.decide(probability).tolist() == [2, 2]
    assert other.decide(probability).tolist() == [0, 2]


def test_damaged_heads_are_refused(tmp_path: Path) -> None:
    sweep, found, _ = swept(2)
    folder = tmp_path / "head"
    with pytest.raises(HeadError, match=r"no head\.json"):
        Head.load(folder)
    deepest = [c for c in found if c.depth == 2][-1]
    head_of(deepest, sweep.problem).save(folder)
    text = (folder / "head.json").read_text()
    (folder / "head.json").write_text(text.replace('"format_version": 2', '"format_version": 9'))
    with pytest.raises(HeadError, match="head format 9"):
        Head.load(folder)
    (folder / "head.json").write_text(text.replace('"depth": 2', '"depth": 1'))
    with pytest.raises(HeadError, match="do not belong together"):
        Head.load(folder)
    (folder / "head.json").write_text(text.replace('"selection"', '"selektion"'))
    with pytest.raises(HeadError, match="not a head card"):
        Head.load(folder)
