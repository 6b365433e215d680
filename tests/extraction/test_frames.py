"""Words around every text: the same numbers as by hand, from extraction to scores."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
import torch

from pipeline import stages
from pipeline.backbone.loading import load_backbone, load_from_settings
from pipeline.config import BackboneConfig, RunConfig
from pipeline.errors import ConfigError, ExtractError
from pipeline.explorer.tokenmaps import TokenPlaces, TokenReader
from pipeline.extraction.adding import add_layers
from pipeline.extraction.extractor import Extractor
from pipeline.extraction.storing import StoreOptions, extract_corpus
from pipeline.heads.activations import stored_activations
from pipeline.heads.model import Head
from pipeline.neurons.ablation import AblationOptions, ablate
from pipeline.neurons.arms import token_means
from pipeline.runfolder import RunFolder
from pipeline.scoring.cascade import NEVER, Cascade, CascadeTask
from pipeline.scoring.files import score_files
from pipeline.scoring.scorer import Scorer
from store import ActivationStore
from tests.builders.models import TEXTS, make_tiny_model, random_texts
from tests.builders.reference import POOL, Reference, relative_error
from tests.builders.runs import write_mood_run

EXACT = 1e-5
MODELS = ("bert", "gpt2", "t5", "minilm")
POOLINGS = ("mean", "max", "last", "first")
PREFIX = {"prefix": "query: "}
TEMPLATE = {"template": 'This sentence: "{text}" means in one word: "'}
FRAMES = (PREFIX, TEMPLATE)
LENGTH = 48
"""Tokens of the context: with the template's own ones some texts are too long."""


@pytest.fixture(scope="module")
def models(tmp_path_factory, request):
    """Name -> (backbone, reference), made once."""
    root, made = tmp_path_factory.mktemp("models"), {}

    def get(name):
        if name not in made:
            path = request.getfixturevalue("minilm") if name == "minilm" else None
            path = Path(path) if path else make_tiny_model(name, root)
            backbone = load_backbone(path, engine="torch", max_length=LENGTH)
            made[name] = backbone, Reference(path)
        return made[name]

    return get


def by_hand(reference, text, frame, *, special_tokens):
    """One text: (layer, pooling, neuron), (layer + 1, pooling, hidden), tokens, whether cut."""
    before, after = frame.get("prefix", ""), ""
    if "template" in frame:
        before, after = frame["template"].split("{text}")
    found = reference.tokenizer(
        before + text + after, return_offsets_mapping=True, return_special_tokens_mask=True
    )
    ids, special = found["input_ids"], found["special_tokens_mask"]
    begin, end = len(before), len(before) + len(text)
    own = [
        i
        for i, (first, last) in enumerate(found["offset_mapping"])
        if not special[i] and first < end and last > begin
    ]
    excess = max(len(ids) - LENGTH, 0)
    gone = set(own[-excess:]) if excess else set()
    kept = [i for i in range(len(ids)) if i not in gone]
    own = [kept.index(i) for i in own if i not in gone]
    edge = [at for at, i in enumerate(kept) if special_tokens or not special[i]]
    layers, states = reference.forward([ids[i] for i in kept])

    def pooled(tokens):
        parts = {"mean": own, "max": own, "last": edge, "first": edge}
        empty = np.zeros(tokens.shape[1])
        return [POOL[p](tokens[parts[p]]) if parts[p] else empty for p in POOLINGS]

    return np.array([pooled(x) for x in layers]), np.array([pooled(x) for x in states]), kept, gone


