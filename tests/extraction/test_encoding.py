"""Encoded texts: the store's numbers, the model's own, labelled; bad texts are named."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import xarray as xr
from transformers import AutoModel, AutoTokenizer

from pipeline.backbone.loading import load_backbone
from pipeline.config import NormaliseConfig
from pipeline.errors import BackboneError, ConfigError, CorpusError, ExtractError
from pipeline.extraction import encoding, loaded
from pipeline.extraction.encoding import encode, encode_stream
from pipeline.extraction.loaded import forget_model, kept_model, model_section
from pipeline.extraction.storing import StoreOptions, extract_corpus
from store import ActivationStore
from tests.builders.models import FFN_WIDTH, LAYERS, TEXTS, make_tiny_model, random_texts


@pytest.fixture(scope="module")
def model(tiny_bert: Path) -> str:
    return str(tiny_bert)


@pytest.fixture(scope="module")
def many() -> list[str]:
    """Some of them twice."""
    texts = [*TEXTS, *random_texts(700, seed=1)]
    return [*texts, *texts[5:90:7]]


def test_numbers_are_those_that_are_stored(model: str, many: list[str], tmp_path: Path) -> None:
    """To the last bit, in the same type; float16 is float32 rounded to the nearest."""
    sites = ("ffn", "hidden")
    found = encode(many, model, sites=sites, peaks=True, normalise=False)
    table = pa.table({"id": [str(i) for i in range(len(many))], "text": many})
    for dtype in ("float32", "float16"):
        options = StoreOptions(sites=sites, peaks=True, dtype=dtype)  # type: ignore[arg-type]
        extract_corpus(table, load_backbone(model), tmp_path / dtype, options)
        store = ActivationStore.open(tmp_path / dtype)
        rows = store.positions([str(i) for i in range(len(many))])
        stored = store.to_xarray(dtype=None).isel(sample=rows)
        for name in ("ffn", "hidden", "peak"):
            assert found[name].dtype == np.float32
            expected = found[name].values.astype(dtype)
            np.testing.assert_array_equal(stored[name].values, expected, strict=True)
    small = encode(many, model, sites=sites, dtype="float16", normalise=False)
    np.testing.assert_array_equal(small.ffn.values, stored.ffn.values, strict=True)
    for name in stored.drop_vars(["created_at", "text_hash"]).coords:
        if name != "sample":  # of a text that is there twice a store has the first id alone
            np.testing.assert_array_equal(found[name].values, stored[name].values)
        assert found[name].dims == stored[name].dims
        assert found[name].dtype == stored[name].dtype and found[name].attrs == stored[name].attrs
    of_a_store = {"snapshot", "provenance", "fingerprint"}
    plain = {key: value for key, value in stored.attrs.items() if key not in of_a_store}
    assert plain.items() <= (found.attrs | {"backbone": "unknown"}).items()
    assert found.attrs["backbone"] == model


def test_numbers_are_those_of_the_model(model: str) -> None:
    """By its own forward pass, one text at a time."""
    texts = [text for text in TEXTS if text]
    found = encode(texts, model, sites=["hidden", "ffn"])
    plain, tokenizer = AutoModel.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    inner: dict[int, torch.Tensor] = {}
    for number, layer in enumerate(plain.encoder.layer):
        layer.intermediate.register_forward_hook(
            lambda *taken, number=number: inner.update({number: taken[2][0]})
        )
    for text, sample in zip(texts, found.sample.values, strict=True):
        ids = tokenizer(text, truncation=True, max_length=48, return_tensors="pt")
        with torch.inference_mode():
            states = plain(**ids, output_hidden_states=True).hidden_states
        own = found.sel(sample=sample)
        for number, tokens in [*enumerate(states)]:
            expected = np.stack([tokens[0].mean(0), tokens[0].amax(0)])
            np.testing.assert_allclose(own.hidden.sel(hidden_layer=number), expected, atol=2e-6)
        for number, tokens in inner.items():
            expected = np.stack([tokens.mean(0), tokens.amax(0)])
            np.testing.assert_allclose(own.ffn.sel(layer=number), expected, atol=2e-6)


def test_an_array_is_labelled(model: str) -> None:
    found = encode(["the cat", "@anna ran"], model, ids=["a", 7], poolings=["last", "max"])
    assert found.name == "ffn" and found.dims == ("layer", "pooling", "neuron", "sample")
    assert found.shape == (LAYERS, 2, FFN_WIDTH, 2)
    assert found.pooling.values.tolist() == ["last", "max"]
    assert found.attrs["backbone"] == model and found.attrs["units"] == "1"
    assert found.sample.values.tolist() == ["a", "7"]
    assert found.text.sel(sample="7").item() == "@user ran"
    assert not {"created_at", "text_hash"} & set(found.coords)
    assert encode(["@anna ran"], model, normalise=False).text.item() == "@anna ran"
    one = encode(["@a &amp;"], model, normalise={"users": False})
    assert one.text.item() == "@a &"
    assert encode(["@a &amp;"], model, normalise=NormaliseConfig(users=False)).equals(one)
    hidden = encode(["the cat"], model, sites="hidden")
    assert hidden.dims == ("hidden_layer", "pooling", "hidden_unit", "sample")


def test_float16_can_be_written_as_netcdf(model: str, tmp_path: Path) -> None:
    found = encode(["a", "b"], model, dtype="float16")
    assert found.dtype == np.float16
    with dask.config.set(scheduler="threads"):  # whatever cluster a test before had
        found.isel(layer=[0]).to_netcdf(tmp_path / "some.nc", engine="h5netcdf")
    again = xr.open_dataarray(tmp_path / "some.nc", engine="h5netcdf")
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, found.isel(layer=[0]))


def test_only_some_layers_run_no_deeper(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encode(TEXTS, model, sites=("ffn", "hidden"))
    reached: list[int] = []
    backbone = kept_model(encoding.BackboneConfig(model=model))
    for number in range(LAYERS):
        block = backbone.network.get_submodule(f"encoder.layer.{number}")
        block.register_forward_pre_hook(lambda *_, number=number: reached.append(number))
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "kept_model", lambda *_, **__: backbone)
        found = encode(TEXTS, model, layers=[1, 0])
    assert set(reached) == {0, 1}
    assert found.layer.values.tolist() == [1, 0]
    np.testing.assert_array_equal(found, whole.ffn.sel(layer=[1, 0]))
    last = encode(TEXTS, model, layers=[-1])
    np.testing.assert_array_equal(last, whole.ffn.sel(layer=[LAYERS - 1]))
    both = encode(TEXTS, model, sites=("ffn", "hidden"), layers={"ffn": [0], "hidden": [-1, 0]})
    np.testing.assert_array_equal(both.ffn, whole.ffn.sel(layer=[0]))
    np.testing.assert_array_equal(both.hidden, whole.hidden.sel(hidden_layer=[LAYERS, 0]))


@pytest.mark.parametrize(
    "kind", ["list", "tuple", "numpy", "series", "polars", "arrow", "generator"]
)
def test_texts_come_in_many_forms(kind: str, model: str) -> None:
    polars = pytest.importorskip("polars", reason="needs the extra: salient-neurons[dev]")
    texts = ["the cat", "", "a dog"]
    forms: dict[str, Any] = {
        "list": texts,
        "tuple": tuple(texts),
        "numpy": np.array(texts),
        "series": pd.Series(texts, index=[4, 4, 9]),
        "polars": polars.Series(texts),
        "arrow": pa.chunked_array([texts]),
        "generator": (text for text in texts),
    }
    found = encode(forms[kind], model, layers=[0])
    assert found.text.values.tolist() == texts
    np.testing.assert_array_equal(found, encode(texts, model, layers=[0]))


def test_no_texts_make_an_empty_array(model: str, tmp_path: Path) -> None:
    assert encode([], model).shape == (LAYERS, 2, FFN_WIDTH, 0)
    assert encode([], model, out=tmp_path / "s").shape == (LAYERS, 2, FFN_WIDTH, 0)
    assert list(encode_stream([], model)) == []


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ("a text", r"'a text' \(str\) is a single one; give a list"),
        (b"a text", r"\(bytes\) is a single one"),
        ({"text": ["a"]}, "a dict is a table; give one column of it"),
        (pd.DataFrame({"text": ["a"]}), r"a DataFrame is a table; .*table\['text'\]"),
        ({"a", "b"}, "a set has no order"),
        (7, "is no list of texts"),
        (["a", None], "row 1 has no text"),
        (pd.Series(["a", np.nan], index=["x", "y"]), r"row 1 \(index y\) has no text"),
        (pd.Series(["a", None], dtype="string"), "row 1 .* has no text"),
        (np.array(["a", 2.5], object), r"row 1 is 2.5 \(float\), not a text"),
        ([{"text": "a"}], r'give the column of texts, as in data\["text"\]'),
    ],
)
def test_bad_texts_are_named(texts: Any, says: str, model: str) -> None:
    with pytest.raises(CorpusError, match=says):
        encode(texts, model)
    if not isinstance(texts, pd.Series | set):
        with pytest.raises((CorpusError, TypeError)):
            list(encode_stream(texts, model))


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (["a"], "1 for 2 texts"),
        (["a", "a"], "'a' is there twice, in rows 0 and 1"),
        (["a", None], "row 1 is None"),
        ([1, 2.0], "row 1 is 2.0"),
        (["a", ""], "row 1 is ''"),
        (["a", "\ud800"], "row 1 is .*a lone surrogate"),
        ("ab", "is a single one"),
    ],
)
def test_bad_ids_are_named(ids: Any, says: str, model: str) -> None:
    with pytest.raises(CorpusError, match=f"ids: .*{says}"):
        encode(["x", "y"], model, ids=ids)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sites": "fnn"}, "sites.*'ffn', 'hidden', 'router' or 'experts'.*not 'fnn'"),
        ({"sites": ()}, "sites names none"),
        ({"poolings": "mean"}, "give a list of them"),
        ({"poolings": ["median"]}, "poolings.*'mean', 'max', 'first' or 'last', not 'median'"),
        ({"layers": [3]}, r"layers \[3\] of ffn: .* this model has 0 to 2"),
        ({"layers": []}, "name at least one"),
        ({"layers": [0, -3]}, "each once"),
        ({"layers": {"hidden": [0]}}, "not among the sites ffn"),
        ({"dtype": "float64"}, "dtype.*'float16' or 'float32', not 'float64'"),
        ({"precision": "half"}, "precision.*'float32' or 'bfloat16', not 'half'"),
        ({"max_lenght": 8}, "max_lenght: unknown argument; did you mean 'max_length'?"),
        ({"keep_text": False}, "keep_text: unknown argument"),  # goes with out
        ({"batch_tokens": 0}, "at least 1 token"),
        ({"batch_tokens": "a"}, r"batch_tokens: 'a' is no whole number \(str\)"),
        ({"batch_tokens": 1.5}, "1.5 is no whole number"),
        ({"layers": 0}, r"layers 0: give a list of them: \[0\]"),
        ({"layers": {"ffn": 0}}, r"layers 0: give a list of them: \[0\]"),
        ({"layers": "01"}, "layers '01': give a list"),
        ({"layers": [1.5]}, "layers of ffn: 1.5 is no whole number"),
        ({"layers": [True]}, r"layers of ffn: True is no whole number \(bool\)"),
        ({"sites": None}, r"sites None: give a list of them: \['ffn'\]"),
        ({"sites": 5}, r"sites 5: give a list of them: \['ffn'\]"),
        ({"poolings": None}, r"poolings None: give a list of them: \['mean'\]"),
        ({"sites": "fnn"}, "^sites: "),
        ({"peaks": True}, r"give sites = \('ffn',\)"),
        ({"normalise": {"user": False}}, "user: unknown key; did you mean 'users'"),
        ({"template": "no place"}, "holds {text} 0 times"),
        ({"device": "abacus"}, "is not a torch device"),
        ({"sites": "router"}, "no site 'router'"),
    ],
)
def test_bad_arguments_are_those_of_the_configuration(
    options: dict[str, Any], says: str, model: str
) -> None:
    with pytest.raises((ConfigError, BackboneError, ExtractError), match=says):
        encode(["a"], model, **options)


def test_too_much_for_memory_is_refused(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "free_memory", lambda: 1000)
    with pytest.raises(ExtractError, match=r"out=FOLDER .* encode_stream"):
        encode(["a"] * 10, model)


# ------------------------------------------------------------------ streams


def test_a_stream_may_have_no_end(model: str) -> None:
    drawn: list[int] = []

    def endless() -> Iterator[str]:
        for number in count():
            drawn.append(number)
            yield f"the cat {number % 5}"

    blocks = encode_stream(endless(), model, block_size=8, layers=[0])
    some = list(islice(blocks, 3))
    blocks.close()  # type: ignore[attr-defined]
    assert 24 <= len(drawn) <= 40
    assert [one.shape[-1] for one in some] == [8, 8, 8]
    assert [*some[2].sample.values] == [str(i) for i in range(16, 24)]
    whole = encode([f"the cat {i % 5}" for i in range(24)], model, layers=[0])
    joined = np.concatenate([one.values for one in some], axis=-1)
    np.testing.assert_allclose(joined, whole.values, atol=1e-6)


def test_a_wrong_stream_is_refused_at_once(model: str) -> None:
    with pytest.raises(CorpusError, match="is no list of texts"):
        encode_stream(5, model)  # type: ignore[arg-type]
    for size in ("a", 1.5, 0):
        with pytest.raises(ConfigError, match="block_size"):
            encode_stream(["a"], model, block_size=size)  # type: ignore[arg-type]


def test_a_stream_may_bring_its_ids(model: str) -> None:
    pairs = [("x", "the cat"), (9, "a dog"), ("z", "the cat")]
    first, second = encode_stream(pairs, model, block_size=2, sites=("ffn", "hidden"))
    assert [*first.sample.values, *second.sample.values] == ["x", "9", "z"]
    assert set(first.data_vars) == {"ffn", "hidden"}
    np.testing.assert_allclose(first.ffn.isel(sample=0), second.ffn.isel(sample=0), atol=1e-6)


def test_what_is_wrong_in_a_stream_is_told_when_it_is_reached(model: str) -> None:
    blocks = encode_stream(["a", "b", None], model, block_size=2)
    assert next(blocks).sample.size == 2
    with pytest.raises(CorpusError, match="row 2 has no text"):
        next(blocks)
    with pytest.raises(CorpusError, match="row 1 is 'b'"):
        list(encode_stream([("a", "x"), "b"], model))
    with pytest.raises(CorpusError, match="'a' is there twice"):
        list(encode_stream([("a", "x"), ("a", "y")], model))
    with pytest.raises(ConfigError, match="block_size 0"):
        encode_stream(["a"], model, block_size=0)
    with pytest.raises(BackboneError, match="no such model directory"):
        encode_stream(["a"], "./gone")  # before anything is drawn


# ------------------------------------------------------------------ into a store


def test_a_store_is_appended_to(model: str, many: list[str], tmp_path: Path) -> None:
    path = tmp_path / "store"
    ids = [f"t{i}" for i in range(len(many))]
    first = encode(many[:400], model, out=path, ids=ids[:400])
    assert not first.variable._in_memory and first.dtype == np.float32
    size = ActivationStore.open(path).num_samples
    both = encode(many[300:], model, out=str(path), ids=ids[300:])
    assert both.sample.values.tolist() == ids[300:]
    assert both.text.values.tolist() == list(encode(many[300:], model, layers=[0]).text.values)
    plain = encode(many, model, dtype="float16").astype(np.float32)
    np.testing.assert_allclose(both, plain.isel(sample=slice(300, None)), rtol=2e-3, atol=1e-5)
    np.testing.assert_array_equal(first, plain.isel(sample=slice(400)))
    store = ActivationStore.open(path)
    assert size < store.num_samples <= len(set(many))
    assert store.schema.hidden_layers == (LAYERS,)  # what the conventional head reads
    snapshot = store.snapshot_id
    again = encode(many, model, out=path, ids=ids)  # nothing to do
    assert ActivationStore.open(path).snapshot_id == snapshot
    np.testing.assert_array_equal(again.isel(sample=slice(400)), first)


def test_a_store_may_hold_some_layers(model: str, tmp_path: Path) -> None:
    path, texts = tmp_path / "store", list(TEXTS)
    found = encode(texts, model, out=path, layers=[2, 0], dtype="float32", keep_text=False)
    assert ActivationStore.open(path).schema.hidden_layers == ()
    np.testing.assert_array_equal(found, encode(texts, model, layers=[2, 0]))
    some = encode(["more", texts[0]], model, out=path, layers=[0], dtype="float32", ids=["m", "0"])
    assert some.layer.values.tolist() == [0] and "text" not in some.coords
    np.testing.assert_array_equal(some.sel(sample="0"), found.sel(layer=[0], sample="0"))


def test_a_store_of_the_command_serves(finished_run: Path, tmp_path: Path) -> None:
    import shutil

    from pipeline.config import RunConfig

    config = RunConfig.load(finished_run)
    shutil.copytree(config.store.path, tmp_path / "store")
    before = ActivationStore.open(tmp_path / "store")
    new = encode(["a new text"], config.backbone.model, out=tmp_path / "store", ids=["new"])
    assert new.shape == (LAYERS, 2, FFN_WIDTH, 1)
    after = ActivationStore.open(tmp_path / "store")
    assert after.num_samples == before.num_samples + 1 and after.schema == before.schema


def test_other_texts_under_known_ids_are_refused(model: str, tmp_path: Path) -> None:
    encode(["a", "b"], model, out=tmp_path / "store")
    with pytest.raises(CorpusError, match=r"give ids= of their own"):
        encode(["c"], model, out=tmp_path / "store")
    with pytest.raises(ExtractError, match="made with other settings: its poolings"):
        encode(["a"], model, out=tmp_path / "store", poolings=["max"])


# ------------------------------------------------------------------ the model


def test_the_last_model_is_kept(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Any] = []

    def load(settings: Any, **options: Any) -> Any:
        loads.append(settings)
        return loaded.load_from_settings.__wrapped__(settings, **options)  # type: ignore[attr-defined]

    load.__wrapped__ = loaded.load_from_settings  # type: ignore[attr-defined]
    monkeypatch.setattr(loaded, "load_from_settings", load)
    forget_model()
    for _ in range(3):
        encode(["a"], model)
    assert len(loads) == 1
    encode(["a"], model, max_length=8)  # another setting
    encode(["a"], model)
    assert len(loads) == 3
    other = make_tiny_model("bert", tmp_path / "bert")
    encode(["a"], str(other))
    file = other / "config.json"
    file.write_text(file.read_text() + " ")  # its files are others now
    encode(["a"], str(other))
    assert len(loads) == 5
    forget_model()
    assert loaded._kept == []


def test_a_model_is_named_in_one_way(model: str, tmp_path: Path) -> None:
    commit = "0" * 40
    hub = {"model": "user/name", "revision": commit}
    assert model_section(f"user/name@{commit}") == hub == model_section("user/name", commit)
    assert model_section("package:some") == {"model": "package:some"}
    (tmp_path / "a@b").mkdir()
    assert model_section(tmp_path / "a@b") == {"model": str(tmp_path / "a@b")}
    np.testing.assert_array_equal(encode(["a"], Path(model)), encode(["a"], model))
    for odd in (5, None, "a\0b"):
        with pytest.raises(ConfigError, match="give a folder, package:NAME, or user/name@COMMIT"):
            encode(["a"], odd)  # type: ignore[call-overload]


def test_bars_are_drawn_where_asked(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    encode(["a", "b", ""], model)
    assert capsys.readouterr() == ("", "")
    encode(["a", "b", ""], model, progress=True)
    shown = capsys.readouterr()
    assert shown.out == "" and "encoded 3 of 3 texts (100%)" in shown.err
