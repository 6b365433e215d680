"""A whole run over a mixture of experts: extracted, probed, consolidated, scored, shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr
from typer.testing import CliRunner

from pipeline import stages
from pipeline.backbone import load_backbone
from pipeline.commands.line import app
from pipeline.config import RunConfig
from pipeline.errors import BackboneError, ExtractError, HeadError
from pipeline.extraction.extractor import Extractor
from pipeline.extraction.routed import RoutedLayers
from pipeline.extraction.storing import StoreOptions, open_store
from pipeline.heads.model import Head
from pipeline.neurons.ablation import ablate
from pipeline.runfolder import RunFolder, read_metrics
from pipeline.scoring.scorer import Scorer
from store import ActivationStore
from store.errors import SalientError
from store.layout import stored_sources
from tests.builders.models import make_tiny_model
from tests.builders.runs import write_mood_run

SITES = 'path = "activations"\nsites = ["router", "experts", "hidden"]'


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model("mixtral", tmp_path_factory.mktemp("mixtral"))


@pytest.fixture(scope="module")
def run(mixtral: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a finished run on routers, experts and hidden states."""
    path = write_mood_run(tmp_path_factory.mktemp("run"), mixtral, num_rows=120)
    path.write_text(path.read_text("utf-8").replace('path = "activations"', SITES, 1), "utf-8")
    stages.run(RunConfig.load(path))
    return path


def test_plain_xarray_opens_the_store(run: Path) -> None:
    config = RunConfig.load(run)
    store = ActivationStore.open(config.store.path)
    data = xr.open_zarr(config.store.path)
    assert data.router.dims == ("router_layer", "pooling", "router_expert", "sample")
    assert data.experts.dims == ("experts_layer", "pooling", "expert_unit", "sample")
    assert data.experts.shape[:3] == (3, 2, 4 * 48)
    assert set(data.experts.coords) >= {"expert", "expert_neuron"}
    one = data.experts.isel(expert_unit=2 * 48 + 5, experts_layer=1)
    assert (int(one.expert), int(one.expert_neuron)) == (2, 5)
    means = data.router.sel(pooling="mean").sum("router_expert").values
    np.testing.assert_allclose(means, 1, atol=2e-3)
    own = store.to_xarray()
    np.testing.assert_array_equal(own.experts.expert, data.expert)
    np.testing.assert_array_equal(own.experts.values, data.experts.values)
    assert store.schema.layers == () and "ffn" not in store.schema.arrays


def test_stored_values_are_those_of_each_text_alone(run: Path, mixtral: Path) -> None:
    store = ActivationStore.open(RunConfig.load(run).store.path)
    backbone = load_backbone(mixtral)
    layers = backbone.site_layers("experts")
    alone = Extractor(backbone, routed=RoutedLayers(layers, layers), hidden="none")
    samples = store.samples().slice(0, 3).to_pylist()
    for sample in samples:
        found = alone([sample["text"]])
        for site, values in (("router", found.router), ("experts", found.experts)):
            assert values is not None
            for layer in layers:
                stored = store.read_matrix(site, layer=layer, samples=[sample["position"]])[0]
                expected = values[layer, :, :, 0].ravel()
                scale = np.abs(expected).max()
                np.testing.assert_allclose(stored, expected, atol=2e-3 * scale)


def test_heads_read_routers_and_experts_and_score_as_stored(run: Path) -> None:
    config = RunConfig.load(run)
    folder, store = RunFolder(Path(config.run_dir)), ActivationStore.open(config.store.path)
    sources = stored_sources(store.schema)
    assert {source.site for source in sources} == {"hidden", "router", "experts"}
    for name in ("sparse", "dense", "depth_000"):
        scorer = Scorer.load([folder.head("mood", name)], device="cpu")
        worst = scorer.check_parity(store, 8)
        assert worst is not None and worst < 2e-3
        assert scorer.golden_difference is not None and scorer.golden_difference < 2e-3
    assert Scorer.load([folder.head("mood", "depth_000")], device="cpu").depth == 0
    assert scorer.extractor.backbone.num_layers < 3  # block 1 is entered for the hidden state


def test_a_sparse_head_on_kept_experts_scores_as_stored(mixtral: Path, tmp_path: Path) -> None:
    path = write_mood_run(tmp_path, mixtral, num_rows=90)
    some = SITES.replace('"router", "experts", "hidden"', '"experts"') + "\nexperts = [3, 1]"
    text = path.read_text("utf-8").replace('path = "activations"', some, 1)
    path.write_text(text.replace("[head]", '[head]\nkinds = ["sparse", "frozen"]', 1), "utf-8")
    config = RunConfig.load(path)
    stages.run(config)
    folder, store = RunFolder(Path(config.run_dir)), ActivationStore.open(config.store.path)
    head = Head.load(folder.head("mood"))
    read = {source for source in head.features if source.site == "experts"}
    assert head.card.kind == "sparse" and read and store.schema.experts == (1, 3)
    scorer = Scorer.load([folder.head("mood")], device="cpu")
    worst = scorer.check_parity(store, 8)
    assert worst is not None and worst < 2e-3
    table = pq.read_table(folder.importance("mood", "experts"))
    assert set(table["expert"].to_pylist()) == {1, 3}


