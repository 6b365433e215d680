"""The map of texts: principal components of a layer, whatever the store is cut into."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from pipeline.errors import ConfigError
from pipeline.explorer import projection
from pipeline.explorer.atlas import Atlas
from pipeline.explorer.projection import TextMap, project
from pipeline.explorer.sources import Sources
from store import ActivationStore
from store.layout import ffn
from tests.builders.neurons import write_store


def expected(data: np.ndarray, layer: int, alive: np.ndarray) -> np.ndarray:
    x = data[layer].reshape(10, -1).T[alive].astype(np.float64)
    x = (x - x.mean(0)) / x.std(0)
    return np.asarray(PCA(2, svd_solver="full").fit_transform(x))


def test_the_map_is_the_principal_components(tmp_path: Path) -> None:
    data = write_store(tmp_path / "s")
    told: list[float] = []
    found = project(ActivationStore.open(tmp_path / "s"), ffn(1), progress=told.append)
    assert found.positions.tolist() == list(range(150)) and told[-1] == 1 and len(told) == 3
    wanted = expected(data, 1, np.arange(150))
    for own, other in zip(found.xy.T, wanted.T, strict=True):
        assert abs(np.corrcoef(own, other)[0, 1]) > 0.999
    assert 0 < found.explained[1] <= found.explained[0] < 1
    (left, right), (low, high) = found.window()
    assert left < np.median(found.xy[:, 0]) < right and low < np.median(found.xy[:, 1]) < high
    assert found.nearest(*map(float, found.xy[17]), 3)[0] == 17
    assert len(found.nearest(0.0, 0.0, 10**6)) == 150


def test_deleted_texts_are_not_on_the_map(tmp_path: Path) -> None:
    data = write_store(tmp_path / "s")
    ActivationStore.open(tmp_path / "s").delete(["id3", "id64"])
    found = project(ActivationStore.open(tmp_path / "s"), ffn(0))
    alive = np.array([i for i in range(150) if i not in (3, 64)])
    assert found.positions.tolist() == alive.tolist() and np.isfinite(found.xy).all()
    wanted = expected(data, 0, alive)
    assert abs(np.corrcoef(found.xy[:, 0], wanted[:, 0])[0, 1]) > 0.999


def test_a_fit_on_few_texts_places_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(tmp_path / "s")
    monkeypatch.setattr(projection, "FIT_BYTES", 4 * 10 * 40)
    monkeypatch.setattr(projection, "FIT_SHARDS", 2)
    monkeypatch.setattr(projection, "ROWS_AT_ONCE", 7)
    found = project(ActivationStore.open(tmp_path / "s"), ffn(0))
    assert len(found.xy) == 150 and np.isfinite(found.xy).all()


def test_too_few_texts_are_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "s", num_samples=2)
    with pytest.raises(ConfigError, match="at least 3 texts; the store has 2"):
        project(ActivationStore.open(tmp_path / "s"), ffn(0))


def test_maps_are_made_once_and_the_last_few_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.explorer import sources as module

    write_store(tmp_path / "s")
    made: list[int] = []

    def count(_: object, source: object, **__: object) -> TextMap:
        made.append(source.layer)
        return TextMap(source, np.arange(3), np.zeros((3, 2)), (0.5, 0.5))

    monkeypatch.setattr(module, "project", count)
    monkeypatch.setattr(module, "MAX_MAPS", 1)
    sources = Sources("s", Atlas.open(tmp_path / "s"), None)
    first = sources.text_map(ffn(0))
    assert sources.text_map(ffn(0)) is first and made == [0]
    sources.text_map(ffn(1))
    sources.text_map(ffn(0))
    assert made == [0, 1, 0]
