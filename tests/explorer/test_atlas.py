from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import stages
from pipeline.backbone.transformer import Backbone
from pipeline.config import RunConfig
from pipeline.errors import ConfigError, ExtractError
from pipeline.explorer.atlas import Atlas, Neuron
from pipeline.explorer.fragments import (
    TextGroup,
    TextRow,
    explain_html,
    fragment,
    pieces,
    speaks,
    standing_html,
    text_rows,
)
from pipeline.explorer.tokenmaps import TokenMap, TokenPlaces, TokenReader
from pipeline.heads.attribution import contributions
from pipeline.neurons.rankings import ranking_table
from pipeline.probes.importance import feature_rank
from pipeline.probes.model import load_probe
from pipeline.report.voices import Voice
from pipeline.runfolder import RunFolder
from store import ActivationStore
from store.layout import ffn
from store.tables import write_table
from tests.builders.neurons import NASTY, write_store
from tests.builders.runs import write_mood_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Atlas, np.ndarray]:
    path = tmp_path_factory.mktemp("store") / "s"
    data = write_store(path)
    return Atlas.open(path), data


def test_values_top_and_distribution_are_those_of_the_numbers(
    made: tuple[Atlas, np.ndarray],
) -> None:
    atlas, data = made
    neuron = Neuron(1, "max", 4)
    values = atlas.values(neuron)
    np.testing.assert_array_equal(values, data[1, 1, 4].astype(np.float32))
    for i, (pooling, own) in enumerate(atlas.in_each_pooling(neuron).items()):
        assert pooling == ("mean", "max")[i]
        np.testing.assert_array_equal(own, data[1, i, 4].astype(np.float32))
    np.testing.assert_array_equal(atlas.top(values, 9), np.argsort(-values)[:9])
    np.testing.assert_array_equal(atlas.top(values, 9, lowest=True), np.argsort(values)[:9])
    assert len(atlas.top(values, 10**6)) == len(values)
    seen = np.arange(len(values)) % 3 != 2  # never the test split
    found = atlas.distribution(values, "mood")
    assert found is not None
    for i, (name, count) in enumerate(found.names):
        own = values[seen & (np.arange(len(values)) % 2 == i)]
        assert (name, count) == (f"<i>{'ab'[i]}</i>", len(own))
        assert found.means[i] == pytest.approx(own.mean(), rel=1e-5)
        expected = np.histogram(own, found.edges)[0] / len(own)
        np.testing.assert_allclose(found.shares[i], expected)
    level = atlas.distribution(atlas.values(Neuron(0, "mean", 0)), "level")
    assert level is not None and level.correlation == pytest.approx(1.0, abs=1e-6)
    every = atlas.distribution(values)
    assert every is not None and every.names == (("all samples", len(values)),)
    assert every.means[0] == pytest.approx(values.mean(dtype=np.float64))
    np.testing.assert_allclose(every.shares[0], np.histogram(values, every.edges)[0] / len(values))
    assert atlas.texts.label_names("mood", [0, 1, 2]) == ["<i>a</i>", "<i>b</i>", ""]


def test_correlations_are_pearsons(made: tuple[Atlas, np.ndarray]) -> None:
    atlas, data = made
    flat = data.astype(np.float64).reshape(2, 10, -1)
    for layer in (0, 1):
        found = atlas.correlated(Neuron(0, "max", 2), layer=layer, count=10)
        expected = np.array([np.corrcoef(flat[0, 7], row)[0, 1] for row in flat[layer]])
        if layer == 0:
            expected[7] = 0.0
        order = np.argsort(-np.abs(expected), kind="stable")
        assert [atlas.check(one.neuron) for one in found] == order.tolist()
        np.testing.assert_allclose([c.correlation for c in found], expected[order], atol=2e-5)
    assert found[0].neuron == Neuron(1, "mean", 3) and found[0].correlation < -0.9


