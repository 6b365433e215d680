"""Extraction: invariant to batch and order, equal to the naive way, resumable, honest."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.backbone.loading import load_backbone
from pipeline.backbone.pooling import POOLINGS
from pipeline.backbone.transformer import Backbone
from pipeline.errors import ConfigError, ExtractError
from pipeline.events import BlockWritten, Event, Progressed, watch
from pipeline.extraction.adding import add_layers
from pipeline.extraction.extractor import Extractor
from pipeline.extraction.storing import (
    DEFAULTS,
    StoreOptions,
    extract_block,
    extract_corpus,
    open_store,
    schema_of,
)
from store import ActivationStore, StoreError
from store.upkeep.inspection import verify
from tests.builders.models import (
    CONTEXT,
    TEXTS,
    WORDS,
    make_tiny_model,
    make_tokenizer,
    random_texts,
)
from tests.builders.reference import Reference, relative_error

EXACT = 1e-5
STORED = 1e-3
FAMILIES = ("roberta", "gpt2", "deberta-v2")  # packed encoder, packed decoder, padded


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Family -> (backbone, reference)."""
    root = tmp_path_factory.mktemp("models")
    paths = {family: make_tiny_model(family, root) for family in FAMILIES}
    return {
        name: (load_backbone(path, engine="torch"), Reference(path)) for name, path in paths.items()
    }


def table(texts, prefix="t"):
    ids = [f"{prefix}{i}" for i in range(len(texts))]
    return pa.table({"id": ids, "text": list(texts)})


def small_batches(monkeypatch, tokens):
    """Have extractors of whole corpora run batches of so many tokens."""
    monkeypatch.setattr(
        "pipeline.extraction.storing.Extractor", partial(Extractor, batch_tokens=tokens)
    )


def same_shards(folder, expected):
    """How many files of activations two stores share, bytes and all; they must share all."""
    files = [path for path in expected.glob("ffn/c/**/*") if path.is_file()]
    for path in files:
        assert (folder / path.relative_to(expected)).read_bytes() == path.read_bytes()
    return len(files)


texts_of_any_length = st.lists(
    st.integers(0, CONTEXT + 12).map(lambda n: " ".join((WORDS.split() * 4)[:n])),
    min_size=1,
    max_size=7,
)


@settings(max_examples=150)
@given(
    family=st.sampled_from(FAMILIES),
    texts=texts_of_any_length,
    budget=st.integers(1, 150),
    poolings=st.permutations(sorted(POOLINGS)),
    count=st.integers(1, 4),
)
def test_equals_the_naive_way(loaded, family, texts, budget, poolings, count):
    backbone, reference = loaded[family]
    extractor = Extractor(backbone, poolings=poolings[:count], batch_tokens=budget)
    if not any(backbone.tokenizer(text)["input_ids"] for text in texts):
        assert not extractor(texts).ffn.any()
        return
    ffn, hidden = reference.pooled(texts, poolings=poolings[:count], max_length=CONTEXT)
    result = extractor(texts)
    assert relative_error(result.ffn, ffn) <= EXACT
    assert relative_error(result.hidden, hidden[-1:]) <= EXACT
    lengths = [len(backbone.tokenizer(text)["input_ids"]) for text in texts]
    assert result.n_tokens.tolist() == [min(n, CONTEXT) for n in lengths]
    assert result.truncated.tolist() == [n > CONTEXT for n in lengths]


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_and_order_make_no_difference(loaded, family):
    backbone, _ = loaded[family]
    texts = random_texts(40)
    whole = Extractor(backbone)(texts)
    order = np.random.default_rng(0).permutation(len(texts))
    shuffled = Extractor(backbone, batch_tokens=64)([texts[i] for i in order])
    alone = np.concatenate([Extractor(backbone)([text]).ffn for text in texts], -1)
    assert relative_error(shuffled.ffn, whole.ffn[..., order]) <= EXACT
    assert relative_error(alone, whole.ffn) <= EXACT


