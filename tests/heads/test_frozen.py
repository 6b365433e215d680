"""The paper's heads over a store, in each way to train and to judge them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config import HeadConfig, ProbeConfig, RunConfig
from pipeline.heads.choice import Judge
from pipeline.heads.frozen import FrozenHeads
from pipeline.heads.modes import MODES, Mode
from pipeline.heads.salient import RULES
from pipeline.probes.importance import feature_importance, importance_shares
from pipeline.probes.model import Probe, Problem, load_probe
from pipeline.probes.rows import TaskRows, task_rows
from pipeline.runfolder import RunFolder
from pipeline.texts.targets import load_target
from store import ActivationStore
from store.layout import ffn
from tests.builders.probes import fit_probe

Array = NDArray[Any]


@pytest.mark.parametrize("training", MODES)
def test_a_network_is_trained_on_outputs_as_the_mode_says(training: Any) -> None:
    folds = np.arange(16) % 4
    config = HeadConfig(training=training, judge="validation", folds=4)
    mode = Mode.of(config)
    assert mode.fits == (None,)
    rows = mode.network_rows(folds, 12)
    assert rows.max() < 12
    assert mode.judged_rows(folds, 12).tolist() == [12, 13, 14, 15]
    trained_on = set(folds[rows].tolist())
    assert trained_on == ({0} if training == "unseen" else {0, 1, 2, 3})
    # Seen outputs are those of a probe that knew the row.
    known = {0, 1, 2, 3} - {mode.probes_without}
    unseen = mode.out_of_fold or not trained_on & known
    assert unseen == (training in ("unseen", "cross_fit"))


def test_by_cross_validation_every_row_is_judged_once_by_a_head_that_has_not_seen_it() -> None:
    folds = np.arange(16) % 4
    mode = Mode.of(HeadConfig(folds=4))
    none, *without = mode.fits
    assert none is None
    assert mode.network_rows(folds, 12, none).tolist() == list(range(16))
    assert len(mode.judged_rows(folds, 12, none)) == 0
    judged = np.concatenate([mode.judged_rows(folds, 12, k) for k in without])
    assert sorted(judged.tolist()) == list(range(16))
    for k in without:
        both = mode.judged_rows(folds, 12, k), mode.network_rows(folds, 12, k)
        assert sorted(np.concatenate(both).tolist()) == list(range(16))


@pytest.fixture(scope="module")
def store(finished_run: Path) -> ActivationStore:
    return ActivationStore.open(RunConfig.load(finished_run).store.path)


def frozen_heads(
    store: ActivationStore, rows: TaskRows, probes: list[Probe], problem: Problem, **options: Any
) -> FrozenHeads:
    settings: dict[str, Any] = {"folds": 3, "hidden_width": 4, "eta": (0.4,)} | options
    config = HeadConfig(**settings)
    first = 0 if config.by_folds else rows.num_train
    judge = Judge(
        problem, rows.targets[first:], rows.groups[first:],
        np.arange(first, len(rows)) >= rows.num_train,
    )  # fmt: skip
    mode = Mode.of(config)
    own = [mode.probe(probe) for probe in probes]
    return FrozenHeads(store, rows, dict(enumerate(own)), None, judge, None, config, 0)


def of_run(finished_run: Path, store: ActivationStore, task: str, **options: Any) -> FrozenHeads:
    config = RunConfig.load(finished_run)
    target = load_target(store, config.task(task))
    folder = RunFolder(Path(config.run_dir))
    probes = [load_probe(folder, task, ffn(layer)) for layer in range(3)]
    problem = Problem(target.num_classes, "pearson" if task == "level" else "accuracy")
    return frozen_heads(store, task_rows(config, store, target), probes, problem, **options)


@pytest.mark.parametrize("task", ["mood", "level"])
@pytest.mark.parametrize("training", MODES)
def test_heads_reproduce_their_outputs_on_the_validation_rows(
    finished_run: Path, store: ActivationStore, task: str, training: Any
) -> None:
    heads = of_run(finished_run, store, task, training=training, judge="validation")
    found = heads.candidate(1, 0.4)
    assert (found.kind, found.depth, found.size) == ("frozen", 1, 0.4)
    assert found.selection == "share 0.4 by weight"
    assert found.outputs.shape == (len(heads.judge.targets), 1)
    positions = heads.rows.positions[heads.rows.num_train :]
    (part,) = found.parts
    raw = {
        e.source: store.read_features(
            "ffn", layer=e.source.layer, features=e.features, samples=positions
        )
        for e in part.edges
    }
    np.testing.assert_allclose(part.outputs(raw), found.outputs, atol=2e-3, rtol=1e-3)
    assert found.num_features == sum(len(e.features) for e in part.edges)
    assert found.score == pytest.approx(
        heads.judge.problem.score(heads.judge.targets, found.outputs)
    )
    # Half of the probes' own importance is in the edges, weighed as they weigh it.
    for probe, edges in zip(heads.probes.values(), part.edges, strict=False):
        share = importance_shares(feature_importance(probe.weights))
        assert share[edges.features].sum() >= 0.4
        ratio = edges.weights / probe.weights[:, edges.features]
        np.testing.assert_allclose(ratio, ratio[:, :1].repeat(ratio.shape[1], 1), rtol=1e-4)


@pytest.mark.parametrize("task", ["mood", "level"])
def test_cross_validation_judges_all_rows(
    finished_run: Path, store: ActivationStore, task: str
) -> None:
    heads = of_run(finished_run, store, task)
    found = heads.candidate(2, 0.4)
    assert len(found.outputs) == len(heads.rows) > heads.rows.num_train
    assert np.isfinite(found.losses).all()
    assert found.outputs.any(axis=1).all()


def test_a_row_is_seen_through_the_probe_without_its_fold(
    finished_run: Path, store: ActivationStore
) -> None:
    heads = of_run(finished_run, store, "mood")
    mode, rows = Mode.of(heads.config), heads.rows
    whole, without = heads._sets([0, 1, 2], 0.4, mode)
    assert len(without) == 3
    for k, sets in enumerate(without):
        shares = [
            importance_shares(feature_importance(p.fold_weights[k])) for p in heads.probes.values()
        ]
        expected = RULES["share"](shares, 0.4)
        for own, one in zip(sets, expected, strict=True):
            np.testing.assert_array_equal(own, one)
    assert any(len(own) != len(other) or (own != other).any()
               for own, other in zip(whole, without[0], strict=True))  # fmt: skip
    for layer, probe in heads.probes.items():
        z, edges = heads._project(layer, whole[layer], [sets[layer] for sets in without], mode)
        raw = np.asarray(store.read_matrix("ffn", layer=layer, samples=rows.positions), np.float32)
        x = probe.standardiser.apply(raw)
        own = whole[layer]
        inside = (x[:, own] @ probe.weights[:, own].T + probe.bias)[: rows.num_train]
        for k, sets in enumerate(without):
            held = np.flatnonzero(rows.folds[0] == k)  # validation rows as well
            few = sets[layer]
            plain = x[held][:, few] @ probe.fold_weights[k][:, few].T + probe.fold_bias[k]
            expected = (plain - inside.mean(axis=0)) / inside.std(axis=0)
            np.testing.assert_allclose(z[held], expected, atol=1e-3)
        # Where validation rows judge, they are as the head sees them.
        by_val = Mode.of(HeadConfig(folds=3, judge="validation"))
        z, edges = heads._project(layer, whole[layer], [whole[layer]] * 3, by_val)
        seen = edges.project(raw[:, edges.features])
        np.testing.assert_allclose(z[rows.num_train :], seen[rows.num_train :], atol=1e-3)


def test_of_another_ranking_the_sets_are_the_same_for_all_folds(
    finished_run: Path, store: ActivationStore
) -> None:
    heads = of_run(finished_run, store, "mood")
    shares = [np.linspace(0, 1, probe.weights.shape[1]) for probe in heads.probes.values()]
    shares = [share / share.sum() for share in shares]
    other = replace(heads, shares=shares, config=HeadConfig(folds=3, ranking="probeless"))
    whole, without = other._sets([0, 1], 0.1, Mode.of(other.config))
    assert all(sets is whole for sets in without) and len(without) == 3
    for own, expected in zip(whole, RULES["share"](shares[:2], 0.1), strict=True):
        np.testing.assert_array_equal(own, expected)


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_labels_score_nothing_by_cross_validation(
    store: ActivationStore, seed: int
) -> None:
    """Salient features chosen with the judged rows' labels would score far above chance."""
    draw = np.random.default_rng(seed)
    n, num_train = store.num_samples, store.num_samples * 3 // 4
    targets, folds = draw.integers(2, size=n), draw.integers(3, size=n)
    problem = Problem(2, "accuracy")
    probes = []
    for layer in range(3):
        x = np.array(store.read_matrix("ffn", layer=layer, samples=np.arange(n)), np.float32)
        fit = fit_probe(
            x[:num_train], targets[:num_train], x[num_train:], targets[num_train:],
            problem=problem, config=ProbeConfig(C=(1e-1, 1.0)), folds=folds[:num_train],
        )  # fmt: skip
        probes.append(fit.probe)
    rows = TaskRows(np.arange(n), targets, num_train, np.arange(n), (folds,))
    found = frozen_heads(store, rows, probes, problem).candidate(2, 0.4)
    assert abs(found.score - 0.5) < 0.13
