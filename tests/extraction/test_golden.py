from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.backbone.loading import load_backbone
from pipeline.errors import ScoreError
from pipeline.extraction.extractor import Extractor
from pipeline.extraction.golden import (
    GOLDEN_TEXTS,
    Golden,
    golden_activations,
    read_golden,
    read_outputs,
    write_golden,
    write_outputs,
)
from store.layout import Source, ffn
from store.tables import read_arrays, write_arrays
from tests.builders.models import FFN_WIDTH, LAYERS


@pytest.fixture(scope="module")
def extractor(tiny_bert: Path) -> Extractor:
    return Extractor(load_backbone(tiny_bert), hidden="all")


def test_a_record_has_all_layers_rounded_as_stored(extractor: Extractor, tmp_path: Path) -> None:
    write_golden(tmp_path / "golden.safetensors", extractor, stored_dtype="float16")
    found = read_golden(tmp_path / "golden.safetensors")
    layers = [ffn(i) for i in range(LAYERS)] + [Source("hidden", i) for i in range(LAYERS + 1)]
    assert found is not None and sorted(found) == layers
    expected = extractor(GOLDEN_TEXTS)
    for (site, layer), values in found.items():
        width = FFN_WIDTH if site == "ffn" else extractor.backbone.hidden_size
        assert values.shape == (len(GOLDEN_TEXTS), 2 * width) and values.dtype == np.float32
        assert np.array_equal(values, values.astype(np.float16).astype(np.float32))
        stored = getattr(expected, site)[layer].reshape(2 * width, -1).T
        np.testing.assert_allclose(values, stored, rtol=1e-3, atol=1e-6)
    assert read_golden(tmp_path / "none.safetensors") is None


def test_a_record_is_written_once_for_an_extraction(extractor: Extractor, tmp_path: Path) -> None:
    path = tmp_path / "golden.safetensors"
    write_golden(path, extractor, stored_dtype="float16")
    before = path.stat().st_mtime_ns
    write_golden(path, extractor, stored_dtype="float16")
    assert path.stat().st_mtime_ns == before
    other = Extractor(extractor.backbone, hidden="none", poolings=("max",))
    write_golden(path, other, stored_dtype="float16")
    found = read_golden(path)
    assert found is not None and found[ffn(0)].shape == (len(GOLDEN_TEXTS), FFN_WIDTH)


def test_a_head_written_again_keeps_no_values_of_another(tmp_path: Path) -> None:
    outputs = np.zeros((len(GOLDEN_TEXTS), 1))
    stored = {ffn(0): np.ones((len(GOLDEN_TEXTS), 4), np.float32)}
    write_outputs(tmp_path, outputs, features={ffn(0): np.arange(2)}, activations=stored)
    first = read_outputs(tmp_path)
    assert first is not None and set(first.features) == {ffn(0)}
    write_outputs(tmp_path, outputs, features={}, activations=stored)
    again = read_outputs(tmp_path)
    assert again is not None and not again.features and not again.activations


def test_what_a_record_lacks_is_added(extractor: Extractor, tmp_path: Path) -> None:
    """As in one of an earlier version, which had FFN layers only."""
    path = tmp_path / "golden.safetensors"
    few = Extractor(extractor.backbone, hidden="none")
    write_golden(path, few, stored_dtype="float16")
    arrays = read_arrays(path)
    arrays["layer_001"] += 1  # stands for what other libraries gave
    write_arrays(path, arrays)
    write_golden(path, few, stored_dtype="float16")
    write_golden(path, extractor, stored_dtype="float16")
    found = read_golden(path)
    assert found is not None and len(found) == 2 * LAYERS + 1
    np.testing.assert_array_equal(found[ffn(1)], arrays["layer_001"])


def test_what_an_older_version_recorded_stays(tiny_bert: Path, tmp_path: Path) -> None:
    path = tmp_path / "golden.safetensors"
    before, now = (load_backbone(tiny_bert) for _ in range(2))
    assert before.older_fingerprint is not None
    before.fingerprint = before.older_fingerprint()  # as it was known then
    write_golden(path, Extractor(before, hidden="none"), stored_dtype="float16")
    first = read_arrays(path)
    write_golden(path, Extractor(now), stored_dtype="float16")
    both = read_arrays(path)
    assert len(both) > len(first)
    for name, values in first.items():
        np.testing.assert_array_equal(both[name], values)


def test_the_texts_differ_in_kind(extractor: Extractor) -> None:
    assert len(set(GOLDEN_TEXTS)) == len(GOLDEN_TEXTS) == 8
    lengths = extractor(GOLDEN_TEXTS).n_tokens
    assert lengths.min() <= 3 and lengths.max() == extractor.backbone.max_length
    layers = golden_activations(extractor, stored_dtype="float32")
    assert all(len(np.unique(values, axis=0)) == len(GOLDEN_TEXTS) for values in layers.values())


def test_outputs_are_recorded_beside_a_head(tmp_path: Path) -> None:
    outputs = np.array([[1.0, -2.0], [0.5, 4.0]], np.float32)
    write_outputs(tmp_path, outputs, texts=("a", "b"))
    golden = read_outputs(tmp_path)
    assert golden is not None and golden.texts == ("a", "b")
    assert golden.difference(outputs) == 0
    assert golden.difference(outputs + 0.04) == pytest.approx(0.01)
    assert read_outputs(tmp_path / "old") is None


@pytest.mark.parametrize(
    "content", [{}, {"texts": ["a"], "outputs": [[1.0], [2.0]]}, {"texts": ["a"], "outputs": ["x"]}]
)
def test_a_damaged_record_is_refused(content: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "golden.json").write_text(json.dumps(content))
    with pytest.raises(ScoreError, match=r"golden\.json: no record of golden outputs"):
        read_outputs(tmp_path)


def test_a_difference_is_relative_to_the_largest_output() -> None:
    golden = Golden(("a",), np.zeros((1, 2)))
    assert golden.difference(np.zeros((1, 2))) == 0
    assert golden.difference(np.ones((1, 2))) > 1
    assert np.isnan(golden.difference(np.full((1, 2), np.nan)))
