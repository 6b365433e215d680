"""Stores and scores that earlier versions wrote into buckets still open and go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.scoring import repair_scores, scores_at
from store import ActivationStore
from store.disk import ObjectLocation
from store.upkeep import compact, gc, verify
from tests.builders.scoring import run_without_model
from tests.builders.store_processes import append_all, make_samples
from tests.formats.make_bucket import COLUMNS

FORMATS = Path(__file__).parent / "formats"


@pytest.fixture(params=sorted(path.name for path in FORMATS.glob("bucket-*")))
def old(request: pytest.FixtureRequest, memory_bucket: str) -> tuple[Path, str]:
    """What a version wrote: its folder, and a bucket with its objects."""
    folder, place = FORMATS / request.param, ObjectLocation(memory_bucket)
    for path in sorted((folder / "objects").rglob("*")):
        if path.is_file():
            place.put(path.relative_to(folder / "objects").as_posix(), path.read_bytes())
    return folder, memory_bucket


def expected_of(folder: Path, part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "expected.json").read_text(encoding="utf-8"))[part]
    return found


def test_a_store_of_a_bucket_goes_on(old: tuple[Path, str]) -> None:
    folder, address = old
    expected, address = expected_of(folder, "store"), f"{address}/activations"
    store = ActivationStore.open(address)
    assert store.snapshot_id == expected["snapshot"] and verify(store).sound
    living = store.samples()
    assert living["id"].to_pylist() == expected["ids"]
    assert living["text"].to_pylist() == expected["texts"]
    found = store.read_matrix(layer=1, samples=store.positions(expected["ids"]))
    np.testing.assert_array_equal(found, np.array(expected["layer_1"], np.float32))
    labels = store.labels("mood")
    assert (
        dict(zip(*(labels[n].to_pylist() for n in ("id", "label")), strict=True))
        == (expected["labels"])
    )
    # The append that was under way keeps its block, and everything else can be done.
    assert len(store.plan_append(make_samples(range(40, 70))).blocks) < 3
    append_all(address, [make_samples(range(40, 70))])  # type: ignore[arg-type]
    store.refresh()
    store.release()
    assert store.num_living == len(expected["ids"]) + 30
    assert compact(store).num_samples and gc(store, keep=1, grace_s=0).snapshots is not None
    assert verify(ActivationStore.open(address)).sound


def test_scores_of_a_bucket_go_on(old: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = old
    expected, address = expected_of(folder, "scores"), f"{address}/scores"

    def rows() -> list[dict[str, Any]]:
        return pa.concat_tables(scores_at(address).tables(COLUMNS)).sort_by("id").to_pylist()  # type: ignore[no-any-return]

    assert rows() == expected["rows"]
    report = run_without_model(sorted((folder / "dumps").iterdir()), address)
    assert not report.counts().get("scored") and rows() == expected["rows"]
    assert not repair_scores(address).set_aside
