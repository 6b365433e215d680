from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.backbone.loading import load_backbone
from pipeline.backbone.packing import Segments
from pipeline.backbone.pooling import pool
from pipeline.backbone.slicing import LastLayer
from pipeline.backbone.transformer import Backbone
from pipeline.errors import ExtractError, ScoreError
from pipeline.extraction.extractor import Extractor
from pipeline.extraction.golden import Golden, golden_activations, write_outputs
from pipeline.extraction.picking import Picked
from pipeline.extraction.storing import extract_corpus
from pipeline.heads.model import Head
from pipeline.scoring.scorer import Scorer
from pipeline.texts.lexical import Lexicon
from store import ActivationStore, text_hash
from store.layout import NGRAMS, Source, ffn
from tests.builders.heads import make_head, make_reference
from tests.builders.models import FFN_WIDTH, TEXTS, make_tiny_model, needs_onednn

DATES = (1_704_067_200, 1_704_153_600, None)
"""1 and 2 January 2024, and unknown."""


def rows(texts: list[str | None], *, first: int = 0) -> pa.Table:
    return pa.table(
        {
            "id": pa.array([str(first + i) for i in range(len(texts))], pa.string()),
            "text": pa.array(texts, pa.string()),
            "text_hash": pa.array([text_hash(text or "") for text in texts], pa.string()),
            "created_at": pa.array([DATES[i % 3] for i in range(len(texts))], pa.int64()),
            "source_file": pa.array(["in.jsonl"] * len(texts), pa.string()),
        }
    )


def some_heads(backbone: Backbone) -> list[Head]:
    """Of three tasks that leave out the first and the last layer."""
    draw = np.random.default_rng(0)

    def chosen(count: int) -> np.ndarray:
        return draw.choice(2 * FFN_WIDTH, count, replace=False)

    return [
        make_head(backbone, {ffn(1): chosen(9)}, task="mood", classes=("glad", "mad", "sad")),
        make_head(backbone, {ffn(1): chosen(40)}, task="rude", seed=1, hidden_width=4),
        make_head(backbone, {ffn(1): np.arange(3)}, task="level", classes=(), seed=2),
    ]


@pytest.fixture(scope="module")
def whole(tiny_bert: Path) -> Backbone:
    return load_backbone(tiny_bert)


@pytest.fixture(scope="module")
def heads(whole: Backbone) -> list[Head]:
    return some_heads(whole)


@pytest.fixture(scope="module")
def scorer(heads: list[Head]) -> Scorer:
    return Scorer(heads)


def stored_activations(backbone: Backbone, texts: list[str]) -> dict[Source, np.ndarray]:
    """Source -> (n, 2 A) or (n, 2 H) as a store would hold them."""
    extractor = Extractor(backbone, hidden="all")
    found = extractor(texts)
    rows = (x.reshape(-1, len(texts)).T for x in (*found.ffn, *found.hidden))
    return {
        source: x.astype(np.float16).astype(np.float32)
        for source, x in zip(extractor.sources, rows, strict=True)
    }


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "phi3", "albert", "xlnet", "opt"])
def test_scores_are_those_of_stored_activations(family: str, tmp_path: Path) -> None:
    backbone = load_backbone(make_tiny_model(family, tmp_path / family))
    heads = some_heads(backbone)
    table = Scorer(heads).score_table(rows(list(TEXTS))).table
    layers = stored_activations(backbone, list(TEXTS))
    filled = np.array([bool(text.strip()) for text in TEXTS])
    mood, rude, level = (head.outputs_full(layers) for head in heads)
    found = np.stack([table[f"mood_p_{name}"].to_numpy() for name in ("glad", "mad", "sad")], 1)
    np.testing.assert_allclose(found[filled], heads[0].probabilities(mood)[filled], atol=5e-3)
    found = table["rude_p_yes"].to_numpy()[filled]
    np.testing.assert_allclose(found, heads[1].probabilities(rude)[filled, 1], atol=5e-3)
    np.testing.assert_allclose(table["level"].to_numpy()[filled], level[filled, 0], atol=2e-2)
    empty = table.filter(pa.array(~filled))
    assert empty["mood"].null_count == empty["level"].null_count == (~filled).sum() > 0


