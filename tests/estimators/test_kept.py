"""Kept activations: computed once, bounded, never taken from under another process."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.estimators import SalientClassifier
from pipeline.estimators.kept import kept_activations, make_room, remove
from pipeline.extraction.extractor import Extractor
from store import ActivationStore, StoreSchema
from tests.builders.moods import Moods

SCHEMA = StoreSchema(num_layers=2, neuron_size=8, hidden_size=4, hidden_layers=(2,))
KEYS = [f"{number:024x}" for number in range(3)]


def entry(root: Path, key: str, size: int, used_at: int) -> None:
    """An entry of so many bytes that was used at some time."""
    with kept_activations(root, key, SCHEMA, ids=[], most_bytes=10**9) as place:
        place.golden.write_bytes(b"x" * size)
    os.utime(root / f"{key}.lock", (used_at, used_at))


def test_a_second_fit_computes_nothing(
    quick: dict[str, Any],
    moods: Moods,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = quick | {"cache": tmp_path, "progress": True}
    first = SalientClassifier(**own).fit(moods.texts[:100], moods.mood[:100])
    said = capsys.readouterr().err
    assert said.count(f"activations are kept in {tmp_path}, up to 20 GB") == 1
    computed: list[int] = []
    compute = Extractor.compute

    def counted(self: Extractor, encoded: Any, **options: Any) -> Any:
        computed.append(len(encoded))
        return compute(self, encoded, **options)

    monkeypatch.setattr(Extractor, "compute", counted)
    again = SalientClassifier(**own).fit(moods.texts[:100], moods.mood[:100])
    assert computed == [] and "kept" not in capsys.readouterr().err
    assert again.head_.fingerprint == first.head_.fingerprint
    SalientClassifier(**own).fit(moods.texts, moods.mood)
    assert computed == [20]  # of the new texts alone
    (store,) = tmp_path.glob("*/store")
    samples = ActivationStore.open(store).samples()
    assert len(samples) == 120 and samples["text"].null_count == 120
    for path in tmp_path.rglob("*"):  # hashes only
        assert path.is_dir() or moods.texts[0].encode() not in path.read_bytes()


def test_long_work_is_shown(
    fitted: SalientClassifier, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clf = copy.copy(fitted).set_params(progress=True)
    clf.predict(["sad dog", "glad cat"])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("pipeline.estimators.learning.SHOW_AFTER_S", 0)
    clf.transform(["sad dog", "glad cat"])
    assert "computed 2 of 2 texts" in capsys.readouterr().err


def test_other_settings_are_another_store(
    quick: dict[str, Any], moods: Moods, tmp_path: Path
) -> None:
    own = quick | {"cache": tmp_path}
    few = moods.part(0, 60)
    SalientClassifier(**own).fit(few.texts, few.mood)
    config = own["config"] | {"backbone": {"max_length": 8}}
    SalientClassifier(**own | {"config": config}).fit(few.texts, few.mood)
    assert len([*tmp_path.glob("*/store")]) == 2


@pytest.mark.parametrize("cache", [False, "full", "folder"])
def test_without_room_nothing_is_kept(
    quick: dict[str, Any], moods: Moods, tmp_path: Path, cache: Any, own_cache: Path
) -> None:
    few, own = moods.part(0, 60), quick | {"progress": False}
    if cache == "folder":  # that cannot be made
        (tmp_path / "file").write_text("mine")
        own |= {"cache": tmp_path / "file/cache"}
    elif cache == "full":
        own |= {"cache": tmp_path, "cache_bytes": 1000}
    else:
        own |= {"cache": False}
    clf = SalientClassifier(**own).fit(few.texts, few.mood)
    assert clf.predict(few.texts).shape == (60,)
    assert not [*tmp_path.glob("*/store")] and not (own_cache / "activations").exists()


def test_a_damaged_store_is_made_again(
    quick: dict[str, Any],
    moods: Moods,
    tmp_path: Path,
    fitted: SalientClassifier,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = quick | {"cache": tmp_path, "progress": True}
    SalientClassifier(**own).fit(moods.texts, moods.mood)
    for shard in tmp_path.glob("*/store/ffn/c/**/*"):
        if shard.is_file():
            data = bytearray(shard.read_bytes())
            data[: len(data) // 2] = bytes(len(data) // 2)
            shard.write_bytes(data)
    again = SalientClassifier(**own).fit(moods.texts, moods.mood)
    assert "made again" in capsys.readouterr().err
    assert np.allclose(again.predict_proba(["sad dog"]), fitted.predict_proba(["sad dog"]))


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    for key, used_at in zip(KEYS, (300, 100, 200), strict=True):
        entry(tmp_path, key, 100_000, used_at)
    (tmp_path / "poetry.lock").write_text("mine")
    (tmp_path / "poetry").mkdir()
    assert make_room(tmp_path, 250_000, keep=KEYS[0]) < 250_000
    assert [(tmp_path / key).exists() for key in KEYS] == [True, True, True]
    make_room(tmp_path, 150_000, keep=KEYS[0])
    assert [(tmp_path / key).exists() for key in KEYS] == [True, False, True]
    make_room(tmp_path, 0, keep=KEYS[0])
    assert [(tmp_path / key).exists() for key in KEYS] == [True, False, False]
    assert (tmp_path / "poetry").is_dir()


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    entry(tmp_path, KEYS[1], 100_000, 100)
    with kept_activations(tmp_path, KEYS[1], SCHEMA, ids=[], most_bytes=10**9):
        assert remove(tmp_path, KEYS[1]) is False  # locks are between open files, not processes
    assert (tmp_path / KEYS[1]).exists()
    assert remove(tmp_path, KEYS[1]) is True
    assert not (tmp_path / KEYS[1]).exists()


def test_only_its_own_is_removed(tmp_path: Path) -> None:
    for name in (".gone-fishing", f".gone-12-{KEYS[1]}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.jpg").write_text("mine")
    entry(tmp_path, KEYS[0], 1000, 100)
    assert [path.name for path in tmp_path.glob(".gone-*")] == [".gone-fishing"]
    assert (tmp_path / ".gone-fishing/photo.jpg").exists()


def test_what_must_go_anyway_goes_alone(tmp_path: Path) -> None:
    for key, used_at in zip(KEYS, (100, 200, 300), strict=True):
        entry(tmp_path, key, 100_000, used_at)
    ids, most = ["a", "b"], 250_000  # two others fit, this one and what it gets do not
    (tmp_path / KEYS[0] / "golden.safetensors").write_bytes(b"x" * most)
    with kept_activations(tmp_path, KEYS[0], SCHEMA, ids=ids, most_bytes=most) as place:
        assert not place.golden.exists()
        assert [(tmp_path / key).exists() for key in KEYS[1:]] == [True, True]


def test_others_in_use_are_no_reason_to_begin_anew(tmp_path: Path) -> None:
    for key in KEYS[:2]:
        entry(tmp_path, key, 100_000, 100)
    with (
        kept_activations(tmp_path, KEYS[1], SCHEMA, ids=[], most_bytes=10**9),
        kept_activations(tmp_path, KEYS[0], SCHEMA, ids=["a"], most_bytes=150_000) as place,
    ):
        assert place.golden.exists() and (tmp_path / KEYS[1]).exists()


def test_other_versions_are_another_store(
    quick: dict[str, Any], moods: Moods, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, few = quick | {"cache": tmp_path}, moods.part(0, 60)
    SalientClassifier(**own).fit(few.texts, few.mood)
    monkeypatch.setattr("pipeline.backbone.transformer.version", lambda name: "99.0")
    SalientClassifier(**own).fit(few.texts, few.mood)
    assert len([*tmp_path.glob("*/store")]) == 2


def test_a_store_that_has_grown_too_large_begins_anew(tmp_path: Path) -> None:
    entry(tmp_path, KEYS[0], 100_000, 100)
    ids = ["a", "b"]
    assert 2 * SCHEMA.bytes_per_sample < 50_000
    with kept_activations(tmp_path, KEYS[0], SCHEMA, ids=ids, most_bytes=50_000) as place:
        assert place.kept and not place.golden.exists()