def test_the_tokenizers_padding_side_makes_no_difference(loaded, tmp_path):
    path = make_tiny_model("roberta", tmp_path)
    make_tokenizer(path, style="roberta", padding_side="left")
    backbone = load_backbone(path, attention="padded")
    assert backbone.tokenizer.padding_side == "left"
    expected = Extractor(loaded["roberta"][0])(TEXTS)
    assert relative_error(Extractor(backbone)(TEXTS).ffn, expected.ffn) <= EXACT


def test_a_text_without_tokens_is_zeros(loaded):
    result = Extractor(loaded["gpt2"][0])(["", "dog"])
    assert result.n_tokens[0] == 0 and result.n_tokens[1] > 0
    assert not result.ffn[..., 0].any() and not result.hidden[..., 0].any()
    assert Extractor(loaded["gpt2"][0])([]).ffn.shape[-1] == 0


def test_special_tokens_can_be_left_out_of_the_pool(loaded):
    backbone, reference = loaded["roberta"]
    text = "the cat sat"
    result = Extractor(backbone, special_tokens=False)([text, ""])
    layers, _, ids = reference.tokens(text, max_length=CONTEXT)
    inner = np.stack([layer[1:-1].mean(0) for layer in layers])
    assert ids[0] == 0 and ids[-1] == 2
    assert relative_error(result.ffn[:, 0, :, 0], inner) <= EXACT
    assert not result.ffn[..., 1].any()
    assert result.n_tokens.tolist() == [len(ids), 2]


def test_identical_texts_are_computed_once(loaded):
    extractor = Extractor(loaded["roberta"][0])
    result = extractor(["dog", "cat", "dog", "dog"])
    assert extractor.meter.num_texts == 2
    np.testing.assert_array_equal(result.ffn[..., 0], result.ffn[..., 3])
    assert result.ffn.shape[-1] == 4


def test_lone_surrogates_are_replaced(loaded):
    extractor = Extractor(loaded["roberta"][0])
    result = extractor(["a \ud83d b", "a \ufffd b"])
    assert relative_error(result.ffn[..., 0], result.ffn[..., 1]) <= EXACT


def test_layers_and_hidden_states_can_be_chosen(loaded):
    backbone, _ = loaded["roberta"]
    full = Extractor(backbone, hidden="all")(TEXTS)
    some = Extractor(backbone, layers=[2, 0], hidden="none")(TEXTS)
    assert some.hidden is None and full.hidden.shape[0] == backbone.num_layers + 1
    np.testing.assert_array_equal(some.ffn, full.ffn[[2, 0]])


def test_peaks_name_the_tokens(loaded):
    backbone, reference = loaded["roberta"]
    result = Extractor(backbone, peaks=True)(TEXTS)
    layers, _, _ = reference.tokens(TEXTS[3], max_length=CONTEXT)
    for layer, tokens in enumerate(layers):
        at_peak = np.take_along_axis(tokens, result.peaks[layer, :, 3][None], 0)[0]
        np.testing.assert_allclose(at_peak, tokens.max(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "special_tokens", "dtype"),
    [("roberta", True, "float16"), ("roberta", False, "float32"), ("gpt2", True, "float16")],
)
def test_stored_peaks_are_the_tokens_of_hugging_faces_maxima(
    loaded, family, special_tokens, dtype, tmp_path, monkeypatch
):
    backbone, reference = loaded[family]
    texts = ["", *dict.fromkeys([*TEXTS, *random_texts(12)])]
    small_batches(monkeypatch, 90)
    options = StoreOptions(special_tokens=special_tokens, dtype=dtype, peaks=True)
    extract_corpus(table(texts), backbone, tmp_path / "s", options)
    store = ActivationStore.open(tmp_path / "s")
    assert verify(store).sound
    for text, at in zip(texts, store.positions(table(texts)["id"]), strict=True):
        layers, _, _ = reference.tokens(text, max_length=CONTEXT)
        for layer in range(backbone.num_layers):
            stored = store.read_matrix("peak", layer=layer, samples=[at])[0]
            tokens = layers[layer] if layers else np.zeros((0, backbone.neuron_size))
            tokens = tokens if special_tokens else tokens[1:-1]
            if not len(tokens):
                assert (stored == -1).all()
                continue
            # Two tokens may be as strong as each other but for the last bits.
            other = stored != tokens.argmax(0)
            at_peak = tokens[stored.astype(int), np.arange(len(stored))]
            np.testing.assert_allclose(at_peak[other], tokens.max(0)[other], rtol=EXACT)
            assert other.mean() < 0.05
    without = replace(options, peaks=False)
    extract_corpus(table(texts), backbone, tmp_path / "plain", without)
    plain = ActivationStore.open(tmp_path / "plain")
    assert plain.schema.fingerprint == store.schema.fingerprint
    np.testing.assert_array_equal(plain.read_matrix(layer=1), store.read_matrix(layer=1))
    with pytest.raises(ExtractError, match="peaks is True, this run's False"):
        extract_corpus(table(texts), backbone, tmp_path / "s", without)
    more = extract_corpus(table(["more"], "m"), backbone, tmp_path / "s", options)
    assert more.num_new == 1