def test_only_what_heads_read_is_computed(scorer: Scorer) -> None:
    backbone = scorer.extractor.backbone
    assert scorer.extractor.layers == (1,)
    assert backbone.num_layers == 2
    neurons = np.unique(np.concatenate(list(scorer.features.values())) % FFN_WIDTH)
    assert backbone.last is not None
    np.testing.assert_array_equal(backbone.last.neurons, neurons)
    last = backbone.network.get_submodule("encoder.layer.1")
    reached: list[str] = []
    handles = [
        part.register_forward_hook(lambda *_, name=name: reached.append(name))
        for name, part in (
            ("up", last.intermediate.dense),
            ("down", last.output.dense),
        )
    ]
    try:
        scorer.score_table(rows(["the cat"]))
    finally:
        for handle in handles:
            handle.remove()
    assert reached == ["up"]
    assert last.intermediate.dense.bias.shape == (len(neurons),)


SENTENCE = Source("unit", 3)
HIDDEN_HEADS = {
    # What heads read, blocks loaded, the last block that runs, whether its neurons are cut.
    "hidden states within the FFN layers": ([ffn(0), ffn(1), Source("hidden", 1)], 2, 1, True),
    "one hidden state behind the neurons": ([ffn(1), Source("hidden", 2)], 3, 1, False),
    "hidden states alone": ([Source("hidden", 0), Source("hidden", 1)], 2, 0, False),
    "the embeddings alone": ([Source("hidden", 0)], 1, 0, False),
    "neurons of the last block": ([ffn(2), Source("hidden", 2)], 3, 2, True),
    "the final hidden state": ([ffn(0), Source("hidden", 3)], 3, 2, False),
}


