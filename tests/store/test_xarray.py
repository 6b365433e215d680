"""The Dataset of a store against numpy's and zarr's answers."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from store import ActivationStore, DamagedShardError, StoreError, open_dataset
from store.reading import lazy, reader
from store.reading.backend import SalientBackend
from store.upkeep.compaction import compact
from tests.builders.paths import ROOT
from tests.builders.store_dataset import DAY, FULL, LIVING, SCHEMA, flip, make, make_even


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("xarray") / "s")


# -- selections -----------------------------------------------------------------------------------

DIMS = dict(zip(("layer", "pooling", "neuron", "sample"), FULL.shape, strict=True))


def positions(size: int) -> st.SearchStrategy[Any]:
    # Further out xarray itself errs: a start before the first, counting down, is no empty slice.
    bound = st.none() | st.integers(-size, size)
    step = st.none() | st.integers(-3, 3).filter(bool)
    if size == 0:
        return st.builds(slice, bound, bound, step)
    number = st.integers(-size, size - 1)
    lists = st.lists(number, max_size=6).map(lambda found: np.array(found, np.int64))
    return st.builds(slice, bound, bound, step) | lists | number


@st.composite
def selections(draw: st.DrawFn) -> list[dict[str, Any]]:
    sizes, steps = dict(DIMS), []
    for _ in range(draw(st.integers(1, 2))):
        chosen = {}
        for dim in draw(st.lists(st.sampled_from(sorted(sizes)), unique=True)):
            chosen[dim] = draw(positions(sizes[dim]))
            left = np.arange(sizes[dim])[chosen[dim]]
            if np.ndim(left):
                sizes[dim] = len(left)
            else:
                del sizes[dim]
        steps.append(chosen)
    return steps


@pytest.fixture(scope="module", params=["rows", "first", "always", "never", "dask"])
def opened(path: Path, request: pytest.FixtureRequest) -> xr.Dataset:
    if request.param == "dask":
        return open_dataset(path, chunks={})
    return open_dataset(path, check=request.param)


@settings(max_examples=50, deadline=None)
@given(steps=selections())
def test_any_selection_is_numpys(opened: xr.Dataset, steps: list[dict[str, Any]]) -> None:
    found, want = opened.ffn, xr.DataArray(FULL, dims=tuple(DIMS))
    for step in steps:
        found, want = found.isel(step), want.isel(step)
    np.testing.assert_array_equal(found.values, want.values)
    if "sample" in found.coords:
        ids = np.atleast_1d(found["sample"].values).tolist()
        texts = np.atleast_1d(found["text"].values).tolist()
        assert texts == [f"text {name[2:]} ü" for name in ids]


def test_long_runs_between_deleted_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "LONG_RUN", 2)
    root = make(tmp_path / "s")
    for chunks in (None, {}):
        np.testing.assert_array_equal(open_dataset(root, chunks=chunks).ffn.values, FULL)


def test_vectorised_selections(path: Path) -> None:
    dataset = open_dataset(path)
    points = {
        "layer": xr.DataArray([2, 0, 2], dims="point"),
        "neuron": xr.DataArray([4, 1, 0], dims="point"),
    }
    found = dataset.ffn.isel(points).transpose("point", "pooling", "sample")
    np.testing.assert_array_equal(found.values, FULL[[2, 0, 2], :, [4, 1, 0]])


def test_labels_select(path: Path) -> None:
    dataset = open_dataset(path)
    got = dataset.ffn.sel(layer=1, pooling="max", neuron=[4, 0], sample=["id9", "id2"])
    places = [LIVING.index(9), LIVING.index(2)]
    np.testing.assert_array_equal(got.values, FULL[1, 1][[4, 0]][:, places])
    assert dataset.sel(sample="id9").text.item() == "text 9 ü"
    with pytest.raises(KeyError):
        dataset.sel(sample="id3")
    joyful = dataset.sel(sample=dataset.label_mood == "joy")
    assert set(joyful["sample"].values) == {f"id{n}" for n in LIVING if n < 30 and n % 3 == 0}
    same = dataset.ffn.where(dataset.label_mood == "joy", drop=True)
    np.testing.assert_array_equal(same.values, joyful.ffn.values)


# -- what is there --------------------------------------------------------------------------------


def test_coordinates_and_words(path: Path) -> None:
    dataset = xr.open_dataset(path, engine=SalientBackend)
    assert dataset["sample"].values.tolist() == [f"id{n}" for n in LIVING]
    assert not dataset.text.variable._in_memory and not dataset.ffn.variable._in_memory
    assert dataset.n_tokens.values.tolist() == LIVING
    assert dataset.truncated.values.tolist() == [n % 2 == 1 for n in LIVING]
    assert np.isnat(dataset.created_at.values[0])
    when = np.datetime64(1_700_000_000 + DAY // 8, "s")
    assert dataset.created_at.sel(sample="id1").values == when
    assert dataset.label_mood.values.tolist()[-1] == "" and np.isnan(dataset.label_heat[0])
    assert dataset.label_heat.sel(sample="id2") == 4.0 and dataset.split_mood[0] == "train"
    assert dataset.ffn.dtype == np.float32 and "float16" in dataset.ffn.attrs["comment"]
    assert open_dataset(path, dtype=None).ffn.dtype == np.float16
    assert dataset.attrs["backbone"] == "some/model" and dataset.attrs["fingerprint"] == "f00d"
    for variable in (dataset, *dataset.variables.values()):
        assert all(isinstance(value, str) for value in variable.attrs.values())
    for name, variable in dataset.variables.items():
        assert variable.attrs["long_name"], name
    assert dataset.ffn.attrs["units"] == dataset.layer.attrs["units"] == "1"
    assert (
        open_dataset(path, labels=[], text=False).coords.keys().isdisjoint({"text", "label_mood"})
    )
    assert "hidden" not in xr.open_dataset(path, engine=SalientBackend, drop_variables="hidden")


def test_plain_zarr_says_whose_they_are_and_agrees(path: Path) -> None:
    with xr.open_zarr(path, chunks=None) as plain:
        assert plain.attrs["backbone"] == "some/model"
        by_id = plain.isel(sample=np.flatnonzero(plain.sample_id.values != ""))
        by_id = by_id.set_xindex("sample_id").sel(sample_id=[f"id{n}" for n in LIVING])
        np.testing.assert_array_equal(by_id.ffn.values, open_dataset(path).ffn.values)


def test_an_older_snapshot_less_what_was_deleted_since(path: Path) -> None:
    found = open_dataset(path, snapshot="000001")
    assert found.sizes["sample"] == 12 and found.attrs["snapshot"] == "000001"
    np.testing.assert_array_equal(found.ffn.values, FULL[..., :12])


def test_a_compaction_after_opening(tmp_path: Path) -> None:
    dataset = open_dataset(make(tmp_path / "s"))
    store = ActivationStore.open(tmp_path / "s")
    store.delete(["id5"])
    compact(store)
    place, rest = LIVING.index(5), [n for n in range(len(LIVING)) if n != LIVING.index(5)]
    for found in (dataset.ffn, dataset.ffn.isel(sample=slice(None, None, -1))[..., ::-1]):
        np.testing.assert_array_equal(found.values[..., rest], FULL[..., rest])
        assert np.isnan(found.values[..., place]).all()
    assert np.isnan(dataset.ffn.isel(sample=place).values).all()
    means = dataset.salient.mean().values
    np.testing.assert_allclose(means, FULL[..., rest].mean(-1), rtol=1e-5)


def test_empty_stores_open(tmp_path: Path) -> None:
    ActivationStore.create(tmp_path / "s", SCHEMA)
    dataset = open_dataset(tmp_path / "s")
    assert dataset.ffn.values.shape == (3, 2, 5, 0)
    assert dataset.text.values.shape == (0,)
    assert np.isnan(dataset.salient.mean().values).all()


def test_damage_is_found_in_whole_rows(tmp_path: Path) -> None:
    root = make(tmp_path / "s")
    flip(root, layer=1, slot=0, row=2, sample=0)
    dataset = open_dataset(root)
    with pytest.raises(DamagedShardError, match="checksums"):
        _ = dataset.ffn.sel(layer=1).values
    with pytest.raises(DamagedShardError):
        _ = dataset.ffn.sel(layer=1, pooling="mean", neuron=2).values
    with pytest.raises(DamagedShardError):
        dataset.salient.mean()
    assert np.isfinite(dataset.ffn.sel(layer=1, sample="id1").values).all()  # a page of each row
    with pytest.raises(DamagedShardError):
        _ = open_dataset(root, check="first").ffn.sel(layer=1, sample="id1").values
    shard = root / SCHEMA.arrays["ffn"].shard_path(1, 0)
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DamagedShardError, match="bytes instead of"):
        _ = open_dataset(root, check="never").ffn.sel(layer=1, sample="id1").values


@pytest.mark.filterwarnings("ignore:The specified chunks separate")
@pytest.mark.parametrize("texts", [1024, 64])
def test_damage_is_found_by_who_reads_a_few_at_a_time(tmp_path: Path, texts: int) -> None:
    root = make_even(tmp_path / "s", texts=texts, size=1024)
    flip(root, slot=0, row=1, sample=texts - 1)

    def batches(dataset: xr.Dataset) -> None:
        for start in range(0, texts, 64):
            _ = dataset.ffn.isel(sample=slice(start, start + 64)).values

    with pytest.raises(DamagedShardError):
        batches(open_dataset(root))
    with pytest.raises(DamagedShardError):
        batches(open_dataset(root).sel(neuron=1, pooling="mean"))
    with pytest.raises(DamagedShardError):
        _ = open_dataset(root, chunks={"sample": 64}).ffn.mean("sample").values
    batches(open_dataset(root, check="never"))
    if texts == 1024:  # a sixteenth
        assert open_dataset(root).ffn.isel(sample=slice(-64, None)).values.size


def test_what_memory_cannot_hold_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "UNASKED_BYTES", 100)
    monkeypatch.setattr(lazy, "available_bytes", lambda: 1000)
    with pytest.raises(StoreError, match=r"select layers.*chunks=\{\}"):
        _ = open_dataset(path).ffn.values
    with pytest.raises(StoreError, match="group less finely"):
        open_dataset(path).salient.mean(by="text")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, 'valid are "float32" and None'),
        ({"check": "maybe"}, "first, rows, always, never"),
        ({"labels": ["moot"]}, "mood, heat"),
        ({"snapshot": "000099"}, "salient store snapshots"),
    ],
)
def test_errors_name_the_choices(path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        _ = open_dataset(path, **options).ffn[0, 0, 0].values


def test_the_engine_knows_its_stores(path: Path, tmp_path: Path) -> None:
    engine = SalientBackend()
    assert engine.guess_can_open(str(path)) and engine.guess_can_open(path)
    assert not engine.guess_can_open(tmp_path) and not engine.guess_can_open(b"bytes")
    assert not engine.guess_can_open("s3://bucket/store")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = project["entry-points"]["xarray.backends"]["salient"]
    assert named == f"{SalientBackend.__module__}:{SalientBackend.__qualname__}"


def test_the_installed_engine_is_the_same(path: Path) -> None:
    if "salient" not in xr.backends.list_engines():
        pytest.skip("Salient is not installed here, or was before it had an engine")
    xr.testing.assert_identical(xr.open_dataset(path, engine="salient"), open_dataset(path))


def test_one_name_of_a_task_will_do(path: Path) -> None:
    found = open_dataset(path, labels="mood")
    assert "label_mood" in found.coords and "label_heat" not in found.coords


def test_the_second_id_of_a_text(tmp_path: Path) -> None:
    root = make_even(tmp_path / "s", texts=3)
    store = ActivationStore.open(root)
    store.plan_append(pa.table({"id": ["twin"], "text": ["id1"]}))
    store.commit()
    dataset = open_dataset(root)
    with pytest.raises(KeyError):
        dataset.sel(sample="twin")
    assert store.positions(["twin", "id1", "nobody"]).tolist() == [1, 1, -1]
    assert dataset.sizes["sample"] == 3


# -- dask, groups, means --------------------------------------------------------------------------


def test_chunks_are_as_large_as_shards(path: Path) -> None:
    dataset = open_dataset(path, chunks={})
    assert dataset.ffn.chunks == ((1, 1, 1), (2,), (5,), (16, 16, 3))
    assert dataset.ffn.mean("sample").data.npartitions <= 3
    assert len(dataset.ffn.data.__dask_graph__()) < 3 * 3 + 3
    assert open_dataset(path, chunks="auto").ffn.chunks == ((3,), (2,), (5,), (16, 16, 3))
    np.testing.assert_allclose(dataset.ffn.mean("sample").values, FULL.mean(-1), rtol=1e-6)


@pytest.mark.parametrize("chunks", [None, {}])
def test_groups_by_label_day_and_resample(path: Path, chunks: Any) -> None:
    dataset = open_dataset(path, chunks=chunks).sel(layer=1)
    plain = dataset.ffn.groupby("label_mood").mean().transpose(..., "label_mood")
    assert plain.label_mood.values.tolist() == ["", "anger", "fear", "joy"]
    joy = FULL[1][..., [n for n, name in enumerate(LIVING) if name < 30 and name % 3 == 0]]
    np.testing.assert_allclose(plain.sel(label_mood="joy").values, joy.mean(-1), rtol=1e-6)
    ours = dataset.salient.mean(by="label_mood")
    xr.testing.assert_allclose(ours, plain.drop_attrs())
    days = dataset.ffn.groupby("created_at.date").mean().transpose(..., "date")
    xr.testing.assert_allclose(dataset.salient.mean(by="created_at.date"), days.drop_attrs())
    dated = dataset.sel(sample=dataset.created_at.notnull()).swap_dims(sample="created_at")
    daily = dated.ffn.resample(created_at="1D").mean()
    assert daily.sizes["created_at"] == days.sizes["date"]
    np.testing.assert_allclose(daily.transpose(..., "created_at").values, days.values, rtol=1e-6)


def test_means_of_selections(path: Path) -> None:
    dataset = open_dataset(path).sel(layer=[2, 0], neuron=[3, 1])
    want = FULL[[2, 0]][:, :, [3, 1]]
    found = dataset.salient.mean()
    np.testing.assert_allclose(found.values, want.mean(-1), rtol=1e-6)
    assert found.layer.values.tolist() == [2, 0]
    one = dataset.sel(pooling="max", layer=2).isel(sample=[5, 5, 30, 2])
    np.testing.assert_allclose(
        one.salient.mean().values, want[0, 1][:, [5, 5, 30, 2]].mean(-1), rtol=1e-6
    )
    loaded = one.load().salient.mean(by=xr.DataArray(["a", "b", "a", "a"], dims="sample"))
    np.testing.assert_allclose(loaded.values[:, 1], want[0, 1][:, 5], rtol=1e-6)
    nothing = xr.DataArray([np.nan] * 4, dims="sample")
    assert one.salient.mean(by=nothing).shape == (2, 0)
    with pytest.raises(StoreError, match="label_mood"):
        one.salient.mean(by="mood")
    with pytest.raises(StoreError, match="ffn, hidden"):
        one.salient.mean("fnn")


def test_groups_of_other_samples_are_refused(path: Path) -> None:
    dataset = open_dataset(path)
    by = dataset.label_mood
    want = dataset.salient.mean(by="label_mood")
    xr.testing.assert_identical(dataset.salient.mean(by=by), want)
    turned = by.isel(sample=slice(None, None, -1))
    with pytest.raises(StoreError, match="another order"):
        dataset.salient.mean(by=turned)
    back = turned.sel(sample=dataset["sample"])
    xr.testing.assert_identical(dataset.salient.mean(by=back), want)
    with pytest.raises(StoreError, match="as an axis is"):
        dataset.salient.mean(by=by.rename("layer"))
    with pytest.raises(StoreError, match=r"sample: 35"):
        dataset.salient.mean(by=by[:7])
    with pytest.raises(StoreError, match="no axis `sample`"):
        dataset.rename(sample="s").salient.mean()


@pytest.mark.parametrize("number", [1, 3, 7, 35])
@pytest.mark.parametrize("ordered", [True, False])
def test_means_by_any_number_of_groups(path: Path, number: int, ordered: bool) -> None:
    places = np.arange(len(LIVING))
    groups = places * number // len(LIVING) if ordered else places * 11 % number
    by = xr.DataArray(groups, dims="sample", name="g")
    want = np.stack([FULL[..., groups == group].mean(-1) for group in range(number)], -1)
    for dataset in (open_dataset(path), open_dataset(path, chunks={}), open_dataset(path).load()):
        np.testing.assert_allclose(dataset.salient.mean(by=by).values, want, rtol=1e-6)


def test_with_dask_each_chunk_is_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, reads = open_dataset(path, chunks={}), []
    read = lazy.LazyActivations._read
    monkeypatch.setattr(
        lazy.LazyActivations, "_read", lambda self, key: reads.append(key) or read(self, key)
    )
    dataset.salient.mean(by="sample")
    assert len(reads) == 3 * 3


def test_values_that_are_missing_are_left_out(path: Path) -> None:
    for dataset in (open_dataset(path), open_dataset(path, chunks={})):
        some = dataset.assign(ffn=dataset.ffn.where(dataset.neuron + dataset.n_tokens > 3))
        want = some.ffn.groupby("label_mood").mean().transpose(..., "label_mood")
        found = some.salient.mean(by="label_mood")
        np.testing.assert_allclose(found.values, want.values, rtol=1e-6)


def test_sums_do_not_overflow(tmp_path: Path) -> None:
    make_even(tmp_path / "s", texts=20, value=60000)
    for chunks in (None, {}):
        dataset = open_dataset(tmp_path / "s", chunks=chunks)
        assert (dataset.ffn.mean("sample").values == 60000).all()
        assert (dataset.salient.mean().values == 60000).all()
    assert (ActivationStore.open(tmp_path / "s").to_xarray().ffn.mean("sample") == 60000).all()


def test_salient_slices(path: Path) -> None:
    dataset = open_dataset(path)
    pairs = [(2, 4), (0, 1), (2, 0), (1, 1)]
    found = dataset.salient.features(pairs)
    want = np.stack([FULL[layer, :, neuron] for layer, neuron in pairs])
    assert found.dims == ("feature", "pooling", "sample")
    np.testing.assert_array_equal(found.values, want)
    assert list(zip(found.layer.values, found.neuron.values, strict=True)) == pairs
    one = dataset.sel(pooling="max").salient.features(pairs, array="ffn")
    np.testing.assert_array_equal(one.sel(sample="id9"), want[:, 1, LIVING.index(9)])
    assert dataset.salient.features([]).shape == (0, 2, 35)
    turned = dataset[["ffn"]].transpose("neuron", "pooling", "layer", "sample")
    xr.testing.assert_identical(
        turned.salient.features(pairs).transpose("feature", "pooling", "sample"), found
    )
    with pytest.raises(StoreError, match=r"layer \[0, 1, 2\] and 5 of neuron 0 to 4"):
        dataset.salient.features([(7, 1)])
    with pytest.raises(StoreError, match="pooling, neuron, sample here"):
        dataset.sel(layer=2).salient.features([(2, 1)])


# -- other files ----------------------------------------------------------------------------------

SUBSETS = {
    "all": {},
    "few": {"sample": slice(3, 9), "neuron": [4, 1]},
    "scattered": {"sample": slice(None, None, 3), "layer": [2]},
    "late": {"sample": slice(3, None)},
}


@pytest.mark.parametrize("chunks", [None, {}])
@pytest.mark.parametrize("subset", SUBSETS)
def test_zarr_round_trip(path: Path, tmp_path: Path, subset: str, chunks: Any) -> None:
    dataset = open_dataset(path, chunks=chunks).isel(SUBSETS[subset])
    if chunks is not None and subset not in ("all", "few"):
        dataset = dataset.chunk(sample=16)
    dataset.to_zarr(tmp_path / "copy.zarr", consolidated=False)
    with xr.open_zarr(tmp_path / "copy.zarr", consolidated=False) as copy:
        check_copy(dataset, copy.load())


def test_zarr_of_what_was_deleted_from_unevenly(tmp_path: Path) -> None:
    root = make(tmp_path / "s")
    ActivationStore.open(root).delete(["id5", "id6"])
    dataset = open_dataset(root, chunks={})
    dataset.to_zarr(tmp_path / "copy.zarr", consolidated=False)
    with xr.open_zarr(tmp_path / "copy.zarr", consolidated=False) as copy:
        check_copy(dataset, copy.load())


@pytest.mark.parametrize("engine", ["zarr", "h5netcdf"])
def test_far_times_round_trip(tmp_path: Path, engine: str) -> None:
    times = [-11_676_096_000, 253_402_300_000, None, 7]  # the years 1600 and 9999
    dataset = open_dataset(make_even(tmp_path / "s", texts=4, times=times))
    if engine == "zarr":
        dataset.to_zarr(tmp_path / "copy", consolidated=False)
    else:
        dataset.to_netcdf(tmp_path / "copy", engine=engine)
    options = {"consolidated": False} if engine == "zarr" else {}
    decoder = xr.coders.CFDatetimeCoder(time_unit="s")
    with xr.open_dataset(tmp_path / "copy", engine=engine, decode_times=decoder, **options) as copy:
        np.testing.assert_array_equal(copy.created_at.values, dataset.created_at.values)


@pytest.mark.parametrize("chunks", [None, {}])
def test_outer_joins(path: Path, tmp_path: Path, chunks: Any) -> None:
    dataset = open_dataset(path, chunks=chunks)
    one, two = dataset.isel(sample=slice(0, 4)), dataset.isel(sample=slice(2, 6))
    joined = xr.merge([one, two], compat="no_conflicts", join="outer")
    assert joined.text.values.tolist() == [f"text {n} ü" for n in LIVING[:6]]
    wider = dataset.reindex(sample=["id1", "nobody"])
    assert wider.text.values[0] == "text 1 ü" and np.isnan(wider.ffn.values[..., 1]).all()
    aligned, _ = xr.align(one, two, join="outer")
    assert aligned.sizes["sample"] == 6
    other = open_dataset(make_even(tmp_path / "s", texts=2), chunks=chunks)
    both = xr.concat([one[["ffn"]].isel(layer=[0], neuron=[0, 1]), other], "run", join="outer")
    assert both.sizes["run"] == 2
    assert dataset.text.where(dataset.n_tokens > 1).isnull().sum() == 2


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
@pytest.mark.parametrize("subset", SUBSETS)
def test_netcdf_round_trip(path: Path, tmp_path: Path, subset: str, engine: str) -> None:
    pytest.importorskip({"netcdf4": "netCDF4"}.get(engine, engine))
    dataset = open_dataset(path).isel(SUBSETS[subset])
    dataset.to_netcdf(tmp_path / "copy.nc", engine=engine)
    with xr.open_dataset(tmp_path / "copy.nc", engine=engine) as copy:
        check_copy(dataset, copy.load())


def check_copy(dataset: xr.Dataset, copy: xr.Dataset) -> None:
    assert copy.ffn.dtype == np.float32
    np.testing.assert_array_equal(copy.ffn.values, dataset.ffn.values)
    np.testing.assert_array_equal(copy.hidden.values, dataset.hidden.values)
    for name in dataset.coords:
        found, want = copy[name].values, dataset[name].values
        if want.dtype.kind == "M":
            np.testing.assert_array_equal(found.astype("datetime64[s]"), want)
        else:
            assert found.tolist() == pytest.approx(want.tolist(), nan_ok=True)
    assert copy["sample"].values[0] == dataset["sample"].values[0]
    assert copy.attrs == dataset.attrs and copy.ffn.attrs == dataset.ffn.attrs


def test_frames_and_parquet(path: Path, tmp_path: Path) -> None:
    chosen = open_dataset(path).ffn.sel(layer=1, pooling="max", neuron=[3, 1])
    frame = chosen.to_dataframe().reset_index()
    frame.to_parquet(tmp_path / "t.parquet")
    again = pd.read_parquet(tmp_path / "t.parquet")
    wide = again.pivot(index="sample", columns="neuron", values="ffn").loc[["id9", "id2"]]
    places = [LIVING.index(9), LIVING.index(2)]
    np.testing.assert_array_equal(wide[[1, 3]].to_numpy(), FULL[1, 1][[1, 3]][:, places].T)
    assert again["created_at"].isna().sum() == 2 * sum(n % 5 == 0 for n in LIVING)
    assert again["ffn"].dtype == np.float32