def test_a_store_of_an_older_version_goes_on(tmp_path, caplog):
    path = make_tiny_model("bert", tmp_path)
    before, now = (load_backbone(path, engine="torch") for _ in range(2))
    before.fingerprint = before.older_fingerprint()  # as it was known then
    store = tmp_path / "s"
    extract_corpus(table(["one dog"]), before, store)
    recorded = ActivationStore.open(store).schema.fingerprint
    assert recorded != Extractor(now).fingerprint()
    report = extract_corpus(table(["one dog", "a cat"], "u"), now, store)
    assert report.num_new == 1 and caplog.text.count("not every byte") == 1
    assert ActivationStore.open(store).schema.fingerprint == recorded
    # Of what differs, the model is not named where only its fingerprint is of another version.
    with pytest.raises(ExtractError, match="its special_tokens is True, this run's False"):
        extract_corpus(table(["more"], "m"), now, store, StoreOptions(special_tokens=False))
    other = load_backbone(make_tiny_model("bert", tmp_path, seed=1), engine="torch")
    with pytest.raises(ExtractError, match="its model"):
        extract_corpus(table(["more"], "m"), other, store)


def test_peaks_that_cannot_be_stored_are_refused(loaded, monkeypatch, tmp_path):
    backbone, _ = loaded["roberta"]
    with pytest.raises(StoreError, match="pooling 'max'"):
        options = StoreOptions(poolings=("mean",), peaks=True)
        extract_corpus(table(TEXTS), backbone, tmp_path / "s", options)
    monkeypatch.setattr(backbone, "max_length", 4096)
    with pytest.raises(ExtractError, match=r'2048.*4096 tokens.*dtype = "float32"'):
        extract_corpus(table(TEXTS), backbone, tmp_path / "s", StoreOptions(peaks=True))
    assert not (tmp_path / "s").exists()


def test_batches_are_told_as_they_are_done(loaded):
    extractor = Extractor(loaded["roberta"][0], batch_tokens=64)
    encoded = extractor.encode(random_texts(30))
    told: list[int] = []
    extractor.compute(encoded, on_batch=told.append)
    assert told == sorted(set(told)) and len(told) > 2
    assert told[-1] == np.count_nonzero(encoded.lengths)


def test_running_out_of_memory_halves_the_batches_once(loaded, monkeypatch, caplog):
    backbone, _ = loaded["roberta"]
    texts = random_texts(20)
    expected = Extractor(backbone)(texts)
    run = Backbone.run

    def run_in_little_memory(self, batch, **options):
        if batch.num_slots > 64:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …")
        run(self, batch, **options)

    monkeypatch.setattr(Backbone, "run", run_in_little_memory)
    with caplog.at_level("WARNING"):
        result = Extractor(backbone, batch_tokens=120)(texts)
    assert "60 tokens" in caplog.text
    assert relative_error(result.ffn, expected.ffn) <= EXACT
    with pytest.raises(ExtractError, match="batch_tokens"):
        Extractor(backbone, batch_tokens=1000)(texts)


