from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config import HeadConfig, ProbeConfig
from pipeline.consolidate import (
    Candidate,
    SalientLayer,
    TrainingData,
    best_of,
    choose_depth,
    layer_salient,
    sweep,
)
from pipeline.errors import HeadError
from pipeline.heads import Head, HeadCard
from pipeline.layerprobes import fit_probe
from pipeline.probe import Problem

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


def candidates(
    classes: int | None, training: str = "cross_fit"
) -> tuple[list[Candidate], list[Array], Array, Problem]:
    xs = layered(0)
    y = target(xs, classes)
    train, val = slice(0, 160), slice(160, 240)
    folds = np.arange(160) % 4
    problem = Problem(classes, "pearson" if classes is None else "accuracy")
    config = HeadConfig(eta=(0.3, 0.9), training=training, folds=4, hidden_width=6)
    layers = []
    for i, x in enumerate(xs):
        fit = fit_probe(
            x[train].copy(), y[train], x[val].copy(), y[val],
            problem=problem, config=PROBE, folds=folds,
        )  # fmt: skip
        features = layer_salient(fit.probe, 0.9)
        layers.append(
            SalientLayer(i, fit.probe, features, x[train][:, features], x[val][:, features])
        )
    data = TrainingData(y[train], y[val], folds)
    found = list(sweep(layers, data, problem=problem, probe_config=PROBE, config=config))
    return found, xs, y, problem


@pytest.mark.parametrize("classes", [2, 3, None])
@pytest.mark.parametrize("training", ["seen", "cross_fit"])
def test_heads_join_layers_and_reproduce_their_validation_score(
    classes: int | None, training: str, tmp_path: Path
) -> None:
    found, xs, y, problem = candidates(classes, training)
    assert {(c.kind, c.depth, c.eta) for c in found} == {
        (kind, depth, eta)
        for kind in ("frozen", "sparse")
        for depth in range(3)
        for eta in (0.3, 0.9)
    }
    for kind in ("frozen", "sparse"):
        shallow = best_of(found, metric=problem.metric, kind=kind, depth=0)
        joined = best_of(found, metric=problem.metric, kind=kind, depth=1)
        assert joined.val_score > shallow.val_score + 0.05
    for candidate in found:
        head = Head(card(candidate, problem), candidate.layers, candidate.dense)
        head.save(tmp_path / "head")
        again = Head.load(tmp_path / "head")
        outputs = again.outputs_full({i: x[160:] for i, x in enumerate(xs)})
        assert outputs.shape == (80, classes if classes and classes > 2 else 1)
        assert problem.score(y[160:], outputs) == pytest.approx(candidate.val_score, abs=0.026)
        np.testing.assert_allclose(
            outputs, head.outputs_full({i: x[160:] for i, x in enumerate(xs)})
        )
        assert again.card == head.card
        assert sum(len(e.features) for e in again.layers) == candidate.num_features
        assert [e.layer for e in again.layers] == list(range(candidate.depth + 1))


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
        eta=candidate.eta,
        val_score=candidate.val_score,
        poolings=("mean", "max"),
        stored_dtype="float16",
        extraction={"backbone": {}},
        extraction_fingerprint="f",
    )


def make(depth: int, val_score: float, *, kind: str = "sparse", size: int = 10) -> Candidate:
    return Candidate(kind, depth, 0.5, val_score, size, (), None)


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


def test_damaged_heads_are_refused(tmp_path: Path) -> None:
    found, _, _, problem = candidates(2)
    folder = tmp_path / "head"
    with pytest.raises(HeadError, match=r"no head\.json"):
        Head.load(folder)
    Head(card(found[-1], problem), found[-1].layers, found[-1].dense).save(folder)
    text = (folder / "head.json").read_text()
    (folder / "head.json").write_text(text.replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(HeadError, match="head format 9"):
        Head.load(folder)
    (folder / "head.json").write_text(text.replace('"depth": 2', '"depth": 1'))
    with pytest.raises(HeadError, match="do not belong together"):
        Head.load(folder)
    (folder / "head.json").write_text(text.replace('"eta"', '"etta"'))
    with pytest.raises(HeadError, match="not a head card"):
        Head.load(folder)