def test_samples_are_found_and_read(made: tuple[Atlas, np.ndarray]) -> None:
    atlas, data = made
    assert atlas.texts.find("id20") == [20]
    assert atlas.texts.find("NUMBER 14") == [14, *range(140, 150)]
    assert atlas.texts.find("number", limit=3) == [0, 1, 2]
    assert atlas.texts.find("nothing") == [] and atlas.texts.find("  ") == []
    assert atlas.texts.has(149) and not atlas.texts.has(150)
    x = atlas.sample(70)
    np.testing.assert_array_equal(x[ffn(1)], data[1, :, :, 70].ravel().astype(np.float32))
    strong = atlas.strongest(x, 3)
    flat = data.astype(np.float64).reshape(20, -1)
    z = (flat[:, 70] - flat.mean(1)) / flat.std(1)
    np.testing.assert_allclose([s.z for s in strong], np.sort(z)[::-1][:3], rtol=1e-3)
    assert strong[0].neuron == atlas.name(*divmod(int(z.argmax()), 10))


@pytest.mark.parametrize(
    ("neuron", "words"),
    [
        (Neuron(2, "max", 0), "layer 2"),
        (Neuron(0, "last", 0), "'last'"),
        (Neuron(0, "max", 5), "5"),
    ],
)
def test_unknown_neurons_are_named(
    made: tuple[Atlas, np.ndarray], neuron: Neuron, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        made[0].values(neuron)


def test_deleted_samples_are_hidden(tmp_path: Path) -> None:
    data = write_store(tmp_path / "s")
    ActivationStore.open(tmp_path / "s").delete(["id3", "id64"])
    atlas = Atlas.open(tmp_path / "s")
    values = atlas.values(Neuron(0, "max", 2))
    assert np.isnan(values[[3, 64]]).all() and np.isfinite(values).sum() == 148
    assert not {3, 64} & set(atlas.top(values, 150).tolist())
    assert atlas.texts.find("number 64") == [] and not atlas.texts.has(64)
    assert atlas.texts.at([4, 65]) == ["text number 4", "text number 65"]
    alive = np.isfinite(values)
    flat = data.astype(np.float64).reshape(2, 10, -1)[..., alive]
    expected = np.corrcoef(flat[0, 7], flat[1, 3])[0, 1]
    best = atlas.correlated(Neuron(0, "max", 2), layer=1)[0]
    assert best.neuron == Neuron(1, "mean", 3)
    assert best.correlation == pytest.approx(expected, abs=1e-4)


def test_everything_shown_is_escaped(made: tuple[Atlas, np.ndarray]) -> None:
    atlas, _ = made
    neuron = Neuron(0, "max", 2)
    values = atlas.values(neuron)
    rows = text_rows(atlas, None, neuron, np.array([7, 0]), values, "mood")
    html = fragment("texts", [TextGroup("<u>", rows)], "<u>")
    html += fragment("legend", [("<u>", "#000000")]) + fragment("scale", "<u>", 0, 1, ["#000000"])
    html += fragment("near", [{"position": 7, "id": NASTY, "text": NASTY, "label": "<i>a</i>"}])
    html += fragment("messages", [NASTY]) + fragment("heading", neuron)
    html += fragment("found", [{"position": 7, "id": NASTY, "text": NASTY, "label": NASTY}], NASTY)
    html += fragment("found", [], NASTY) + fragment("header", NASTY, NASTY, [NASTY])
    html += explain_html(atlas, None, position=7) + explain_html(atlas, None, text=NASTY)
    assert "&lt;script&gt;" in html and "&lt;i&gt;" in html
    for tag in ("<script", "<b>", "<i>", "<u>"):
        assert tag not in html


def test_pieces_give_the_text_back_and_mark_its_tokens() -> None:
    text = "a <b> cat"
    spans = np.array([[0, 0], [0, 1], [2, 5], [6, 9], [0, 0]])
    values = np.array([9.0, 0.5, -1.0, 2.0, 0.1], np.float32)
    found = TokenMap(text, spans[:, 0], spans[:, 1], values)
    special, space, *parts = pieces(found, scale=2.0)
    assert special.peak and "special" in special.text and space.text == " "
    assert special.heat == 1.0
    assert "".join(part.text for part in parts) == text
    marked = [(part.text, part.heat) for part in parts if part.value is not None]
    assert marked == [("a", 0.25), ("<b>", 0.0), ("cat", 1.0)]
    long = "x" * 1000 + " cat " + "y" * 1000
    found = TokenMap(long, np.array([1001]), np.array([1004]), np.array([1.0], np.float32))
    shown = list(pieces(found, scale=1.0))
    assert len("".join(part.text for part in shown)) < 400
    assert [part.text for part in shown if part.peak] == ["cat"]
    assert shown[0].text == shown[-1].text == "…"


def test_a_run_adds_ranks_and_decisions_and_its_model_the_tokens(finished_run: Path) -> None:
    config = RunConfig.load(finished_run)
    atlas = Atlas.open(config.store.path, run=config.run_dir)
    assert set(atlas.heads) == set(atlas.ranking.tasks) == {"mood", "level"}
    (neuron, share), *_ = atlas.most_important("mood", 5)
    rank = next(rank for rank in atlas.ranks(neuron) if rank.task == "mood")
    assert rank.rank == 1 and rank.share == pytest.approx(share)
    reader = TokenReader.for_store(atlas.store.schema)
    position = atlas.texts.find("happy")[0]
    text = atlas.texts.at([position])[0]
    assert text is not None
    # What the model says now is what is stored, and its tokens pool to it.
    stored, again = atlas.sample(position), reader.vectors(text)
    assert {site for site, _ in stored} == {"ffn", "hidden"} and list(again) == list(stored)
    for source, values in stored.items():
        np.testing.assert_allclose(again[source], values, atol=4e-3)
    (found,) = reader.tokens([text], layer=neuron.layer, neuron=neuron.neuron)
    peak = stored[ffn(neuron.layer)].reshape(2, -1)[:, neuron.neuron]
    assert found.values.mean() == pytest.approx(peak[0], abs=2e-3)
    assert found.values[found.peak] == pytest.approx(peak[1], abs=2e-3)
    assert found.stops.max() == len(text) and len(found.starts) == len(found.values)
    for decision in atlas.decisions(stored):
        head = atlas.heads[decision.task]
        outputs = head.outputs_full({i: x[None] for i, x in stored.items()})
        if decision.probabilities:
            probability = head.probabilities(outputs)[0]
            assert decision.outcome == head.card.classes[head.decide(probability[None])[0]]
            assert list(decision.probabilities.values()) == pytest.approx(probability, rel=1e-5)
        else:
            assert float(decision.outcome) == pytest.approx(float(outputs[0, 0]), rel=1e-2)
        assert abs(decision.reasons[0].contribution) >= abs(decision.reasons[-1].contribution)
        slices = {source: stored[source][at] for source, at in head.features.items()}
        parts = contributions(head, slices).towards(
            head.card.classes.index(decision.outcome) if head.card.classes else None
        )
        sizes = np.sort(np.abs(np.concatenate([*parts.values()])))[::-1]
        assert decision.carried == pytest.approx(sizes[:12].sum() / sizes.sum())
        assert decision.num_others == max(len(sizes) - 12, 0)
    assert "your text" in explain_html(atlas, reader, text="an angry dog")


def test_a_neuron_speaks_with_the_weights_of_its_layers_probe(finished_run: Path) -> None:
    config = RunConfig.load(finished_run)
    folder = RunFolder(Path(config.run_dir))
    atlas = Atlas.open(config.store.path, run=config.run_dir)
    neuron = Neuron(2, "max", 7)
    voices = {voice.task: voice for voice in atlas.voices(neuron)}
    for task, voice in voices.items():
        weights = load_probe(folder, task, ffn(2)).weights[:, atlas.check(neuron)]
        if task == "level":
            assert voice.kind == "regression" and voice.weights["value"] == pytest.approx(
                weights[0]
            )
            continue
        assert list(voice.weights) == list(atlas.heads[task].card.classes)
        assert sum(voice.weights.values()) == pytest.approx(0, abs=1e-6)
        spread = list(voice.weights.values())
        logits = weights if len(weights) > 1 else np.array([0, weights[0]])
        np.testing.assert_allclose(spread, logits - logits.mean(), atol=1e-6)
    html = standing_html(atlas, neuron, "mood", {}, chosen=True)
    assert speaks(voices["mood"]) in html and "Weight in the layer's probe, mood" in html
    # Without the run's probes there is nothing to say, and no failure.
    atlas.run = RunFolder(folder.path / "nowhere")
    atlas._probes.clear()
    assert atlas.voices(neuron) == []
    assert "Weight in" not in standing_html(atlas, neuron, "mood", {}, chosen=False)


@pytest.mark.parametrize(
    ("kind", "weights", "words"),
    [
        ("classification", {"a": 0.2, "b": -0.15, "c": -0.05}, "for a +0.200, against b -0.150"),
        ("multilabel", {"a": 0.2, "b": 0.1}, "for a +0.200"),
        ("multilabel", {"a": -0.2, "b": -0.1}, "against a -0.200"),
        ("multilabel", {"a": 0.0}, "neither for nor against"),
        ("regression", {"value": -0.5}, "lowers the value -0.500"),
        ("regression", {"value": 0.5}, "raises the value +0.500"),
    ],
)
def test_signs_are_said_in_words(kind: str, weights: dict[str, float], words: str) -> None:
    voice = Voice("mood", weights, kind)
    assert speaks(voice) == words and speaks(None) == "–"
    assert abs(voice.by_size()[0][1]) == max(map(abs, weights.values()))


def before_and_at_peak(row: TextRow) -> tuple[str, str]:
    """The text before the outlined token, and the token."""
    (at,) = (i for i, piece in enumerate(row.pieces) if piece.peak)
    return "".join(piece.text for piece in row.pieces[:at]), row.pieces[at].text


@pytest.mark.parametrize("special_tokens", [True, False])
def test_stored_peaks_mark_the_token_that_the_model_does(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, special_tokens: bool
) -> None:
    path = write_mood_run(tmp_path, tiny_bert)
    text = path.read_text().replace("[store]", "[store]\npeaks = true")
    if not special_tokens:
        text = text.replace("[backbone]", "[backbone]\nspecial_tokens = false")
    path.write_text(text)
    config = RunConfig.load(path)
    stages.extract(config)
    atlas = Atlas.open(config.store.path)
    schema = atlas.store.schema
    reader = TokenReader.for_store(schema)
    neurons = [Neuron(i, pooling, 3 * i + 1) for i in range(3) for pooling in schema.poolings]
    places = TokenPlaces.for_store(schema)
    by_model, positions = {}, {}
    for neuron in neurons:
        values = atlas.values(neuron)
        positions[neuron] = atlas.top(values, 12)
        by_model[neuron] = text_rows(atlas, reader, neuron, positions[neuron], values, None)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(Backbone, "run", fail)
    for neuron in neurons:
        values, at = atlas.values(neuron), positions[neuron]
        rows = text_rows(atlas, reader, neuron, at, values, None, places=places)
        again = text_rows(atlas, None, neuron, at, values, None, places=places)
        assert rows == again
        for row, other in zip(rows, by_model[neuron], strict=True):
            (peak,) = (piece for piece in row.pieces if piece.value is not None)
            (same,) = (piece for piece in other.pieces if piece.peak)
            assert peak.peak and peak.value == pytest.approx(same.value, abs=2e-3)
            assert before_and_at_peak(row) == before_and_at_peak(other)
    tokens, values = atlas.peaks(neurons[0], positions[neurons[0]])
    lengths = atlas.texts.num_tokens(positions[neurons[0]])
    assert (tokens >= 0).all() and (tokens < lengths).all()
    texts = [str(text) for text in atlas.texts.at(positions[neurons[0]])]
    with pytest.raises(ExtractError, match="tokenizer is not the one"):
        places.peaks(texts, tokens, values, n_tokens=lengths + 1)
    no_tokens = places.peaks(texts[:1], np.array([-1]), values[:1], n_tokens=lengths[:1])
    assert no_tokens[0].peak == -1
    with pytest.raises(ExtractError, match="how long"):
        TokenPlaces.for_store(
            replace(schema, provenance={"backbone": schema.provenance["backbone"]})
        )


def test_other_rankings_are_shown_where_they_were_made(finished_run: Path, tmp_path: Path) -> None:
    config = RunConfig.load(finished_run)
    shutil.copytree(config.run_dir, tmp_path / "run")
    schema = ActivationStore.open(config.store.path).schema
    draw, num_features = np.random.default_rng(0), 2 * schema.neuron_size
    values = [{n: draw.normal(size=num_features) for n in ("l2", "anova_f")} for _ in range(3)]
    parts = [
        ranking_table(v, task="mood", layer=i, poolings=schema.poolings)
        for i, v in enumerate(values)
    ]
    write_table(tmp_path / "run" / "rankings" / "mood.parquet", pa.concat_tables(parts))
    atlas = Atlas.open(config.store.path, run=tmp_path / "run")
    expected = feature_rank(values[2]["anova_f"]) + 1
    for feature in (0, num_features - 1):
        ranks = {rank.task: rank.others for rank in atlas.ranks(atlas.name(2, feature))}
        assert ranks == {"mood": {"anova_f": expected[feature]}, "level": {}}
    html = fragment(
        "standing",
        Neuron(2, "max", 1),
        [{**vars(rank), "speaks": "–"} for rank in atlas.ranks(Neuron(2, "max", 1))],
        None,
        {"anova_f": "<F>"},
        True,
    )
    assert "&lt;F&gt; " in html


def test_no_model_is_fetched_for_a_store(finished_run: Path) -> None:
    schema = ActivationStore.open(RunConfig.load(finished_run).store.path).schema
    backbone = {"model": "somebody/some-model", "revision": "0" * 40}
    elsewhere = replace(schema, provenance={"backbone": backbone})
    with pytest.raises(ExtractError, match=r"not on this machine.*--model"):
        TokenReader.for_store(elsewhere)
    with pytest.raises(ExtractError, match="does not say which model"):
        TokenReader.for_store(replace(schema, provenance={}))
    for odd in (
        {"backbone": {**schema.provenance["backbone"], "dtype": "float8"}},
        {"backbone": {**schema.provenance["backbone"], "hook": "os.system"}},
        {**schema.provenance, "extraction": ["odd"]},
    ):
        for kind in (TokenReader, TokenPlaces):
            with pytest.raises(ExtractError, match=r"the store: .*(dtype|hook|odd)"):
                kind.for_store(replace(schema, provenance=odd))
    odd = {**schema.provenance, "normalise": {"eval": True}}
    with pytest.raises(ExtractError, match=r"the store: .*eval: unknown key"):
        TokenReader.for_store(replace(schema, provenance=odd))
    with pytest.raises(ExtractError, match="not the model that the store"):
        TokenReader.for_store(replace(schema, fingerprint="other"))


def test_a_run_of_another_store_is_refused(finished_run: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "s")
    run = RunConfig.load(finished_run).run_dir
    with pytest.raises(ConfigError, match="name the run that was made from this store"):
        Atlas.open(tmp_path / "s", run=run)
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "importance")
    atlas = Atlas.open(tmp_path / "s", run=tmp_path / "run")
    assert not atlas.heads and "another extraction" in atlas.notes[0]