@pytest.mark.parametrize("family", ["bert", "gpt2", "albert", "llama"])
@pytest.mark.parametrize("case", HIDDEN_HEADS)
def test_heads_may_read_hidden_states(
    case: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no block runs behind the last one that is needed."""
    sources, loaded, depth, cut = HIDDEN_HEADS[case]
    whole = load_backbone(make_tiny_model(family, tmp_path / family))
    draw = np.random.default_rng(0)
    sizes = {"ffn": FFN_WIDTH, "hidden": whole.hidden_size}
    features = {s: draw.choice(2 * sizes[s.site], 15, replace=False) for s in sources}
    every = {s: np.arange(2 * sizes[s.site]) for s in sources if s.site == "hidden"}
    heads = [
        make_head(whole, features, task="mood"),
        make_head(whole, features | every, classes=()),
    ]
    assert heads[0].card.depth == depth
    scorer = Scorer(heads)
    backbone = scorer.extractor.backbone
    assert (backbone.num_layers, scorer.depth) == (loaded, depth)
    assert backbone.truncated == (case != "the final hidden state")
    assert (backbone.last is not None) == cut
    reached: list[int] = []
    run = Backbone.run

    def counted(self, *args, **options):
        names = [self.site.inner(self.site.down, i) for i in range(self.num_layers)]
        handles = [
            self.network.get_submodule(name).register_forward_hook(lambda *_: reached.append(1))
            for name in dict.fromkeys(names)
        ]
        try:
            run(self, *args, **options)
        finally:
            for handle in handles:
                handle.remove()

    monkeypatch.setattr(Backbone, "run", counted)
    texts = [text for text in TEXTS if text.strip()]
    found = scorer.outputs(texts)
    whole_blocks = max((s.depth + 1 if s.site == "hidden" else s.depth) for s in sources)
    batches = len(reached) / max(whole_blocks, 1)
    assert batches == int(batches) and bool(whole_blocks) == bool(reached)
    monkeypatch.undo()
    stored = stored_activations(whole, texts)
    for head in heads:
        expected = head.outputs_full(stored)
        np.testing.assert_allclose(found[head.card.task], expected, atol=2e-2)
    with_weights = Scorer(heads, backbone=whole).outputs(texts)
    for task, outputs in found.items():
        np.testing.assert_allclose(with_weights[task], outputs, atol=1e-2)


def test_heads_may_read_the_texts_themselves(whole: Backbone) -> None:
    """Each with its own n-grams; a head that reads nothing else needs no block."""
    texts = [text for text in TEXTS if text.strip()]
    one, other = Lexicon.fit(texts), Lexicon.fit(["a sad dog", "the angry cat"])
    heads = [
        make_head(whole, {NGRAMS: np.arange(len(one.terms))}, task="words", lexicon=one),
        make_head(whole, {NGRAMS: [3, 7], ffn(1): [0, 50]}, task="both", lexicon=other, seed=1),
    ]
    stored = stored_activations(whole, texts)
    own = {ffn(1): stored[ffn(1)][:, [0, 50]], NGRAMS: other.features(texts)[:, [3, 7]]}
    expected = {
        "words": heads[0].outputs({NGRAMS: one.features(texts)}),
        "both": heads[1].outputs(own),
    }
    for chosen in (heads, heads[:1], heads[1:]):
        scorer = Scorer(chosen)
        assert scorer.depth == (1 if heads[1] in chosen else 0)
        table = scorer.score_table(rows(texts)).table
        for head in chosen:
            task = head.card.task
            found = scorer.outputs(texts)[task]
            np.testing.assert_allclose(found, expected[task], atol=1e-2)
            probability = head.probabilities(expected[task])[:, 1]
            np.testing.assert_allclose(table[f"{task}_p_yes"].to_numpy(), probability, atol=5e-3)
    plain = {SENTENCE: np.arange(5)}
    with pytest.raises(ScoreError, match="to be compared with only"):
        Scorer([make_head(whole, plain)])


def test_tables_come_back_in_order_and_with_the_bits_of_each_alone(scorer: Scorer) -> None:
    tables = [rows(list(TEXTS)), rows([]), rows(["dog"], first=20), rows(list(TEXTS)[::-1])]
    together = [scored.table for scored in scorer.score(tables)]
    assert len(together) == len(tables)
    for table, given_rows in zip(together, tables, strict=True):
        assert table.column_names == list(together[0].column_names)
        assert table.schema == together[0].schema
        assert table["id"].equals(given_rows["id"])
        assert table.equals(scorer.score_table(given_rows).table)
    assert list(scorer.score([])) == []


def test_repeated_texts_are_computed_once(scorer: Scorer) -> None:
    before = scorer.extractor.meter.num_texts
    table = scorer.score_table(rows(["dog", "the cat", "dog", None, "", "dog"])).table
    assert scorer.extractor.meter.num_texts - before == 3
    glad = table["mood_p_glad"].to_pylist()
    assert glad[0] == glad[2] == glad[5] != glad[1]
    assert glad[3] is None and glad[4] is None
    assert table["n_tokens"].to_pylist()[0] == table["n_tokens"].to_pylist()[5]


def test_tables_are_read_ahead_and_errors_come_in_their_turn(scorer: Scorer) -> None:
    third_is_read = threading.Event()

    def tables() -> Iterator[pa.Table]:
        for i in range(3):
            if i == 2:
                third_is_read.set()
            yield rows([f"dog {i}"], first=i)
        raise ValueError("broken file")

    results = scorer.score(tables())
    assert [next(results).table["id"].to_pylist() for _ in range(2)] == [["0"], ["1"]]
    assert third_is_read.wait(60), "the third is read before it is asked for"
    assert next(results).table["id"].to_pylist() == ["2"]
    with pytest.raises(ValueError, match="broken file"):
        next(results)


def test_what_goes_along_comes_back_with_its_table(scorer: Scorer) -> None:
    works = [(name, rows([name] * n, first=n)) for n, name in enumerate(("none", "cat", "dog"))]
    found = list(scorer.score_along(works))
    assert [name for name, _ in found] == ["none", "cat", "dog"]
    for (_, table), (_, scored) in zip(works, found, strict=True):
        assert scored.table["id"].equals(table["id"])


def test_a_caller_may_stop_early(scorer: Scorer) -> None:
    threads = torch.get_num_threads()
    results = scorer.score(rows([f"cat {i}"]) for i in range(100))
    next(results)
    results.close()
    assert torch.get_num_threads() == threads


def test_drift_counts_different_texts_by_date(heads: list[Head], whole: Backbone) -> None:
    texts = [f"the {word} cat {i}" for i in range(8) for word in ("sad", "happy", "angry")]
    layers = stored_activations(whole, texts)
    references = {}
    for head in heads[:2]:
        own = {source: layers[source][:, index] for source, index in head.features.items()}
        references[head.card.task] = make_reference(head, own, head.outputs(own))
    scorer = Scorer(heads, references=references)
    scored = scorer.score_table(rows(texts))
    assert sorted(scored.drift.dates) == ["2024-01-01", "2024-01-02", "unknown"]
    total = scored.drift.total("mood")
    assert total is not None and total.num_texts == len(texts)
    assert scored.drift.total("level") is None, "it has no reference"
    comparison = references["mood"].compare(total)
    assert comparison.classes is not None and comparison.classes.psi < 0.02
    assert max(one.psi for one in comparison.predictions) < 0.1, "the same texts"
    repeated = scorer.score_table(rows(["dog"] * 9 + ["", " "]))
    assert {date: found["mood"].num_texts for date, found in repeated.drift.dates.items()} == {
        "2024-01-01": 1,
        "2024-01-02": 1,
        "unknown": 1,
    }
    nothing = pa.Table.from_batches([], schema=rows([]).schema)
    assert scorer.score_table(nothing).drift.dates == {}


def test_golden_outputs_are_checked(heads: list[Head], whole: Backbone) -> None:
    texts = ("a golden cat", "another one")
    layers = stored_activations(whole, list(texts))
    outputs = heads[0].outputs_full(layers).astype(np.float64)
    assert Scorer(heads, golden={"mood": Golden(texts, outputs)}).golden_difference < 1e-3
    assert Scorer(heads).golden_difference is None
    with pytest.raises(ScoreError, match=r"head 'mood': its outputs for the golden texts.*differs"):
        Scorer(heads, golden={"mood": Golden(texts, outputs + 0.05 * np.abs(outputs).max())})


def without_weights(head: Head) -> Head:
    """Its last class reads nothing, as L1 may leave it."""
    (part,) = head.parts
    (edges,) = part.edges
    weights = edges.weights * np.array([[1], [1], [0]], np.float32)
    return replace(head, parts=(replace(part, edges=(replace(edges, weights=weights),)),))


def clipped(head: Head) -> Head:
    """All its features are beyond the standardiser's bound on every text."""
    (part,) = head.parts
    (edges,) = part.edges
    known = replace(edges.standardiser, mean=edges.standardiser.mean - 1000)
    return replace(head, parts=(replace(part, edges=(replace(edges, standardiser=known),)),))


def test_equal_outputs_pass_whatever_rounding_explains(whole: Backbone) -> None:
    """Of features that do not move the outputs rounding explains nothing."""
    texts = tuple(text for text in TEXTS if text)
    lexicon = Lexicon.fit(list(texts))
    ngrams = {NGRAMS: np.arange(len(lexicon.terms))}
    three = make_head(whole, {ffn(1): [4, 60]}, classes=("glad", "mad", "sad"))
    for head in (
        without_weights(three),
        clipped(make_head(whole, {ffn(1): [4]})),
        make_head(whole, ngrams, lexicon=lexicon),
    ):
        outputs = Scorer([head], backbone=whole).outputs(texts)["made"].astype(np.float64)
        same = Golden(texts, outputs)
        assert Scorer([head], backbone=whole, golden={"made": same}).golden_difference == 0
        for other in (outputs + 1e-3, outputs * np.nan):
            golden = {"made": Golden(texts, other)}
            with pytest.raises(ScoreError, match="its outputs for the golden texts"):
                Scorer([head], backbone=whole, golden=golden)


@needs_onednn
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_golden_texts_pass_with_the_other_kernels(dtype: Any, tmp_path: Path, minilm: str) -> None:
    """Heads that were made with one engine and layout, scored with another."""
    features = {ffn(i): np.arange(0, 3072, 7) for i in range(3)}
    made = load_backbone(minilm, dtype=dtype, engine="onednn")
    heads = [
        make_head(made, features | {Source("hidden", 2): np.arange(768)}, task="mood"),
        make_head(made, {ffn(2): [5]}, task="level", classes=()),
    ]
    activations = golden_activations(Extractor(made, hidden="all"), stored_dtype="float16")
    for head in heads:
        head.save(tmp_path / head.card.task)
        outputs = head.outputs_full(activations)
        about = {"features": head.features, "activations": activations}
        write_outputs(tmp_path / head.card.task, outputs, **about)
    folders = [tmp_path / head.card.task for head in heads]
    for options in ({"engine": "torch"}, {"engine": "torch", "attention": "padded"}, {}):
        backbone = load_backbone(minilm, dtype=dtype, **options)  # type: ignore[arg-type]
        assert Scorer.load(folders, backbone=backbone).golden_difference is not None
    if dtype == "float32":
        changed = load_backbone(minilm, dtype=dtype)
        weight = changed.network.get_parameter("encoder.layer.0.attention.self.query.bias")
        with torch.no_grad():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.manual_seed(0)))
        with pytest.raises(ScoreError, match="times what rounding explains"):
            Scorer.load(folders, backbone=changed)


