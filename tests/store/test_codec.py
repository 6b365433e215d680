"""The vectorised sharding codec: equal to zarr's own, to tensorstore and to the store's reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import xarray as xr
import zarr
from zarr.storage import MemoryStore

from store import ActivationStore, DamagedShardError, StoreSchema
from store.reading import codec
from store.reading.codec import ZARRS_OWN, RowShardingCodec, _read_local, register
from tests.builders.store_processes import append_all, make_samples, values_of

OURS = "store.reading.codec.RowShardingCodec"
PIPELINES = [
    f"zarr.core.codec_pipeline.{name}"
    for name in ("BatchedCodecPipeline", "FusedCodecPipeline")
    if hasattr(zarr.core.codec_pipeline, name)
]
"""The second one is in zarr from 3.3 on."""
SELECTIONS: list[Any] = [
    np.s_[:],
    np.s_[1],
    np.s_[1, 1, 3],
    np.s_[:, :, [4, 0, 2]],
    np.s_[:, 1, 2:5, 10:50],
    np.s_[0, 0, ::2, 17],
    np.s_[1, 0, 5, 39],
    np.s_[..., 59],
]


@pytest.fixture(params=PIPELINES, autouse=True)
def pipeline(request: pytest.FixtureRequest) -> Iterator[None]:
    with zarr.config.set({"codec_pipeline.path": request.param}):
        yield


@pytest.fixture(params=["float16", "float32"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    schema = StoreSchema(
        num_layers=2, neuron_size=6, hidden_size=3, samples_per_shard=16, dtype=request.param
    )
    ActivationStore.create(tmp_path / "s", schema)
    append_all(tmp_path / "s", [make_samples(range(0, 20)), make_samples(range(20, 60))])
    return tmp_path / "s"


def open_with(path: Path | MemoryStore, codec: str) -> zarr.Array[Any]:
    register()
    with zarr.config.set({"codecs.sharding_indexed": codec}):
        array = zarr.open_array(path, mode="r")
    chosen = array.metadata.codecs[0]
    assert isinstance(chosen, RowShardingCodec) == (codec == OURS)
    return array


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
def test_every_reader_agrees(root: Path, selection: Any) -> None:
    ours = open_with(root / "ffn", OURS)
    zarrs = open_with(root / "ffn", ZARRS_OWN)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(root / "ffn")}}
    google = tensorstore.open(spec, read=True).result()
    ids = [f"id{i}" for i in range(60)]
    full = values_of(ActivationStore.open(root).schema, ids)["ffn"]
    lazy = ActivationStore.open(root).to_xarray()
    want = full[selection]
    if isinstance(selection, tuple) and any(isinstance(part, list) for part in selection):
        np.testing.assert_array_equal(ours.oindex[selection], want)
        np.testing.assert_array_equal(zarrs.oindex[selection], want)
    else:
        np.testing.assert_array_equal(ours[selection], want)
        np.testing.assert_array_equal(zarrs[selection], want)
    np.testing.assert_array_equal(google[selection].read().result(), want)
    np.testing.assert_array_equal(lazy.ffn[selection].values, want)


def test_vectorised_and_coordinate_selections(root: Path) -> None:
    ours = open_with(root / "ffn", OURS)
    full = open_with(root / "ffn", ZARRS_OWN)[:]
    np.testing.assert_array_equal(ours.oindex[1, :, [4, 0, 2]], full[1][:, [4, 0, 2]])
    np.testing.assert_array_equal(
        ours.oindex[[1, 0], 1, 3, [59, 0]], full[[1, 0], 1, 3][:, [59, 0]]
    )
    points = ([0, 1, 1], [1, 0, 0], [5, 2, 0], [59, 3, 16])
    np.testing.assert_array_equal(ours.vindex[points], full[points])
    mask = np.zeros(full.shape, bool)
    mask[points] = True
    np.testing.assert_array_equal(ours.vindex[mask], full[mask])
    with xr.open_zarr(root, chunks=None) as dataset:
        chosen = dataset.ffn.isel(neuron=xr.DataArray([5, 0], dims="z"), sample=[3, 50])
        np.testing.assert_array_equal(chosen.values, full[:, :, [5, 0]][..., [3, 50]])


def test_whole_rows_are_read_by_this_codec(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = open_with(root / "ffn", OURS)
    reads = []

    def counted(*arguments: Any) -> Any:
        reads.append(arguments[0])
        return _read_local(*arguments)

    monkeypatch.setattr(codec, "_read_local", counted)
    array[1, :, 2:4]
    assert len(set(reads)) == len(reads) == 4  # every slot once


def test_other_stores_than_local_files(root: Path) -> None:
    files = {
        str(path.relative_to(root / "ffn")): zarr.core.buffer.cpu.Buffer.from_bytes(
            path.read_bytes()
        )
        for path in (root / "ffn").rglob("*")
        if path.is_file()
    }
    remote = open_with(MemoryStore(files), OURS)
    local = open_with(root / "ffn", OURS)
    np.testing.assert_array_equal(remote[:], local[:])
    np.testing.assert_array_equal(remote[1, 0, 2:4], local[1, 0, 2:4])


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_that_zarr_wrote_itself(tmp_path: Path, compressed: bool) -> None:
    register()
    values = np.arange(2 * 4 * 6, dtype="int32").reshape(2, 4, 6)
    array = zarr.create_array(
        tmp_path / "a",
        shape=values.shape,
        dtype="int32",
        shards=(2, 4, 3),
        chunks=(1, 1, 3),
        compressors="auto" if compressed else None,
        fill_value=-1,
    )
    array[:, 1:] = values[:, 1:]  # rows of zarr's own order, and missing inner chunks
    want = values.copy()
    want[:, 0] = -1
    for chosen in (OURS, ZARRS_OWN):
        got = open_with(tmp_path / "a", chosen)
        np.testing.assert_array_equal(got[:], want)
        np.testing.assert_array_equal(got.oindex[1, [3, 0], :], want[1, [3, 0]])


def test_missing_and_damaged_shards(root: Path) -> None:
    shard = root / "ffn/c/1/0/0/0"
    content = bytearray(shard.read_bytes())
    content[-2] ^= 1
    shard.write_bytes(content)
    array = open_with(root / "ffn", OURS)
    with pytest.raises(DamagedShardError, match="index is damaged"):
        array[1, 0, 0]
    shard.write_bytes(b"short")
    with pytest.raises(DamagedShardError, match="cut short"):
        array[1, 0, 0]
    shard.unlink()
    assert np.isnan(array[1, 0, 0, :16]).all()  # zarr's rule; the store's own reader refuses


def test_a_users_own_choice_of_codec_stands() -> None:
    with zarr.config.set({"codecs.sharding_indexed": "my.Codec"}):
        register()
        assert zarr.config.get("codecs.sharding_indexed") == "my.Codec"
