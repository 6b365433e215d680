"""What an extraction proves before it begins."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline import stages
from pipeline.backbone.comparison import Comparison
from pipeline.backbone.loading import load_from_settings
from pipeline.config import BackboneConfig, RunConfig
from pipeline.errors import BackboneError
from pipeline.extraction import proving
from pipeline.extraction.extractor import Extractor
from pipeline.extraction.proving import (
    against_cut,
    against_plain,
    cut_depth,
    prove_cut,
    proved,
)
from pipeline.extraction.storing import StoreOptions, extract_corpus
from pipeline.heads.model import Head
from pipeline.runfolder import RunFolder, read_card
from pipeline.scoring.scorer import Scorer
from store import ActivationStore
from store.layout import Source
from store.tables import write_json
from tests.builders.models import LAYERS, TEXTS, make_tiny_model
from tests.builders.odd import make_odd_model
from tests.builders.runs import write_mood_run


def reading(path: Path, **options) -> tuple[Extractor, BackboneConfig]:
    settings = BackboneConfig(model=str(path), **options)
    return Extractor(load_from_settings(settings), hidden="all"), settings


@pytest.mark.parametrize("family", ["bert", "roberta", "bart", "deberta-v2", "llama"])
def test_right_models_agree(family, tmp_path):
    extractor, settings = reading(make_tiny_model(family, tmp_path))
    plain = against_plain(extractor, settings)
    assert plain.agrees and plain.largest < 1e-5  # on some processors nothing at all
    assert set(plain.differences) == set(extractor.sources)
    cut = against_cut(extractor, settings, last=1)
    assert cut.agrees and set(cut.differences) == {
        Source(site, layer) for site in ("ffn", "hidden") for layer in range(2)
    }
    assert proved(extractor, settings.model_copy(update={"check": "full"})) == (
        settings.model_copy(update={"check": "full"}),
        [],
    )


def test_all_poolings_and_only_the_own_tokens_are_compared(tiny_bert):
    settings = BackboneConfig(model=str(tiny_bert), special_tokens=False)
    extractor = Extractor(
        load_from_settings(settings),
        poolings=("mean", "max", "first", "last"),
        special_tokens=False,
        hidden="final",
    )
    found = against_plain(extractor, settings, texts=TEXTS)
    assert found.agrees and Source("hidden", LAYERS) in found.differences
    with_special = Extractor(extractor.backbone, poolings=extractor.poolings)
    with_special.special_tokens = True
    ours, theirs = extractor(TEXTS[:1]), with_special(TEXTS[:1])
    assert not np.allclose(ours.ffn, theirs.ffn)


def test_bfloat16_is_compared_by_its_own_tolerance(tiny_bert):
    extractor, settings = reading(tiny_bert, dtype="bfloat16")
    found = against_plain(extractor, settings)
    assert found.agrees and found.largest > 1e-4


def test_other_numbers_than_the_models_own_are_refused(tmp_path):
    extractor, settings = reading(make_odd_model("odd-width", tmp_path), check="full")
    with pytest.raises(BackboneError) as refused:
        proved(extractor, settings)
    text = str(refused.value)
    assert "\n" not in text
    for part in ("own forward pass", "differs by ", "tolerance 1e-04", "salient check"):
        assert part in text
    # Not asked for, it is not compared; asked again, it is remembered.
    assert proved(extractor, settings.model_copy(update={"check": "auto"}))[1] == []
    with pytest.raises(BackboneError, match="own forward pass"):
        proved(extractor, settings)


def test_a_proof_is_found_once(tiny_bert, monkeypatch, own_cache):
    extractor, settings = reading(tiny_bert)
    assert prove_cut(extractor, settings) is None
    (kept,) = (own_cache / "cut").iterdir()
    monkeypatch.setattr(proving, "against_cut", None)  # a second call would fail
    assert prove_cut(extractor, settings) is None
    kept.unlink()
    with pytest.raises(TypeError):
        prove_cut(extractor, settings)
    assert prove_cut(extractor, settings.model_copy(update={"whole": True})) is None


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("full"), RuntimeError("can't allocate memory")]
)
@pytest.mark.parametrize("where", ["pipeline.backbone.loading.cut_out", "torch.nn.Module.to"])
def test_want_of_memory_is_told_and_sets_nothing(error, where, tiny_bert, monkeypatch, own_cache):
    extractor, settings = reading(tiny_bert)

    def full(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        found, (remark,) = proved(extractor, settings)
    assert found == settings and not found.whole and "want of memory" in remark
    assert not (own_cache / "cut").exists() and proved(extractor, settings) == (settings, [])


def test_a_load_that_fails_is_not_remembered(tiny_bert, monkeypatch, own_cache):
    extractor, settings = reading(tiny_bert)

    def refuse(*_, **__):
        raise BackboneError("no such folder today")

    with monkeypatch.context() as patch:
        patch.setattr(proving, "load_from_settings", refuse)
        found, (remark,) = proved(extractor, settings)
    assert found.whole and "no such folder today" in remark
    assert not (own_cache / "cut").exists() and proved(extractor, settings) == (settings, [])


@pytest.mark.parametrize("facts", [{}, {"trouble": 3}])
def test_a_damaged_proof_is_found_again(facts, tiny_bert, own_cache):
    extractor, settings = reading(tiny_bert)
    prove_cut(extractor, settings)
    (file,) = (own_cache / "cut").iterdir()
    kept = json.loads(file.read_text())
    file.write_text(json.dumps(kept | {"facts": facts}))
    assert prove_cut(extractor, settings) is None and json.loads(file.read_text()) == kept


def test_a_big_model_is_cut_to_little(tmp_path, monkeypatch):
    extractor, _ = reading(make_tiny_model("bert", tmp_path, num_hidden_layers=8))
    assert cut_depth(extractor) == 3
    monkeypatch.setattr(proving, "BIG", 1000)
    assert cut_depth(extractor) == 1
    single, settings = reading(make_tiny_model("bert", tmp_path / "one", num_hidden_layers=1))
    assert cut_depth(single) is None and prove_cut(single, settings) is None


def test_a_model_whose_first_blocks_differ_alone_is_loaded_whole(tmp_path):
    """The extraction says so, the head keeps it, and scoring at a cut depth gives its numbers."""
    path = make_odd_model("odd-depth", tmp_path)
    config = RunConfig.load(write_mood_run(tmp_path, path))
    head = config.head.model_copy(update={"kinds": ("dense",)})
    config = config.model_copy(update={"head": head, "tasks": config.tasks[:1]})
    lines: list[str] = []
    stages.run(config, say=lines.append)
    assert any("scoring will load all blocks" in line and "differs by" in line for line in lines)
    settings = ActivationStore.open(config.store.path).schema.provenance["backbone"]
    assert settings["whole"]
    whole = Extractor(load_from_settings(settings), layers=[0], hidden="none")
    cut = Extractor(load_from_settings(settings, last_layer=0), layers=[0], hidden="none")
    assert cut.backbone.num_layers == 1
    np.testing.assert_array_equal(whole(TEXTS).ffn, cut(TEXTS).ffn)
    alone = load_from_settings({**settings, "whole": False}, last_layer=0)
    assert not np.allclose(Extractor(alone, layers=[0], hidden="none")(TEXTS).ffn, whole(TEXTS).ffn)
    chosen = RunFolder(Path(config.run_dir)).head("mood")
    assert Head.load(chosen).card.extraction["backbone"]["whole"]
    assert Scorer.load([chosen]).golden_difference <= 2e-3


def test_heads_of_an_old_store_learn_to_load_the_whole_model(tmp_path):
    """The store was made when nobody asked, and says nothing; the run's finding is theirs."""
    path = make_odd_model("odd-depth", tmp_path)
    config = RunConfig.load(write_mood_run(tmp_path, path))
    head = config.head.model_copy(update={"kinds": ("dense",)})
    config = config.model_copy(update={"head": head, "tasks": config.tasks[:1]})
    backbone = load_from_settings(config.backbone)
    texts = pa.table({"id": ["a"], "text": ["a happy cat"]})
    extract_corpus(texts, backbone, config.store.path, StoreOptions.of(config))
    stages.run(config)
    store = ActivationStore.open(config.store.path)
    assert store.num_samples > 1 and not store.schema.provenance["backbone"]["whole"]
    folder = RunFolder(Path(config.run_dir))
    assert Head.load(folder.head("mood")).card.extraction["backbone"]["whole"]
    cut = folder.head("mood", "depth_000")
    assert Scorer.load([cut]).check_parity(store, 8) < 2e-3
    # Heads of an earlier version, which did not say so, are made again.
    before = folder.metrics.stat().st_mtime_ns
    stages.consolidate(config)
    assert folder.metrics.stat().st_mtime_ns == before
    card = read_card(folder)
    write_json(folder.card, {**card, "extraction": {**card["extraction"], "whole": False}})
    stages.consolidate(config)
    assert folder.metrics.stat().st_mtime_ns != before


