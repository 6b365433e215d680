"""Stores that earlier versions wrote: read, appended to, compacted (formats/README.md)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from store import ActivationStore
from store.reading.codec import register
from store.upkeep.compaction import compact
from store.upkeep.export import export_parquet
from store.upkeep.garbage import gc
from store.upkeep.inspection import describe_snapshots, info, verify
from tests.builders.paths import ROOT
from tests.builders.store_processes import append_all, make_samples, values_of, write_one

FORMATS = ROOT / "tests" / "formats"


@pytest.fixture(params=sorted(p.name for p in FORMATS.iterdir() if (p / "store").is_dir()))
def old(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ActivationStore, dict[str, Any]]:
    """A copy of a version's store, and what it held."""
    source = FORMATS / request.param
    shutil.copytree(source / "store", tmp_path / "store")
    expected = json.loads((source / "expected.json").read_text(encoding="utf-8"))["store"]
    return ActivationStore.open(tmp_path / "store"), expected


def check_values(store: ActivationStore, ids: list[str]) -> None:
    expected = values_of(store.schema, ids)
    for name, layout in store.schema.arrays.items():
        for place, layer in enumerate(layout.layers):
            found = store.read_matrix(array=name, layer=layer, samples=store.positions(ids))
            np.testing.assert_array_equal(found, expected[name][place].reshape(-1, len(ids)).T)


def test_reads_as_before(old: tuple[ActivationStore, dict[str, Any]], tmp_path: Path) -> None:
    store, expected = old
    assert store.snapshot_id == expected["snapshot"]
    assert store.samples()["id"].to_pylist() == expected["ids"]
    assert store.samples()["text"].to_pylist()[0] == "text 0"
    assert store.labels("t").to_pydict() == expected["labels"]
    assert verify(store).sound, str(verify(store))
    assert len(describe_snapshots(store).splitlines()) == int(expected["snapshot"]) + 1
    assert info(store)
    check_values(store, expected["ids"])
    first = ActivationStore.open(store.location.root, snapshot="000001")
    check_values(first, first.samples()["id"].to_pylist())
    register()
    with xr.open_zarr(store.location.root, chunks=None) as plain:
        assert set(expected["ids"]) <= set(plain.sample_id.values.tolist())
        mean = plain.ffn.sel(layer=1, pooling="mean").values[:, store.positions(["id9"])]
    np.testing.assert_array_equal(mean[:, 0], values_of(store.schema, ["id9"])["ffn"][1, 0, :, 0])
    export_parquet(store, tmp_path / "three.parquet", layer=0, units=[1, 3, 5])


def test_goes_on(old: tuple[ActivationStore, dict[str, Any]]) -> None:
    """The append that was under way goes on with its finished block; then all the upkeep."""
    store, expected = old
    plan = store.plan_append(make_samples(range(50, 90)))
    assert len(plan.blocks) == len(plan.all_blocks) - 1
    for index in range(len(plan.blocks)):
        write_one(store, plan, index)
    store.commit()
    ids = [*expected["ids"], *(f"id{i}" for i in range(50, 90))]
    append_all(store.location.root, [make_samples(range(90, 95))])
    store.refresh()
    store.delete(["id60", "id94"])
    ids = [i for i in [*ids, *(f"id{i}" for i in range(90, 95))] if i not in ("id60", "id94")]
    assert compact(store).num_samples == 4
    gc(store, keep=1)
    store = ActivationStore.open(store.location.root)
    assert store.samples()["id"].to_pylist() == ids
    check_values(store, ids)
    assert verify(store).sound, str(verify(store))