def test_only_the_experts_that_are_read_are_pooled(run: Path, mixtral: Path) -> None:
    backbone = load_backbone(mixtral)
    whole = Extractor(backbone, routed=RoutedLayers(experts=(1,)), hidden="none")
    width = whole.width("experts")
    features = np.array([5, 48 * 3 + 1, width + 7, width + 48 * 3 + 40])
    some = Extractor(backbone, routed=RoutedLayers(features={1: features}), hidden="none")
    texts = ["the cat sat", "dog", ""]
    every = whole.compute(whole.encode(texts)).experts[0].flatten(1)
    found = some.compute(some.encode(texts)).experts[0]
    np.testing.assert_allclose(found, every[:, features], atol=1e-6)
    with pytest.raises(ExtractError, match=r"numbers in 0\.\.383"):
        Extractor(backbone, routed=RoutedLayers(features={1: np.array([2 * width])}))


def test_importance_names_experts_and_neurons(run: Path) -> None:
    folder = RunFolder(Path(RunConfig.load(run).run_dir))
    table = pq.read_table(folder.importance("mood", "experts"))
    assert table.column_names[:4] == ["layer", "pooling", "expert", "neuron"]
    assert len(table) == 3 * 2 * 4 * 48
    assert set(table["expert"].to_pylist()) == {0, 1, 2, 3}
    assert max(table["neuron"].to_pylist()) == 47
    assert not folder.importance("mood").exists()


@pytest.mark.slow
def test_reports_have_the_sites_and_commands_do_not_break(run: Path, tmp_path: Path) -> None:
    config = RunConfig.load(run)
    found = read_metrics(RunFolder(Path(config.run_dir)))["tasks"]["mood"]
    assert len(found["routers"]) == len(found["experts"]) == 3 and found["layers"] == []
    runner, folder = CliRunner(), config.run_dir
    for words in (
        ["inspect", folder],
        ["inspect", str(config.store.path)],
        ["store", "info", str(config.store.path)],
        ["store", "verify", str(config.store.path)],
        ["report", folder],
        ["plan", folder, "--num-texts", "8", "--rounds", "1"],
        ["score", str(run.parent / "tweets.csv"), "--run", folder, "--out", str(tmp_path / "s")],
    ):
        result = runner.invoke(app, words)
        assert result.exit_code == 0, (words, result.output, result.exception)
    with pytest.raises(HeadError, match="holds no FFN activations"):
        ablate(config)
    for words in (["rank", str(run)], ["ablate", str(run)], ["explore", str(config.store.path)]):
        result = runner.invoke(app, words)
        assert isinstance(result.exception, SalientError), (words, result.output)
        assert "FFN" in str(result.exception) and "\n" not in str(result.exception)
    report = (Path(folder) / "report.html").read_text("utf-8")
    assert "best router" in report


def test_new_texts_bring_the_same_sites(run: Path, mixtral: Path, tmp_path: Path) -> None:
    path = write_mood_run(tmp_path, mixtral, num_rows=70)
    text = path.read_text("utf-8")
    path.write_text(text.replace('path = "activations"', SITES, 1), "utf-8")
    stages.extract(RunConfig.load(path))
    text = text.replace("[[corpus]]", "[score]\n[[corpus]]", 1)  # sites left out
    path.write_text(text, "utf-8")
    write_more = write_mood_run(tmp_path / "more", mixtral, num_rows=90)
    (tmp_path / "tweets.csv").write_bytes((write_more.parent / "tweets.csv").read_bytes())
    report = stages.extract(RunConfig.load(path))
    store = ActivationStore.open(RunConfig.load(path).store.path)
    assert report.num_new > 0 and len(store.samples()) > 70
    assert np.isfinite(store.read_matrix("experts", layer=2)).all()


def test_what_a_store_takes_is_said_before(
    mixtral: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_mood_run(tmp_path, mixtral, num_rows=60)
    path.write_text(path.read_text("utf-8").replace('path = "activations"', SITES, 1), "utf-8")
    said: list[str] = []
    stages.extract(RunConfig.load(path), say=said.append)
    assert any("experts 3 x 192" in line and "GB on disk" in line for line in said), said
    monkeypatch.setattr("pipeline.extraction.storing.MAX_EXPERTS_WIDTH", 100)
    backbone = load_backbone(mixtral)
    options = StoreOptions(sites=("experts",))
    with pytest.raises(ExtractError, match=r"up to 2 of them, with experts = \[0, 1, …\]"):
        open_store(tmp_path / "wide", options.extractor(backbone), options, num_texts=5)
    options = StoreOptions(sites=("experts",), experts=(1, 3))
    store = open_store(tmp_path / "few", options.extractor(backbone), options, num_texts=5)
    assert store.schema.array("experts").width == 96
    np.testing.assert_array_equal(np.unique(store.to_xarray().expert), [1, 3])
    with pytest.raises(ExtractError, match="has experts 0 to 3"):
        StoreOptions(sites=("experts",), experts=(7,)).extractor(backbone)


def test_defaults_of_a_mixture_and_sites_that_it_lacks(mixtral: Path, tiny_bert: Path) -> None:
    extractor = StoreOptions().extractor(load_backbone(mixtral))
    sites = {source.site for source in extractor.sources}
    assert sites == {"router", "hidden"}
    with pytest.raises(BackboneError, match=r"no site 'ffn'.*it has hidden, router, experts"):
        StoreOptions(sites=("ffn",)).extractor(load_backbone(mixtral))
    with pytest.raises(BackboneError, match=r"no site 'router'.*it has ffn, hidden"):
        StoreOptions(sites=("router",)).extractor(load_backbone(tiny_bert))