def test_parity_with_a_store(scorer: Scorer, whole: Backbone, tmp_path: Path) -> None:
    texts = [text for text in TEXTS if text]
    table = pa.table({"id": [str(i) for i in range(len(texts))], "text": texts})
    extract_corpus(table, whole, tmp_path / "store")
    path = tmp_path / "store"
    difference = scorer.check_parity(ActivationStore.open(path), 40)
    assert difference is not None and difference < 1e-3
    assert scorer.check_parity(ActivationStore.open(path), 0) is None
    lexicon = Lexicon.fit(texts)
    beside = make_head(whole, {NGRAMS: np.arange(len(lexicon.terms))}, lexicon=lexicon)
    assert Scorer([beside], backbone=whole).check_parity(ActivationStore.open(path), 40) is None

    class Shifted(ActivationStore):
        def read_features(self, *args, **options):
            return super().read_features(*args, **options) * 1.05

    with pytest.raises(ScoreError, match="differ from the stored ones"):
        scorer.check_parity(Shifted.open(path), 8)


def change(**facts: object) -> Callable[[Head], Head]:
    return lambda head: replace(head, card=replace(head.card, **facts))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda heads: [], "no heads"),
        (lambda heads: [heads[0], heads[0]], "two heads for one task"),
        (
            lambda heads: [heads[0], change(extraction_fingerprint="0" * 64)(heads[1])],
            "different extractions",
        ),
        (lambda heads: [change(extraction_fingerprint="0" * 64)(heads[0])], "not the backbone"),
        (lambda heads: [change(poolings=("max", "mean"))(heads[0])], "not the backbone"),
        (lambda heads: [heads[0], change(task="mood_p_sad")(heads[2])], "two columns"),
    ],
)
def test_heads_that_do_not_fit_are_refused(
    heads: list[Head], spoil: Callable[[list[Head]], list[Head]], message: str
) -> None:
    with pytest.raises(ScoreError, match=message):
        Scorer(spoil(heads))


