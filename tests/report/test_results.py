"""A run as xarray and pandas: aligned with the store, equal to what the run keeps."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pipeline.config import RunConfig
from pipeline.errors import ConfigError, ProbeError
from pipeline.neurons.tables import importance_cube
from pipeline.probes.importance import read_importance
from pipeline.probes.model import Probe, load_probe
from pipeline.report.labelnoise import read_label_doubts
from pipeline.report.results import RunResults, open_results
from pipeline.runfolder import RunFolder, read_metrics, read_sweep
from store import ActivationStore, open_dataset
from store.layout import Source
from store.tables import read_json, write_json
from tests.builders.paths import ROOT
from tests.builders.runs import TOPICS, write_topics_run

SITES_HERE = ("ffn", "hidden")
LACKING = ("torch", "transformers", "tokenizers", "distributed", "bokeh", "holoviews", "panel")
"""What an install without extras does not have."""


@pytest.fixture(scope="module")
def results(finished_run: Path) -> RunResults:
    return open_results(finished_run)


def test_importance_is_the_norm_of_the_weights_and_that_of_the_tables(
    results: RunResults,
) -> None:
    assert results.tasks == ("mood", "level") and list(results.importance) == ["mood", "level"]
    for task in results.tasks:
        importance, weights = results.importance[task], results.weights[task]
        for site in ("ffn", "hidden"):
            norm = np.sqrt(np.square(weights[site].astype(np.float64)).sum("output"))
            xr.testing.assert_allclose(importance[site], norm.astype(np.float32))
            xr.testing.assert_equal(importance[f"{site}_by_output"], np.abs(weights[site]))
        cube, poolings = importance_cube(read_importance(RunFolder(results.path), task))
        assert importance.ffn.dims == ("layer", "pooling", "neuron")
        assert importance.pooling.values.tolist() == list(poolings)
        assert np.array_equal(importance.ffn, cube)
        assert importance.ffn.attrs["units"] == "1" and importance.ffn.attrs["long_name"]


@pytest.mark.parametrize("task", ["mood", "level"])
@pytest.mark.parametrize(
    ("site", "dims"),
    [("ffn", ("pooling", "neuron")), ("hidden", ("pooling", "hidden_unit"))],
)
def test_weights_and_stored_activations_align(
    results: RunResults, task: str, site: str, dims: tuple[str, str]
) -> None:
    """The documented product is what each layer's probe says."""
    store = ActivationStore.open(results.config.store.path)
    x, w = open_dataset(results.config.store.path, labels=[])[site], results.weights[task]
    bound = w[f"{site}_bound"]
    z = ((x - w[f"{site}_mean"]) / w[f"{site}_scale"]).clip(-bound, bound)
    outputs = xr.dot(z, w[site], dim=dims) + w[f"{site}_intercept"]
    layer_axis = outputs.dims[0]
    assert outputs.output.values.tolist() == {"mood": ["sad"], "level": ["level"]}[task]
    positions = np.arange(store.num_samples)
    for layer in outputs[layer_axis].values:
        probe = load_probe(RunFolder(results.path), task, Source(site, int(layer)))
        wanted = probe.outputs(store.read_matrix(site, layer=int(layer), samples=positions))
        found = outputs.sel({layer_axis: layer}).transpose("sample", "output")
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_parts_are_read_from_the_files_they_need(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    from_file = Probe.read

    def counting(path: Path) -> Probe:
        read.append(path.stem)
        return from_file(path)

    monkeypatch.setattr(Probe, "read", counting)
    results = open_results(finished_run)
    weights = results.weights["mood"]
    assert read == ["hidden_000", "layer_000"]  # one of each site, for its shape
    one = weights.ffn.sel(layer=1, pooling="max", neuron=[3, 9])
    assert one.shape == (2, 1) and len(read) == 2
    whole = from_file(RunFolder(Path(results.path)).probe("mood", "layer_001.safetensors"))
    width = whole.weights.shape[1] // 2
    assert np.array_equal(one.values[:, 0], whole.weights[0, [width + 3, width + 9]])
    assert read == ["hidden_000", "layer_000", "layer_001"]
    assert weights.ffn.isel(layer=slice(0, 0)).values.shape[0] == 0
    assert np.array_equal(
        weights.ffn.isel(layer=[1], neuron=[5, 2]).values,
        np.asarray(weights.ffn.values)[[1]][:, :, [5, 2]],
    )
    weights.load(), results.importance["mood"].load()
    assert len(read) == len(set(read)) == sum(weights[f"{one}_bound"].size for one in SITES_HERE)


def test_another_process_can_read_them(results: RunResults) -> None:
    """By pickle, as dask's processes and joblib send things."""
    for dataset in (results.weights["mood"], results.importance["mood"]):
        for sent in (dataset, dataset.chunk()):
            again = pickle.loads(pickle.dumps(sent))  # noqa: S301
            xr.testing.assert_identical(again.compute(), dataset.compute())


def test_axes_are_called_as_in_the_store(results: RunResults) -> None:
    store = open_dataset(results.config.store.path)
    weights = results.weights["mood"]
    for name in weights.coords:
        if name != "output":
            assert weights[name].attrs == store[name].attrs and weights[name].identical(store[name])


def test_tables_are_pandas_and_the_rest_plain(results: RunResults) -> None:
    folder = RunFolder(results.path)
    assert results.sweep["mood"].columns.tolist() == read_sweep(folder, "mood").column_names
    assert results.metrics["mood"] == read_metrics(folder)["tasks"]["mood"]
    chosen = results.chosen["mood"]
    assert chosen["kind"] == results.metrics["mood"]["chosen"]["kind"]
    doubted = results.doubted_labels["mood"]
    assert {"id", "text", "given", "likely", "doubt"} <= {*doubted.columns}
    assert read_label_doubts(results.path)["mood"].table.to_pandas().equals(doubted)
    table = results.importance["mood"].ffn.to_dataframe()
    assert table.index.names == ["layer", "pooling", "neuron"]
    with pytest.raises(KeyError, match=r"no task 'moods': the run has mood, level\. did you mean"):
        results.weights["moods"]


def test_doubts_are_of_the_snapshot_that_the_heads_are_of(own_run: RunConfig) -> None:
    """Not of a later one, whose probes alone were fitted."""
    folder = Path(own_run.run_dir)
    write_json(folder / "run.json", {**read_json(folder / "run.json"), "snapshot": "later"})
    doubted = open_results(folder).doubted_labels["mood"]
    assert doubted.equals(read_label_doubts(folder)["mood"].table.to_pandas())


def test_it_says_what_it_is(results: RunResults) -> None:
    shown, page = repr(results), results._repr_html_()
    for word in ("mood", "level", results.metrics["mood"]["chosen"]["kind"], " blocks"):
        assert word in shown and word in page
    assert "mood, level" in repr(results.weights)


def test_weights_are_written_and_read_again(results: RunResults, tmp_path: Path) -> None:
    weights = results.weights["mood"]
    assert all(isinstance(value, str) for value in weights.attrs.values())
    store = ActivationStore.open(results.config.store.path)
    assert weights.attrs["fingerprint"] == store.schema.fingerprint
    weights.to_zarr(tmp_path / "weights.zarr", consolidated=False)
    again = xr.open_zarr(tmp_path / "weights.zarr", consolidated=False)
    xr.testing.assert_equal(again.load(), weights.load())


def test_label_sets_have_an_output_for_each_label(tmp_path: Path, tiny_bert: Path) -> None:
    """Of probes alone: no head is there so far."""
    from pipeline import stages

    config = write_topics_run(tmp_path, tiny_bert, num_rows=80)
    loaded = RunConfig.load(config)
    stages.extract(loaded)
    stages.probe(loaded)
    results = open_results(config)
    assert not results.finished and "not finished" in repr(results)
    assert results.weights["topics"].output.values.tolist() == list(TOPICS)
    assert results.importance["topics"].ffn_by_output.sel(output="glad").values.any()
    with pytest.raises(ConfigError, match="consolidate"):
        results.metrics["topics"]


def test_what_is_no_run_is_refused(own_run: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run"):
        open_results(tmp_path / "nothing")
    with pytest.raises(ProbeError, match="no run here"):
        open_results(own_run.store.path)
    probes = Path(own_run.run_dir) / "probes" / "mood"
    for path in probes.iterdir():
        path.unlink()
    with pytest.raises(ProbeError, match="no probes of task 'mood'; run `salient probe` first"):
        open_results(own_run.run_dir).weights["mood"]


@pytest.mark.parametrize("version", ["1", "2"])
def test_runs_of_every_version_open(version: str) -> None:
    results = open_results(ROOT / "tests" / "formats" / version / "run")
    for task in results.tasks:
        importance = results.importance[task].load()
        assert np.isfinite(importance.ffn).all() and "hidden" in importance
        assert len(results.sweep[task]) and results.chosen[task]["task"] == task


def test_neither_torch_nor_the_store_is_needed(own_run: RunConfig) -> None:
    import shutil

    shutil.rmtree(own_run.store.path)
    code = f"""
import json, sys
class Lacking:
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {LACKING!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Lacking())
from pipeline.report import open_results
run = open_results({own_run.run_dir!r})
found = run.weights["mood"].ffn
print(json.dumps([list(found.shape), float(abs(found).sum()), repr(run)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    shape, total, shown = json.loads(done.stdout)
    assert shape[1] == 2 and total > 0 and "mood" in shown
