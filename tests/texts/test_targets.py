from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import RunConfig, TaskConfig
from pipeline.errors import ProbeError
from pipeline.texts.targets import load_target
from store import ActivationStore


def test_labels_come_as_positions_and_class_indices(finished_run) -> None:
    config = RunConfig.load(finished_run)
    store = ActivationStore.open(config.store.path)
    target = load_target(store, config.task("mood"))
    assert target.classes == ("glad", "sad")
    ids = np.array(store.samples()["id"].to_pylist())
    table = {row["id"]: row for row in store.labels("mood").to_pylist()}
    for split in ("train", "val", "test"):
        rows = target.rows(split)
        assert len(rows) > 0
        for position, index in zip(rows.positions, rows.targets, strict=True):
            row = table[ids[position]]
            assert (row["split"], row["label"]) == (split, target.classes[index])
    assert load_target(store, config.task("level")).num_classes is None


@pytest.mark.parametrize(
    ("task", "match"),
    [
        (TaskConfig(name="other", type="regression"), "no labels in the store"),
        (TaskConfig(name="mood", type="regression"), "holds it as classes"),
        (
            TaskConfig(name="mood", type="classification", positive="happy"),
            "'happy' is not one of",
        ),
    ],
)
def test_tasks_that_do_not_fit_the_store(finished_run, task: TaskConfig, match: str) -> None:
    store = ActivationStore.open(RunConfig.load(finished_run).store.path)
    with pytest.raises(ProbeError, match=match):
        load_target(store, task)