@pytest.mark.parametrize("special_tokens", [True, False])
@pytest.mark.parametrize("frame", FRAMES, ids=["prefix", "template"])
@pytest.mark.parametrize("name", MODELS)
def test_equals_a_loop_by_hand(models, name, frame, special_tokens):
    backbone, reference = models(name)
    texts = [*dict.fromkeys([*TEXTS, *random_texts(8)])]
    extractor = Extractor(
        backbone.framed(**frame),
        poolings=POOLINGS,
        special_tokens=special_tokens,
        hidden="all",
        batch_tokens=90,
        peaks=True,
    )
    result = extractor(texts)
    expected = [by_hand(reference, text, frame, special_tokens=special_tokens) for text in texts]
    assert relative_error(result.ffn, np.stack([one[0] for one in expected], -1)) <= EXACT
    assert relative_error(result.hidden, np.stack([one[1] for one in expected], -1)) <= EXACT
    assert result.n_tokens.tolist() == [len(one[2]) for one in expected]
    assert result.truncated.tolist() == [bool(one[3]) for one in expected]
    assert result.truncated.any() and not result.truncated.all()
    assert not result.ffn[:, :2, :, texts.index("")].any()
    assert result.ffn[:, 2, :, texts.index("")].any()
    assert (result.peaks[..., texts.index("")] == -1).all()


@pytest.mark.parametrize("attention", ["packed", "padded"])
def test_last_is_the_last_real_token_in_every_layout(tmp_path, attention):
    path = make_tiny_model("bert", tmp_path)
    backbone, reference = load_backbone(path, attention=attention), Reference(path)
    texts = [text for text in TEXTS if text]
    for special_tokens, place in ((True, -1), (False, -2)):
        result = Extractor(backbone, poolings=("last",), special_tokens=special_tokens)(texts)
        for i, text in enumerate(texts):
            layers = reference.tokens(text, max_length=backbone.max_length)[0]
            expected = np.array([[tokens[place]] for tokens in layers])
            assert relative_error(result.ffn[..., i], expected) <= EXACT


def test_picked_features_are_those_of_all(models):
    backbone = models("gpt2")[0].framed(**TEMPLATE)
    whole = Extractor(backbone, poolings=POOLINGS, hidden="none")(TEXTS).ffn
    width = backbone.neuron_size
    for features in (np.array([3, width + 1, 2 * width + 5]), np.arange(0, 3 * width, 2)):
        picked = Extractor(backbone, poolings=POOLINGS, hidden="none", features={1: features})
        (found,) = picked.compute(picked.encode(TEXTS)).ffn
        expected = whole[1].reshape(-1, len(TEXTS))[features].T
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_nothing_changes_without_words(models):
    backbone, _ = models("bert")
    plain, framed = backbone.framed(), backbone.framed(**PREFIX)
    assert Extractor(plain).fingerprint() == Extractor(backbone).fingerprint()
    assert Extractor(framed).fingerprint() != Extractor(backbone).fingerprint()
    found = BackboneConfig(model="x")
    assert {"prefix", "template"}.isdisjoint(found.model_dump())
    assert BackboneConfig(model="x", **PREFIX).model_dump()["prefix"] == PREFIX["prefix"]
    with torch.inference_mode():
        np.testing.assert_array_equal(Extractor(plain)(TEXTS).ffn, Extractor(backbone)(TEXTS).ffn)


def test_a_store_says_its_words_and_refuses_others(models, tmp_path):
    backbone, _ = models("bert")
    table = pa.table({"id": ["a", "b"], "text": ["one", "two"]})
    extract_corpus(table, backbone.framed(**PREFIX), tmp_path / "s")
    schema = ActivationStore.open(tmp_path / "s").schema
    assert schema.provenance["extraction"]["prefix"] == PREFIX["prefix"]
    for other in (backbone, backbone.framed(prefix="passage: ")):
        with pytest.raises(ExtractError, match="its prefix is 'query: ', this run's"):
            extract_corpus(table, other, tmp_path / "s")


def test_layers_are_added_with_the_words_of_the_store(models, tmp_path):
    backbone, _ = models("bert")
    table = pa.table({"id": [str(i) for i in range(4)], "text": ["one", "two cats", "", "a dog"]})
    framed = backbone.framed(**TEMPLATE)
    extract_corpus(table, framed, tmp_path / "all", StoreOptions(hidden="all"))
    extract_corpus(table, framed, tmp_path / "some", StoreOptions(hidden="final"))
    add_layers(tmp_path / "some", hidden="all")
    whole, some = (ActivationStore.open(tmp_path / name) for name in ("all", "some"))
    for layer in range(backbone.num_layers + 1):
        where = {"layer": layer, "samples": np.arange(4)}
        np.testing.assert_allclose(
            some.read_matrix("hidden", **where), whole.read_matrix("hidden", **where), atol=2e-2
        )


