"""Activations as a Hugging Face dataset."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from store import ActivationStore, DamagedShardError, SalientError, StoreError, open_dataset
from tests.builders.bucket_store import to_bucket
from tests.builders.store_dataset import FULL, LIVING, flip, make, make_even


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("hub") / "s")


def test_without_datasets_one_line_names_the_extra(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SalientError, match=r"pip install .+\[hub\]'"):
        ActivationStore.open(path).to_hf_dataset()


@pytest.mark.filterwarnings("ignore")  # datasets is not ours to mend
def test_rows_come_lazily(path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    found = ActivationStore.open(path).to_hf_dataset(layers=[2, 0], units=[3, 1], labels=["mood"])
    assert isinstance(found, datasets.IterableDataset)
    rows = list(found.with_format("numpy"))
    assert [str(row["id"]) for row in rows] == [f"id{n}" for n in LIVING]
    want = FULL[[2, 0]][:, :, [3, 1]]
    np.testing.assert_array_equal([row["ffn"] for row in rows], np.moveaxis(want, -1, 0))
    first = next(iter(found))
    assert first["text"] == "text 0 ü" and first["label_mood"] == "joy"
    assert first["created_at"] == "" and first["split_mood"] == "train"
    assert str(rows[1]["created_at"]) == "2023-11-15T01:13:20Z"
    assert "label_heat" not in first


@pytest.mark.filterwarnings("ignore")
def test_of_any_selection(path: Path) -> None:
    pytest.importorskip("datasets")
    chosen = open_dataset(path, text=False).sel(layer=1, pooling="max", sample=["id9", "id2"])
    rows = list(chosen.to_hf_dataset())
    assert [row["id"] for row in rows] == ["id9", "id2"] and "text" not in rows[0]
    places = [LIVING.index(9), LIVING.index(2)]
    np.testing.assert_array_equal([row["ffn"] for row in rows], FULL[1, 1][:, places].T)
    one = next(iter(chosen.sel(neuron=3).to_hf_dataset()))
    assert one["ffn"] == FULL[1, 1, 3, places[0]]


@pytest.mark.filterwarnings("ignore")
def test_rows_of_a_bucket_are_the_disks(path: Path, memory_bucket: str) -> None:
    pytest.importorskip("datasets")
    to_bucket(path, memory_bucket)
    rows = [
        list(ActivationStore.open(place).to_hf_dataset(layers=[2], units=[1, 3]))
        for place in (path, memory_bucket)
    ]
    assert len(rows[0]) == 35 and repr(rows[0]) == repr(rows[1])


@pytest.mark.filterwarnings("ignore")
def test_errors_name_the_choices(path: Path) -> None:
    pytest.importorskip("datasets")
    store = ActivationStore.open(path)
    with pytest.raises(StoreError, match="it holds layers 0, 1, 2"):
        store.to_hf_dataset(layers=[9])
    with pytest.raises(StoreError, match="valid are 0 to 4"):
        store.to_hf_dataset(units=[5])
    with pytest.raises(StoreError, match="mood, heat"):
        open_dataset(path).to_hf_dataset(labels=["moot"])
    with pytest.raises(StoreError, match=r'no axis `sample` here.*sample=\["id"\]'):
        open_dataset(path).sel(sample="id1").to_hf_dataset()
    with pytest.raises(StoreError, match="ffn, hidden"):
        open_dataset(path).to_hf_dataset("fnn")
    assert "label_mood" in next(iter(open_dataset(path).to_hf_dataset(labels="mood")))
    with pytest.raises(StoreError, match="no samples"):
        open_dataset(path).isel(sample=[]).to_hf_dataset()


@pytest.mark.filterwarnings("ignore")
def test_damage_ends_the_rows(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    root = make_even(tmp_path / "s", texts=1024, size=1024)
    flip(root, slot=0, row=1, sample=1000)
    for dataset in (open_dataset(root), open_dataset(root, chunks={"sample": 64})):
        with pytest.raises(DamagedShardError):
            list(dataset.to_hf_dataset())