def test_other_errors_pass_through(loaded, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("something else")

    monkeypatch.setattr(Backbone, "run", fail)
    with pytest.raises(RuntimeError, match="something else"):
        Extractor(loaded["roberta"][0])(["dog"])


# ------------------------------------------------------------------ into a store


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_stored_equals_hugging_face(loaded, family, tmp_path):
    backbone, reference = loaded[family]
    options = StoreOptions(samples_per_shard=2048)
    report = extract_corpus(table(TEXTS), backbone, tmp_path / "store", options)
    store = ActivationStore.open(tmp_path / "store")
    ffn, hidden = reference.pooled(TEXTS, max_length=CONTEXT)
    at = store.positions([f"t{i}" for i in range(len(TEXTS))])
    stored = np.stack([store.read_matrix(layer=i)[at].T for i in range(backbone.num_layers)])
    assert relative_error(stored.reshape(ffn.shape), ffn) <= STORED
    final = store.read_matrix("hidden", layer=backbone.num_layers)[at].T
    assert relative_error(final.reshape(hidden[-1:].shape), hidden[-1:]) <= STORED
    assert report.num_new == len(TEXTS) and report.snapshot_id == store.snapshot_id
    assert report.num_truncated == 1
    samples = store.samples().to_pydict()
    expected = Extractor(backbone)(samples["text"])
    assert samples["n_tokens"] == expected.n_tokens.tolist()
    assert samples["truncated"] == expected.truncated.tolist()


def test_running_again_computes_only_what_is_new(loaded, tmp_path):
    backbone, _ = loaded["roberta"]
    texts = list(dict.fromkeys(random_texts(50)))
    first = extract_corpus(table(texts[:20]), backbone, tmp_path / "s")
    second = extract_corpus(table(texts), backbone, tmp_path / "s")
    third = extract_corpus(table(texts), backbone, tmp_path / "s")
    assert (first.num_new, second.num_new, third.num_new) == (20, len(texts) - 20, 0)
    assert second.num_known == 20 and third.num_known == len(texts)
    copies = extract_corpus(table(texts, prefix="retweet"), backbone, tmp_path / "s")
    assert copies.num_new == 0


def test_an_interrupted_run_resumes_to_the_same_bytes(loaded, tmp_path, monkeypatch):
    backbone, _ = loaded["roberta"]
    texts = list(dict.fromkeys(random_texts(60, max_words=12)))
    options = StoreOptions(samples_per_shard=8, dtype="float32")
    extract_corpus(table(texts), backbone, tmp_path / "whole", options)
    compute, calls = Extractor.compute, []

    def compute_twice(self, *arguments, **keywords):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return compute(self, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "compute", compute_twice)
        with pytest.raises(KeyboardInterrupt):
            extract_corpus(table(texts), backbone, tmp_path / "cut", options)
    with told() as done:
        report = extract_corpus(table(texts), backbone, tmp_path / "cut", options)
    assert 0 < report.num_new < len(texts)
    assert done[-1] == (report.num_new, report.num_new)
    assert same_shards(tmp_path / "cut", tmp_path / "whole") == 3 * -(-len(texts) // 8)


@contextmanager
def told() -> Iterator[list[tuple[int, int]]]:
    """What is said of progress: texts done, and texts to do."""
    found: list[tuple[int, int]] = []

    def hear(event: Event) -> None:
        if isinstance(event, Progressed):
            found.append((event.done, event.total))

    with watch(hear):
        yield found


def test_each_block_says_what_memory_it_was_to_take_and_what_it_came_to(loaded, tmp_path):
    backbone, _ = loaded["roberta"]
    texts = list(dict.fromkeys(random_texts(60, max_words=12)))
    options = StoreOptions(samples_per_shard=8, dtype="float32")
    events: list[Event] = []
    with watch(events.append):
        report = extract_corpus(table(texts), backbone, tmp_path / "s", options)
    blocks = [event for event in events if isinstance(event, BlockWritten)]
    assert [block.start for block in blocks] == list(range(0, report.num_new, 8))
    assert [block.stop for block in blocks[:-1]] == [block.start for block in blocks[1:]]
    assert blocks[-1].stop == report.num_new
    size = ActivationStore.open(tmp_path / "s").schema.bytes_per_sample
    for block in blocks:
        assert block.store == str(tmp_path / "s") and block.worker == "" and block.gpu_bytes == 0
        held = block.estimated_bytes - 2 * (block.stop - block.start) * size
        assert 50e6 < held <= block.peak_bytes < 1e12  # the process and its model
        assert block.elapsed_s > 0
    peaks = [block.peak_bytes for block in blocks]
    assert peaks == sorted(peaks)
    assert report.peak_bytes == peaks[-1]
    assert report.estimated_bytes == max(block.estimated_bytes for block in blocks)


def test_progress_is_told_inside_a_block_and_changes_nothing(loaded, tmp_path, monkeypatch):
    backbone, _ = loaded["roberta"]
    texts = table(["", *dict.fromkeys(random_texts(60))])
    todo = len(set(texts["text"].to_pylist()))
    small_batches(monkeypatch, 64)
    options = StoreOptions(samples_per_shard=2048, dtype="float32")
    monkeypatch.setattr("pipeline.extraction.storing.PROGRESS_SECONDS", np.inf)
    with told() as quiet:
        extract_corpus(texts, backbone, tmp_path / "quiet", options)
    assert quiet == [(todo, todo)]  # done before there was anything to tell
    monkeypatch.setattr("pipeline.extraction.storing.PROGRESS_SECONDS", 0.0)
    with told() as often:
        extract_corpus(texts, backbone, tmp_path / "told", options)
    assert len(often) > 5 and often[-1] == (todo, todo)
    assert often == sorted(set(often)) and {of for _, of in often} == {todo}
    assert same_shards(tmp_path / "told", tmp_path / "quiet") == backbone.num_layers


def test_progress_comes_at_most_every_few_seconds(loaded, tmp_path, monkeypatch):
    clock = SimpleNamespace(
        monotonic=partial(next, count(0.0, 0.4)), perf_counter=time.perf_counter
    )
    monkeypatch.setattr("pipeline.extraction.storing.time", clock)
    small_batches(monkeypatch, 10)
    texts = [f"{i} dog" for i in range(100)]
    with told() as found:
        extract_corpus(table(texts), loaded["roberta"][0], tmp_path / "s")
    assert 2 < len(found) < len(texts) / 4


def test_workers_do_blocks_in_any_order(loaded, tmp_path):
    backbone, _ = loaded["gpt2"]
    texts = table(list(dict.fromkeys(random_texts(30))))
    extractor = Extractor(backbone)
    options = StoreOptions(samples_per_shard=8, store_text=False)
    store = open_store(tmp_path / "s", extractor, options, num_texts=30)
    plan = store.plan_append(texts)
    for block in reversed(plan.blocks):
        worker = ActivationStore.open(tmp_path / "s")
        extract_block(extractor, worker, worker.open_plan(plan.id), block, texts=texts)
    store.commit()
    expected = extractor(texts["text"].to_pylist())
    at = store.positions(texts["id"].to_pylist())
    stored = store.read_matrix(layer=1)[at].T.reshape(expected.ffn.shape[1:])
    assert relative_error(stored[None], expected.ffn[1:2]) <= STORED


def test_a_store_without_texts_is_filled_too(loaded, tmp_path):
    options = StoreOptions(store_text=False)
    report = extract_corpus(table(TEXTS), loaded["gpt2"][0], tmp_path / "s", options)
    assert report.num_new == len(TEXTS)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"poolings": ("max",)}, "poolings"),
        ({"special_tokens": False}, "special_tokens"),
        ({"hidden": "all"}, "hidden states"),
        ({"dtype": "float32"}, "dtype"),
        ({"normalisation": {"users": True}}, "normalisation"),
    ],
)
def test_other_settings_are_refused(loaded, options, named, tmp_path):
    backbone, _ = loaded["roberta"]
    extract_corpus(table(TEXTS), backbone, tmp_path / "s", StoreOptions(hidden="final"))
    with pytest.raises(ExtractError, match=named) as caught:
        extract_corpus(table(TEXTS), backbone, tmp_path / "s", StoreOptions(**options))
    assert "\n" not in str(caught.value)