@pytest.mark.parametrize("special_tokens", [True, False])
def test_token_means_weigh_a_texts_own_tokens(models, tmp_path, special_tokens):
    backbone, reference = models("bert")
    texts = [*dict.fromkeys(random_texts(20, max_words=12))]
    table = pa.table({"id": [str(i) for i in range(len(texts))], "text": texts})
    framed = backbone.framed(**TEMPLATE)
    options = StoreOptions(dtype="float32", special_tokens=special_tokens)
    extract_corpus(table, framed, tmp_path / "s", options)
    store = ActivationStore.open(tmp_path / "s")
    encoded = Extractor(framed).encode(store.samples()["text"].to_pylist())
    skip, count = encoded.own(np.arange(len(texts)), special_tokens=special_tokens)
    tokens = [
        reference.forward(ids)[0][1][first : first + number]
        for ids, first, number in zip(encoded.ids(np.arange(len(texts))), skip, count, strict=True)
    ]
    chosen = np.array([3, 7, 7, 1])
    unpooled = (encoded.lengths - count)[chosen]
    found = token_means(store, 1, chosen, unpooled=unpooled)
    expected = np.concatenate([tokens[i] for i in (1, 3, 7)]).mean(0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module", params=["prefix", "template"])
def run(request, tmp_path_factory):
    """The configuration of a finished run with words around its texts."""
    folder = tmp_path_factory.mktemp("run")
    frame = {"prefix": 'prefix = "query: "', "template": f"template = '{TEMPLATE['template']}'"}
    poolings = {"prefix": '["last"]', "template": '["mean", "max", "last"]'}[request.param]
    path = write_mood_run(folder, make_tiny_model("gpt2", folder))
    text = path.read_text().replace("[backbone]", f"[backbone]\n{frame[request.param]}")
    peaks = "peaks = true\n" if "max" in poolings else ""
    text = text.replace("[store]", f"[store]\npoolings = {poolings}\n{peaks}")
    path.write_text(text, encoding="utf-8")
    config = RunConfig.load(path)
    stages.run(config)
    return config


def test_scores_are_those_of_the_stored_activations(run):
    store = ActivationStore.open(run.store.path)
    samples = store.samples()
    texts, positions = samples["text"].to_pylist(), samples["position"].to_numpy()
    folder = RunFolder(Path(run.run_dir))
    names = [path.parent.name for path in folder.head("mood").parent.glob("*/head.json")]
    assert {"chosen", "depth_000"} <= {*names}
    for name in sorted(names):
        head = Head.load(folder.head("mood", name))
        card = head.card.extraction["backbone"]
        assert (card.get("prefix"), card.get("template")) == (
            run.backbone.prefix,
            run.backbone.template,
        )
        if any(source.array is None for source in head.features):
            continue
        scorer = Scorer.load([folder.head("mood", name)])
        assert scorer.golden_difference is None or scorer.golden_difference < 1e-3
        assert scorer.check_parity(store, 40) < 1e-3
        expected = head.outputs(stored_activations(head, store, positions))
        np.testing.assert_allclose(scorer.outputs(texts)["mood"], expected, rtol=1e-3, atol=1e-3)


def test_files_and_cascades_are_scored_with_the_words(run, tmp_path):
    store = ActivationStore.open(run.store.path)
    folder = RunFolder(Path(run.run_dir))
    score_files([Path(run.corpus[0].path)], folder.path, tmp_path / "out")
    found = pads.dataset(tmp_path / "out", partitioning="hive").to_table().sort_by("id")
    samples = store.samples()
    known = {key: i for i, key in enumerate(samples["id"].to_pylist())}
    rows = [known[key] for key in found["id"].to_pylist()]
    assert len(rows) == len(samples)
    assert found["n_tokens"].to_pylist() == samples["n_tokens"].take(rows).to_pylist()
    head = Head.load(folder.head("mood"))
    positions = samples["position"].to_numpy()[rows]
    texts = samples["text"].take(rows).to_pylist()
    stored = stored_activations(head, store, positions, texts=lambda: texts)
    expected = head.probabilities(head.outputs(stored))
    for name, values in zip(head.card.classes, expected.T, strict=True):
        np.testing.assert_allclose(found[f"mood_p_{name}"].to_numpy(), values, atol=2e-3)
    early = Head.load(folder.head("mood", "depth_000"))
    cascade = Cascade(
        {"mood": CascadeTask("depth_000", 0, early.fingerprint, 2, head.fingerprint, NEVER)}, 0.0
    )
    both = cascade.scorer(folder)
    assert both.early.extractor.backbone.frame == both.full.extractor.backbone.frame
    assert bool(both.full.extractor.backbone.frame)


def test_heads_without_their_words_are_refused(run):
    folder = RunFolder(Path(run.run_dir))
    head = Head.load(folder.head("mood"))
    plain = load_from_settings(run.backbone.model_copy(update={"prefix": None, "template": None}))
    with pytest.raises(Exception, match="not the backbone these heads were trained on"):
        Scorer([head], backbone=plain)


def test_token_maps_show_the_text_alone(run):
    schema = ActivationStore.open(run.store.path).schema
    reader = TokenReader.for_store(schema)
    text = "a happy cat"
    (found,) = reader.tokens([text], layer=1, neuron=3)
    known = ~np.isnan(found.values)
    assert found.text == text and known.any() and not known.all()
    assert found.starts[known].min() == 0 and found.stops[known].max() == len(text)
    assert not found.stops[~known].any()
    vectors = reader.vectors(text)
    layer = next(values for source, values in vectors.items() if str(source) and source.layer == 1)
    pooled = layer.reshape(len(schema.poolings), -1)[:, 3]
    if "mean" in schema.poolings:
        assert found.values[known].mean() == pytest.approx(pooled[0], abs=2e-3)
        assert found.values[found.peak] == pytest.approx(pooled[1], abs=2e-3)


def test_stored_peaks_lie_on_the_texts_own_tokens(run):
    store = ActivationStore.open(run.store.path)
    if not store.schema.peaks:
        pytest.skip("this run stores no peaks")
    samples = store.samples().slice(0, 12)
    texts, at = samples["text"].to_pylist(), samples["position"].to_numpy()
    tokens = store.read_matrix("peak", layer=1, samples=at)[:, 3].astype(int)
    width = store.schema.neuron_size
    values = store.read_features("ffn", layer=1, features=np.array([width + 3]), samples=at)[:, 0]
    lengths = samples["n_tokens"].to_numpy()
    places = TokenPlaces.for_store(store.schema)
    by_model = TokenReader.for_store(store.schema).tokens(texts, layer=1, neuron=3)
    for one, other in zip(
        places.peaks(texts, tokens, values, n_tokens=lengths), by_model, strict=True
    ):
        assert one.peak == other.peak
        np.testing.assert_array_equal(one.starts, other.starts)


def test_ablation_runs_with_the_words(run):
    fills = ("zero", "mean") if "mean" in run.store.poolings else ("zero",)
    for fill in fills:
        report = ablate(
            run, tasks=["mood"], options=AblationOptions(top=3, draws=1, fill=fill, limit=20)
        )
        assert report["tasks"]["mood"]["num_silenced"] > 0


def test_configurations_that_cannot_be_are_refused_by_key(run):
    data = run.model_dump(mode="json")
    data["backbone"] = {"model": "x", "prefix": "a", "template": "{text}!"}
    with pytest.raises(ConfigError, match=r"backbone: prefix 'a' and template.*both given"):
        RunConfig.from_dict(data, origin=Path("run.toml"))
    data["backbone"] = {"model": "x", "template": "no place"}
    with pytest.raises(ConfigError, match=r"holds \{text\} 0 times"):
        RunConfig.from_dict(data, origin=Path("run.toml"))
    without = run.model_copy(update={"backbone": BackboneConfig(model=run.backbone.model)})
    assert without.fingerprint != run.fingerprint


def test_heads_of_earlier_versions_load(models):
    settings = BackboneConfig(model=models("bert")[0].source).model_dump()
    assert not load_from_settings(settings, device="cpu").frame
    assert replace(load_from_settings(settings, device="cpu").frame, prefix="a ")