def test_heads_of_an_older_version_score_alone_and_beside_new_ones(
    heads: list[Head], tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_backbone(tiny_bert)
    assert before.older_fingerprint is not None
    before.fingerprint = before.older_fingerprint()  # as it was known then
    old = some_heads(before)
    assert old[0].card.extraction_fingerprint != heads[0].card.extraction_fingerprint
    table = rows(["the dog was sad", "a cat"])
    expected = Scorer(heads).score_table(table).table
    for mixed in (old, [old[0], *heads[1:]], [*heads[:2], old[2]]):
        caplog.clear()
        scorer = Scorer(mixed)
        assert caplog.text.count("not every byte") == 1
        assert scorer.score_table(table).table.equals(expected)
    texts = pa.table({"id": ["1"], "text": ["the dog"]})
    extract_corpus(texts, load_backbone(tiny_bert), tmp_path / "store")
    difference = Scorer(old).check_parity(ActivationStore.open(tmp_path / "store"), 1)
    assert difference is not None and difference < 1e-3
    other = [old[0], replace(heads[1], card=replace(heads[1].card, num_layers=7))]
    with pytest.raises(ScoreError, match="different extractions"):
        Scorer(other)


def test_another_model_is_refused(heads: list[Head], tmp_path: Path) -> None:
    other = make_tiny_model("distilbert", tmp_path / "other")
    with pytest.raises(ScoreError, match="not the backbone"):
        Scorer(heads, model=str(other))


def test_features_that_are_not_computed_are_refused(whole: Backbone) -> None:
    few = whole.truncate(1, neurons=[3, 5])
    assert Extractor(few, features={1: np.array([5, 3 + FFN_WIDTH])}, hidden="none")
    with pytest.raises(ExtractError, match="does not compute"):
        Extractor(few, features={1: np.array([4])}, hidden="none")
    for bad in ([2 * FFN_WIDTH], [-1], []):
        with pytest.raises(ExtractError, match=r"must be numbers in 0\.\.95"):
            Extractor(whole, features={0: np.array(bad, np.int64)}, hidden="none")


class Shape:
    """As much of a backbone as picking needs."""

    neuron_size = 40
    num_layers = 1
    device = torch.device("cpu")
    last: LastLayer | None = None


@settings(max_examples=60)
@given(st.sets(st.integers(0, 79), min_size=1), st.booleans())
def test_picked_features_are_those_of_all(wanted: set[int], only_some: bool) -> None:
    tokens = torch.randn(9, 40, generator=torch.Generator().manual_seed(0))
    segments = Segments.of(starts=[0, 3, 6], lengths=[3, 3, 2])
    features = np.array(sorted(wanted), np.int64)
    expected = pool(tokens, segments, ("mean", "max")).flatten(1)[:, torch.from_numpy(features)]
    shape = Shape()
    if only_some:
        shape.last = LastLayer(np.unique(features % 40)[::-1].copy(), 40, late=True)
        tokens = shape.last.take(tokens)
    picked = Picked.of(features, shape, layer=0, poolings=("mean", "max"))  # type: ignore[arg-type]
    assert torch.equal(picked.pool(tokens, segments), expected)