def test_a_store_of_some_experts_goes_on_with_them(tmp_path, monkeypatch):
    backbone = load_backbone(make_tiny_model("mixtral", tmp_path))
    some = StoreOptions(sites=("router", "experts"), experts=(0, 1))
    extract_corpus(table(TEXTS[:3]), backbone, tmp_path / "s", some)
    extract_corpus(table(TEXTS), backbone, tmp_path / "s")
    store = ActivationStore.open(tmp_path / "s")
    assert store.num_samples == len(TEXTS) and store.schema.experts == (0, 1)
    monkeypatch.setattr(Extractor, "compute", None)  # refused before anything is computed
    for experts in (None, (0, 2)):
        other = replace(some, experts=experts)
        with pytest.raises(ExtractError, match=r"its experts kept is \[0, 1\], this run's"):
            extract_corpus(table([*TEXTS, "new"]), backbone, tmp_path / "s", other)


def test_a_digest_of_something_unknown_is_refused(loaded, tmp_path):
    backbone, _ = loaded["roberta"]
    extractor = DEFAULTS.extractor(backbone)
    schema = schema_of(extractor, DEFAULTS, 3)
    ActivationStore.create(tmp_path / "s", replace(schema, fingerprint="f" * 64))
    with pytest.raises(ExtractError, match="its digest of the extraction is 'ffffffff"):
        open_store(tmp_path / "s", extractor, num_texts=3)


