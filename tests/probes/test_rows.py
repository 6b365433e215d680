"""A task's rows and their folds, over a finished run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import RunConfig
from pipeline.errors import ProbeError
from pipeline.probes import rows as rows_module
from pipeline.probes.probing import phase1_fingerprint
from pipeline.probes.rows import TaskRows, task_rows
from pipeline.runfolder import RunFolder
from pipeline.texts.lookup import sample_groups
from pipeline.texts.targets import Target, load_target
from store import ActivationStore
from store.tables import read_arrays, write_arrays


def opened(config: RunConfig) -> tuple[ActivationStore, Target]:
    store = ActivationStore.open(config.store.path)
    return store, load_target(store, config.task("mood"))


def with_head(config: RunConfig, **head: Any) -> RunConfig:
    data = config.model_dump(mode="json")
    data["head"] |= head
    data["corpus"][0]["author"] = "mood"  # for folds by authors a column must be named
    return RunConfig.from_dict(data, origin=Path(config.run_dir).parent / "run.toml")


def check(found: TaskRows, folds: int) -> None:
    for own in found.folds:
        assert own.shape == (len(found),) and set(own.tolist()) == set(range(folds))
        for group in np.unique(found.groups):
            assert len(set(own[found.groups == group].tolist())) == 1


def test_training_rows_come_first_and_groups_are_whole(own_run: RunConfig) -> None:
    store, target = opened(own_run)
    found = task_rows(own_run, store, target)
    train, val = target.rows("train"), target.rows("val")
    assert found.num_train == len(train)
    np.testing.assert_array_equal(found.positions, np.r_[train.positions, val.positions])
    np.testing.assert_array_equal(found.targets, np.r_[train.targets, val.targets])
    expected = sample_groups(store, found.positions, own_run)
    np.testing.assert_array_equal(found.groups, expected)
    assert not found.is_shift
    assert len(found.folds) == 10
    check(found, 3)
    assert len({tuple(own.tolist()) for own in found.folds}) > 1


def test_many_rows_are_assigned_once(own_run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    store, target = opened(own_run)
    several = task_rows(own_run, store, target)
    monkeypatch.setattr(rows_module, "FEW_ROWS", len(several))
    (only,) = task_rows(own_run, store, target).folds
    np.testing.assert_array_equal(only, several.folds[0])
    monkeypatch.setattr(rows_module, "FEW_ROWS", len(several) + 1)
    assert len(task_rows(own_run, store, target).folds) == 2


def test_training_rows_of_one_fold_are_refused(own_run: RunConfig) -> None:
    store, target = opened(own_run)
    path = RunFolder(Path(own_run.run_dir)).groups("mood")
    known = read_arrays(path)
    train, val = len(target.rows("train")), len(target.rows("val"))
    alike = np.r_[np.zeros(train, np.int64), np.arange(1, val + 1)]
    write_arrays(path, {**known, "groups": alike})
    match = rf"task 'mood': its {train} training texts are all in one of 3 folds \(near-dup.*seen"
    with pytest.raises(ProbeError, match=match):
        task_rows(own_run, store, target)
    rows = task_rows(with_head(own_run, training="seen"), store, target)  # needs no folds
    np.testing.assert_array_equal(rows.groups, alike)


def test_groups_are_found_once_and_again_if_they_are_of_others(
    own_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, target = opened(own_run)
    path = RunFolder(Path(own_run.run_dir)).groups("mood")
    known = task_rows(own_run, store, target)
    asked: list[int] = []

    def groups(store: ActivationStore, positions: Any, *others: Any) -> Any:
        asked.append(len(positions))
        return sample_groups(store, positions, *others)

    monkeypatch.setattr(rows_module, "sample_groups", groups)
    task_rows(own_run, store, target)
    assert not asked
    path.write_bytes(path.read_bytes()[:100])  # damaged
    np.testing.assert_array_equal(task_rows(own_run, store, target).groups, known.groups)
    shutil.copyfile(RunFolder(Path(own_run.run_dir)).groups("level"), path)  # of other labels
    np.testing.assert_array_equal(task_rows(own_run, store, target).groups, known.groups)
    path.unlink()
    np.testing.assert_array_equal(task_rows(own_run, store, target).groups, known.groups)
    assert len(asked) == 3


def test_probes_of_other_folds_are_other_probes(own_run: RunConfig) -> None:
    store, target = opened(own_run)
    configs = [
        own_run,
        with_head(own_run, folds_by="time"),
        with_head(own_run, folds_by="author"),
        with_head(own_run, folds=4),
        with_head(own_run, training="seen"),
    ]
    found = [phase1_fingerprint(one, target, store.schema.fingerprint) for one in configs]
    assert len(set(found)) == len(found)
    same = with_head(own_run, training="seen", folds_by="time")  # no folds are needed
    assert phase1_fingerprint(same, target, store.schema.fingerprint) == found[-1]
