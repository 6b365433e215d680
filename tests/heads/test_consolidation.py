from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import stages
from pipeline.config import RunConfig
from pipeline.errors import ConfigError, HeadError
from pipeline.extraction.golden import read_golden, read_outputs
from pipeline.heads.drift import Reference
from pipeline.heads.model import Head
from pipeline.heads.slices import ranked_shares, read_slices
from pipeline.neurons import comparison
from pipeline.probes.importance import feature_importance
from pipeline.probes.model import load_probe
from pipeline.runfolder import RunFolder, read_metrics
from pipeline.texts.targets import load_target
from store import ActivationStore
from store.tables import read_arrays, read_table


def changed(finished_run: Path, folder: Path, **head: Any) -> RunConfig:
    """The finished run with other heads and a run folder of its own."""
    data = RunConfig.load(finished_run).model_dump(mode="json")
    data["run_dir"] = str(folder / "run")
    data["head"] |= head
    return RunConfig.from_dict(data, origin=finished_run)


def test_every_head_folder_is_whole_and_portable(finished_run: Path, tmp_path: Path) -> None:
    config = RunConfig.load(finished_run)
    folder = RunFolder(Path(config.run_dir))
    golden = read_golden(folder.golden)
    assert golden is not None
    for task in config.tasks:
        names = {path.name for path in folder.head(task.name).parent.iterdir()}
        assert {"chosen", "frozen", "sparse", "ensemble", "depth_000"} <= names
        for name in names:
            shutil.copytree(folder.head(task.name, name), tmp_path / task.name / name)
            head = Head.load(tmp_path / task.name / name)
            recorded = read_outputs(tmp_path / task.name / name)
            assert recorded is not None
            np.testing.assert_allclose(recorded.outputs, head.outputs_full(golden), rtol=1e-6)
            arrays = read_arrays(tmp_path / task.name / name / "reference.safetensors")
            reference = Reference.from_arrays(arrays)
            assert reference.num_rows == head.card.provenance["num_val"]
            assert max(head.features) == head.card.depth
            if name.startswith("depth_"):
                assert head.card.depth == int(name.removeprefix("depth_"))


def test_reported_test_metrics_are_those_of_the_saved_head(finished_run: Path) -> None:
    config = RunConfig.load(finished_run)
    folder = RunFolder(Path(config.run_dir))
    store = ActivationStore.open(config.store.path)
    test = load_target(store, config.task("mood")).rows("test")
    entry = read_metrics(folder)["tasks"]["mood"]
    for name in ("chosen", "ensemble", "frozen", "sparse"):
        head = Head.load(folder.head("mood", name))
        rows = {i: store.read_matrix(layer=i, samples=test.positions) for i in head.features}
        guess = head.decide(head.probabilities(head.outputs_full(rows)))
        assert entry[name]["test"]["accuracy"] == pytest.approx(np.mean(guess == test.targets))
    assert entry["hidden_calibrated"]["test"]["accuracy"] > 0.4
    assert "hidden_calibrated" not in read_metrics(folder)["tasks"]["level"]


def test_only_salient_slices_are_read(finished_run: Path) -> None:
    config = RunConfig.load(finished_run)
    store = ActivationStore.open(config.store.path)
    tasks = read_metrics(RunFolder(Path(config.run_dir)))["tasks"]
    assert set(tasks) == {"mood", "level"}
    for task, entry in tasks.items():
        reading = entry["reading"]
        sweep = read_table(RunFolder(Path(config.run_dir)).sweep(task)).to_pylist()
        widest = max(row["num_features"] for row in sweep)
        assert reading["slice_bytes"] == widest * store.num_samples * store.schema.itemsize
        assert reading["ratio"] <= 1.1
        assert reading["row_bytes"] < reading["bytes_read"]


def test_a_budget_judged_by_cross_validation(finished_run: Path, tmp_path: Path) -> None:
    config = changed(
        finished_run,
        tmp_path,
        select="budget",
        budget=[20, 60],
        judge="cross_validation",
        licence="CC-BY-4.0",
    )
    stages.run(config)
    folder = RunFolder(tmp_path / "run")
    head = Head.load(folder.head("mood"))
    assert head.card.licence == "CC-BY-4.0"
    assert head.card.selection.startswith("budget")
    assert head.card.metrics["judged_on"] == "cross_validation"
    card = head.card.provenance
    assert head.card.metrics["num_judged"] == card["num_train"] + card["num_val"]
    rows = read_table(folder.sweep("mood")).to_pylist()
    assert max(row["num_features"] for row in rows if row["kind"] != "ensemble") <= 60
    assert all(row["low"] <= row["score"] <= row["high"] for row in rows)


def test_heads_for_rows_that_phase_1_has_not_seen(finished_run: Path, tmp_path: Path) -> None:
    config = changed(
        finished_run, tmp_path, select="top_k", top_k=[8], training="unseen", calibrate=False
    )
    stages.run(config)
    folder = RunFolder(tmp_path / "run")
    head = Head.load(folder.head("mood", "frozen"))
    assert head.thresholds is None and "calibration" not in head.card.metrics
    # The frozen edges are those of the probe that was fitted without fold 0.
    edges = head.parts[0].layers[0]
    held_out = load_probe(folder, "mood", 0).without_fold(0).weights
    top = np.sort(np.argsort(-feature_importance(held_out), kind="stable")[:8])
    np.testing.assert_array_equal(edges.features, top)
    ratio = edges.weights / held_out[:, top]
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)


def test_features_by_another_ranking(finished_run: Path, tmp_path: Path) -> None:
    config = changed(finished_run, tmp_path, ranking="probeless", kinds=["sparse"], eta=[0.2])
    stages.extract(config)
    stages.probe(config)
    with pytest.raises(HeadError, match="run `salient rank` first"):
        stages.consolidate(config)
    comparison.rank(config)
    stages.consolidate(config)
    folder = RunFolder(tmp_path / "run")
    head = Head.load(folder.head("mood"))
    assert head.card.selection == "share 0.2 by probeless"
    layer, features = next(iter(head.features.items()))
    probes = [load_probe(folder, "mood", i) for i in range(3)]
    shares = ranked_shares(folder, "mood", "probeless", probes, ("mean", "max"))[layer]
    assert shares.sum() == pytest.approx(1)
    assert shares[features].sum() >= 0.2 > shares[features].sum() - shares[features].min()
    with pytest.raises(HeadError, match=r"'nonsense' is not in .* probeless"):
        ranked_shares(folder, "mood", "nonsense", probes, ("mean", "max"))


def test_too_little_memory_is_said_before_anything_is_read(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig.load(finished_run)
    store = ActivationStore.open(config.store.path)
    target = load_target(store, config.task("mood"))
    monkeypatch.setattr("pipeline.heads.slices.free_memory", lambda: 1000)
    with pytest.raises(HeadError, match=r"0\.0 GB are free; lower head\.eta or head\.max_depth"):
        read_slices(config, store, target, target.rows("train"), target.rows("val"))
    assert store.bytes_read == 0


def test_settings_that_do_not_fit_are_refused(finished_run: Path, tmp_path: Path) -> None:
    for head, match in (
        ({"kinds": ["sparse", "ensemble"]}, "name both"),
        ({"judge": "cross_validation", "training": "seen"}, "goes with training"),
        ({"top_k": [0]}, "top_k needs"),
        ({"select": "best"}, "head.select"),
    ):
        with pytest.raises(ConfigError, match=match):
            changed(finished_run, tmp_path, **head)