def test_ragged_layers_can_be_added(tmp_path):
    """Of glm4_moe only the upper blocks have shared experts, which are its FFNs."""
    path = make_tiny_model("glm4_moe", tmp_path)
    about = {"backbone": {"model": str(path)}}
    options = StoreOptions(hidden="final", provenance=about)
    extract_corpus(table(TEXTS), load_backbone(path), tmp_path / "s", options)
    assert str(add_layers(tmp_path / "s", layers="all")).startswith("nothing to add")
    with pytest.raises(ConfigError, match="valid are all, and numbers out of 1, 2 with commas"):
        add_layers(tmp_path / "s", layers="0")
    added = add_layers(tmp_path / "s", hidden="all").layers
    assert added == {"hidden": (0, 1, 2)}


def test_states_that_cannot_be_read_are_left_out(loaded, tmp_path, monkeypatch):
    backbone, _ = loaded["roberta"]
    about = {"backbone": {"model": backbone.source}}
    options = StoreOptions(hidden="final", provenance=about)
    extract_corpus(table(TEXTS), backbone, tmp_path / "s", options)
    monkeypatch.setattr(Backbone, "readable_states", (1, backbone.num_layers))
    with pytest.raises(ConfigError, match=f"numbers out of 1, {backbone.num_layers} with"):
        add_layers(tmp_path / "s", hidden="0")
    assert add_layers(tmp_path / "s", hidden="all").layers == {"hidden": (1,)}