def test_routers_are_compared_and_what_is_not_is_said(tmp_path):
    settings = BackboneConfig(model=str(make_tiny_model("mixtral", tmp_path)), check="full")
    backbone = load_from_settings(settings)
    extractor = StoreOptions(sites=("router", "experts"), hidden="final").extractor(backbone)
    found = against_plain(extractor, settings)
    routers = {Source("router", layer) for layer in range(3)}
    assert found.agrees and set(found.differences) == routers | {Source("hidden", 3)}
    assert found.missing == tuple(Source("experts", layer) for layer in range(3))
    for _ in range(2):  # found out, and remembered
        _, remarks = proved(extractor, settings)
        assert remarks == ["model's own forward pass: not compared: experts 0, 1, 2"]
    wrong = replace(found, differences={Source("router", 0): 1.0})
    assert wrong.trouble == (
        "router 0 differs by 1.0e+00 of its largest value (tolerance 1e-04);"
        " not compared: experts 0, 1, 2"
    )


def test_nothing_compared_is_no_agreement(tiny_bert):
    nothing = Comparison({}, 1e-4, (Source("ffn", 1),))
    assert not nothing.agrees and nothing.trouble == "not compared: ffn 1"
    # So the cut that is tried goes as deep as anything that is read,
    upper = Extractor(load_from_settings(BackboneConfig(model=str(tiny_bert))), layers=[1])
    assert cut_depth(upper) == 1
    assert against_cut(upper, BackboneConfig(model=str(tiny_bert)), last=1).agrees
    # and what reads the last block alone is not cut.
    assert cut_depth(Extractor(upper.backbone, layers=[LAYERS - 1])) is None


def test_neither_key_is_part_of_the_runs_fingerprint(tmp_path, tiny_bert):
    config = RunConfig.load(write_mood_run(tmp_path, tiny_bert))
    other = config.backbone.model_copy(update={"check": "full", "whole": True})
    assert config.model_copy(update={"backbone": other}).fingerprint == config.fingerprint