def test_hidden_states_are_all_stored_if_nobody_says(loaded, tmp_path):
    """But an old store that has the final one only gets no more than that."""
    backbone, _ = loaded["roberta"]
    states = tuple(range(backbone.num_layers + 1))
    for name, hidden, held in (("new", None, states), ("old", "final", states[-1:])):
        extract_corpus(table(TEXTS[:3]), backbone, tmp_path / name, StoreOptions(hidden=hidden))
        extract_corpus(table(TEXTS), backbone, tmp_path / name)
        store = ActivationStore.open(tmp_path / name)
        assert store.schema.hidden_layers == held and store.num_samples == len(TEXTS)


def test_another_model_is_refused(loaded, tmp_path):
    extract_corpus(table(TEXTS), loaded["roberta"][0], tmp_path / "s")
    other = load_backbone(make_tiny_model("roberta", tmp_path, seed=5))
    with pytest.raises(ExtractError, match="other settings") as caught:
        extract_corpus(table(TEXTS), other, tmp_path / "s")
    assert "\n" not in str(caught.value)


def test_a_table_without_texts_is_refused(loaded, tmp_path):
    with pytest.raises(ExtractError, match="no column 'text'"):
        extract_corpus(pa.table({"id": ["a"]}), loaded["gpt2"][0], tmp_path / "s")


def test_activations_too_large_for_float16_are_refused_with_the_remedy(tmp_path):
    path = make_tiny_model("gpt2", tmp_path)
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "model.safetensors")
    tensors["h.1.mlp.c_fc.bias"] += 1e5
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    backbone = load_backbone(path)
    with pytest.raises(ExtractError, match=r'layer 1 .*dtype = "float32"'):
        extract_corpus(table(TEXTS), backbone, tmp_path / "s16")
    report = extract_corpus(table(TEXTS), backbone, tmp_path / "s32", StoreOptions(dtype="float32"))
    assert report.num_new == len(TEXTS)


def test_the_report_adds_up(loaded, tmp_path):
    backbone, _ = loaded["deberta-v2"]
    texts = list(dict.fromkeys(random_texts(50)))
    report = extract_corpus(table(texts), backbone, tmp_path / "s")
    lengths = [min(CONTEXT, len(backbone.tokenizer(text)["input_ids"])) for text in texts]
    assert report.num_tokens == sum(lengths)
    assert report.num_slots >= report.num_tokens and 0 <= report.padding_share < 0.5
    assert report.texts_per_s > 0 and report.flops_per_s > 0
    assert set(report.stage_s) == {"tokenise", "compute", "write"}
    assert "\n" not in str(report) and "texts/s" in str(report)
    assert report.to_dict()["tokens_per_s"] == report.tokens_per_s


@pytest.mark.slow
@pytest.mark.parametrize("name", ["roberta", "distilbert", "gpt2"])
def test_full_size_models_equal_hugging_face(name, tmp_path):
    from transformers import DistilBertConfig, GPT2Config, RobertaConfig

    from tests.builders.models import VOCABULARY, save_random_model

    words = {"vocab_size": VOCABULARY}  # as the tokenizer has
    config = {
        "roberta": RobertaConfig(max_position_embeddings=514, type_vocab_size=1, **words),
        "distilbert": DistilBertConfig(**words),
        "gpt2": GPT2Config(bos_token_id=0, eos_token_id=0, **words),
    }[name]
    save_random_model(config, tmp_path / name, spread=False)
    make_tokenizer(tmp_path / name, style="roberta" if name == "roberta" else "bert")
    texts = [*TEXTS, *random_texts(8, max_words=80)]
    backbone, reference = load_backbone(tmp_path / name), Reference(tmp_path / name)
    ffn, hidden = reference.pooled(texts, max_length=backbone.max_length)
    result = Extractor(backbone, hidden="all")(texts)
    assert relative_error(result.ffn, ffn) <= EXACT
    assert relative_error(result.hidden, hidden) <= EXACT
    half = load_backbone(tmp_path / name, dtype="bfloat16")
    assert relative_error(Extractor(half)(texts).ffn, ffn) <= 2e-2
