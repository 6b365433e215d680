"""Ablation: what is silenced, in the model as a user would load it, and what the report says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import stages
from pipeline.backbone.loading import load_backbone
from pipeline.backbone.silencing import check_silenced, silenced
from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.errors import BackboneError, ConfigError, ExtractError, HeadError
from pipeline.extraction.extractor import Extractor
from pipeline.extraction.storing import StoreOptions, extract_corpus
from pipeline.heads.model import Head
from pipeline.linear.design import HIDDEN
from pipeline.measures.metrics import score
from pipeline.neurons.ablation import AblationOptions, ablate
from pipeline.neurons.arms import random_neurons, salient_neurons, token_means
from pipeline.probes.importance import importance_table
from pipeline.probes.model import load_probe
from pipeline.runfolder import RunFolder
from pipeline.texts.lookup import sample_texts
from pipeline.texts.targets import load_target
from store import ActivationStore
from store.tables import read_json
from tests.builders.models import TEXTS, make_tiny_model, random_texts
from tests.builders.reference import Reference, relative_error
from tests.builders.runs import write_mood_run

EXACT = 1e-5


@contextmanager
def hooked(
    reference: Reference, neurons: Mapping[int, Any], values: Mapping[int, Any]
) -> Iterator[None]:
    """Silence neurons of a Hugging Face model by hand."""

    def hook_for(chosen: Any, value: Any) -> Callable[..., Any]:
        def hook(_: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            tokens = args[0].clone()
            for neuron, one in zip(chosen, np.broadcast_to(value, len(chosen)), strict=True):
                tokens[..., int(neuron)] = float(one)
            return (tokens, *args[1:])

        return hook

    handles = [
        reference.model.get_submodule(
            reference.site.down.replace("{i}", str(layer))
        ).register_forward_pre_hook(hook_for(chosen, values[layer]))
        for layer, chosen in neurons.items()
    ]
    yield
    for handle in handles:
        handle.remove()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root, made = tmp_path_factory.mktemp("models"), {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = make_tiny_model(family, root)
        return made[family]

    return get


NEURONS = {0: [1, 5, 6], 2: [0]}
VALUES = {0: [0.5, -1.0, 2.0], 2: [0.25]}

# ------------------------------------------------------------------ silencing


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("bert", {"engine": "torch", "attention": "packed"}),
        ("bert", {"engine": "onednn", "attention": "packed"}),
        ("bert", {"engine": "onednn", "attention": "padded"}),
        ("gpt2", {}),  # Conv1D
        ("llama", {}),  # gated
        ("opt", {}),  # tokens flattened
        ("xlnet", {}),  # time first
        ("t5", {}),  # the encoder of two parts
        ("deberta-v2", {}),  # cannot be packed
    ],
)
def test_equals_hugging_face_with_a_hook(
    family: str, options: dict[str, Any], tiny: Callable[[str], Path]
) -> None:
    backbone, reference = load_backbone(tiny(family), **options), Reference(tiny(family))
    extractor = Extractor(backbone, hidden="all", batch_tokens=64)
    texts = [text for text in TEXTS if text] + random_texts(12, max_words=15)
    before = extractor(texts)
    for values in (None, VALUES):
        found = Extractor(silenced(backbone, NEURONS, values), hidden="all", batch_tokens=64)(texts)
        with hooked(reference, NEURONS, values or {0: 0.0, 2: 0.0}):
            ffn, hidden = reference.pooled(texts, max_length=backbone.max_length)
        assert relative_error(found.ffn, ffn) <= EXACT
        assert relative_error(found.hidden, hidden) <= EXACT
        assert np.abs(found.hidden[-1] - before.hidden[-1]).max() > 1e-2
    after = extractor(texts)
    np.testing.assert_array_equal(after.ffn, before.ffn)
    np.testing.assert_array_equal(after.hidden, before.hidden)


def test_equals_hugging_face_with_a_hook_on_minilm(minilm: str, shared_data: Path) -> None:
    lines = (shared_data / "tweeteval/emotion/val_text.txt").read_text().splitlines()[:40]
    backbone, reference = load_backbone(minilm), Reference(Path(minilm))
    neurons = random_neurons({1: np.arange(80), 4: np.arange(200)}, 1536, seed=0, draw=0)
    found = Extractor(silenced(backbone, neurons), hidden="all")(lines)
    with hooked(reference, neurons, {1: 0.0, 4: 0.0}):
        ffn, hidden = reference.pooled(lines, max_length=backbone.max_length)
    assert relative_error(found.ffn, ffn) <= EXACT
    assert relative_error(found.hidden, hidden) <= EXACT


def test_silencing_nothing_changes_nothing(tiny_bert: Path) -> None:
    backbone = load_backbone(tiny_bert)
    extractor, texts = Extractor(backbone, batch_tokens=64), random_texts(20)
    plain = extractor(texts)
    for neurons in ({}, {1: []}):
        quiet = silenced(backbone, neurons)
        found = Extractor(quiet, batch_tokens=64)(texts)
        np.testing.assert_array_equal(found.ffn, plain.ffn)
        np.testing.assert_array_equal(found.hidden, plain.hidden)
        assert quiet.fingerprint == backbone.fingerprint
    assert len({silenced(backbone, {0: [i]}).fingerprint for i in range(3)}) == 3


def test_the_backbone_itself_stays_as_it_is(tiny_bert: Path) -> None:
    backbone = load_backbone(tiny_bert)
    quiet = silenced(backbone, {0: [1], 1: range(backbone.neuron_size)})
    weights = {tensor.data_ptr() for tensor in backbone.network.parameters() if tensor.is_cpu}
    assert {t.data_ptr() for t in quiet.network.parameters() if t.is_cpu} == weights
    assert not any(module._forward_pre_hooks for module in backbone.network.modules())
    texts = random_texts(30)
    plain, silent = (Extractor(one, batch_tokens=64) for one in (backbone, quiet))
    expected = plain(texts), silent(texts)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(extractor, texts) for extractor in (plain, silent)]
        for future, before in zip(both, expected, strict=True):
            np.testing.assert_array_equal(future.result().ffn, before.ffn)
    assert not expected[1].ffn[1].any()
    assert expected[0].ffn[1].any()
    short = Extractor(quiet.truncate(1), hidden="none")(texts)  # remains silenced
    assert relative_error(short.ffn[:1], expected[1].ffn[:1]) <= EXACT
    assert not short.ffn[1].any()


@pytest.mark.parametrize("kernels", ["torch", "onednn"])
def test_silencing_a_whole_layer_leaves_the_bias(tiny_bert: Path, kernels: Any) -> None:
    backbone, reference = load_backbone(tiny_bert, engine=kernels), Reference(tiny_bert)
    seen = []
    quiet = silenced(backbone, {1: range(backbone.neuron_size)})
    down = quiet.network.get_submodule("encoder.layer.1.output.dense")
    down.register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    found = Extractor(quiet, hidden="all")(TEXTS)
    bias = reference.model.encoder.layer[1].output.dense.bias
    assert seen
    for output in seen:
        assert torch.equal(output, bias.detach().expand_as(output))
    with torch.no_grad():
        reference.model.encoder.layer[1].output.dense.weight.zero_()
    _, hidden = reference.pooled(TEXTS, max_length=backbone.max_length)
    assert relative_error(found.hidden, hidden) <= EXACT
    assert not found.ffn[1].any()


def test_refusals(tiny_bert: Path, tiny: Callable[[str], Path]) -> None:
    backbone = load_backbone(tiny_bert)
    with pytest.raises(BackboneError, match=r"layer 9: .*runs layers 0\.\.2"):
        silenced(backbone, {0: [1], 9: [0]})
    with pytest.raises(BackboneError, match=r"neurons 3\.\.5000 are not all in 0\.\."):
        silenced(backbone, {0: [3, 5000]})
    with pytest.raises(BackboneError, match="silence the full one"):
        silenced(backbone.truncate(1, neurons=[3, 4]), {0: [1]})
    with pytest.raises(BackboneError, match="'albert' share one FFN"):
        silenced(load_backbone(tiny("albert")), {0: [1]})
    with pytest.raises(BackboneError, match="not what they were set to"):
        check_silenced(np.ones((2, 4, 3)), np.array([1]), None)
    check_silenced(np.zeros((2, 4, 3)), np.array([1]), np.array([0.5]))  # texts without tokens


# ------------------------------------------------------------------ which neurons, which values


@settings(max_examples=30)
@given(seed=st.integers(0, 999), top=st.integers(0, 7), share=st.floats(0.01, 1.0))
def test_salient_neurons_are_the_largest(seed: int, top: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    weights = {layer: rng.normal(size=(3, 14)).astype(np.float32) for layer in (0, 4)}
    table = pa.concat_tables(
        importance_table(w, layer=i, poolings=("mean", "max"), classes=("a", "b", "c"))
        for i, w in weights.items()
    )
    most = salient_neurons(table, [4, 0], top=top, share=None)
    enough = salient_neurons(table, [0, 4], top=None, share=share)
    for layer, w in weights.items():
        squared = np.square(w.astype(float)).reshape(3, 2, 7).sum((0, 1))
        order = np.argsort(-squared)
        assert set(most[layer]) == set(order[:top])
        size = len(enough[layer])
        assert set(enough[layer]) == set(order[:size])
        reached = np.cumsum(squared[order]) / squared.sum()
        assert reached[size - 1] >= share - 1e-5
        assert size == 1 or reached[size - 2] < share + 1e-5


def test_random_neurons_are_as_many_and_repeatable() -> None:
    like = {3: np.arange(5), 7: np.arange(40)}
    draws = [random_neurons(like, 40, seed=1, draw=draw) for draw in (0, 0, 1)]
    for layer, chosen in like.items():
        np.testing.assert_array_equal(draws[0][layer], draws[1][layer])
        assert len(np.unique(draws[0][layer])) == len(chosen)
    assert not np.array_equal(draws[0][3], draws[2][3])
    counts = np.zeros(40)
    for draw in range(2000):
        counts[random_neurons({0: np.arange(10)}, 40, seed=0, draw=draw)[0]] += 1
    # Binomial(2000, 1/4): five deviations.
    assert np.abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


@pytest.mark.parametrize("special_tokens", [True, False])
def test_token_means_are_those_over_all_tokens(
    tiny_bert: Path, tmp_path: Path, special_tokens: bool
) -> None:
    texts = [f"{text} {i}" for i, text in enumerate(random_texts(25, max_words=12))]
    table = pa.table({"id": [str(i) for i in range(25)], "text": texts})
    backbone, reference = load_backbone(tiny_bert), Reference(tiny_bert)
    options = StoreOptions(dtype="float32", special_tokens=special_tokens)
    extract_corpus(table, backbone, tmp_path / "s", options)
    store = ActivationStore.open(tmp_path / "s")
    chosen = np.array([3, 17, 4, 4, 9])
    stored = store.samples()["text"].to_pylist()
    edge = slice(None) if special_tokens else slice(1, -1)
    tokens = [reference.tokens(stored[i], max_length=99)[0][1][edge] for i in set(chosen)]
    found = token_means(store, 1, chosen, special_tokens=0 if special_tokens else 2)
    np.testing.assert_allclose(found, np.concatenate(tokens).mean(0), rtol=1e-4, atol=1e-5)


def test_token_means_need_the_mean_pooling(tiny_bert: Path, tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b"], "text": ["one", "two"]})
    options = StoreOptions(poolings=("max",))
    extract_corpus(table, load_backbone(tiny_bert), tmp_path / "s", options)
    with pytest.raises(ConfigError, match="--with zero"):
        token_means(ActivationStore.open(tmp_path / "s"), 0, np.array([0]))


# ------------------------------------------------------------------ the experiment


def expected_value(config: RunConfig, task: str, neurons: Mapping[int, Any], values: Any) -> Any:
    """The metric of both heads with Hugging Face's own model, text by text."""
    store = ActivationStore.open(config.store.path)
    target = load_target(store, config.task(task))
    rows = target.rows("val")
    texts = store.samples()["text"].to_pylist()
    reference = Reference(Path(config.backbone.model))
    with hooked(reference, neurons, values):
        ffn, hidden = reference.pooled([texts[i] for i in rows.positions], max_length=99)
    folder = RunFolder(Path(config.run_dir))
    layers = {
        i: layer.reshape(-1, len(rows)).T.astype(np.float16).astype(np.float32)
        for i, layer in enumerate(ffn)
    }
    last = hidden[-1].reshape(-1, len(rows)).T.astype(np.float16).astype(np.float32)
    outputs = {
        "chosen": Head.load(folder.head(task)).outputs_full(layers),
        "hidden": load_probe(folder, task, HIDDEN).outputs(last),
    }
    metric = config.task(task).selection_metric
    return {
        name: score(metric, rows.targets, found, positive=target.positive)
        for name, found in outputs.items()
    }


@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_report_equals_a_run_by_hand(own_run: RunConfig, fill: str) -> None:
    lines: list[str] = []
    options = AblationOptions(top=4, fill=fill, draws=2, layers=(0, 1, 2))
    report = ablate(own_run, options=options, say=lines.append)
    assert report == read_json(Path(own_run.run_dir) / "ablation.json")
    results = [line for line in lines if "silencing" in line and not line.endswith(" texts")]
    assert len(results) == 2 * 4
    store = ActivationStore.open(own_run.store.path)
    recorded = read_json(Path(own_run.run_dir) / "metrics.json")["tasks"]
    for name, task in report["tasks"].items():
        assert task["num_silenced"] == 12
        neurons = {int(layer): chosen for layer, chosen in task["neurons"].items()}
        train = load_target(store, own_run.task(name)).rows("train").positions
        values = {
            i: token_means(store, i, train)[chosen] if fill == "mean" else 0.0
            for i, chosen in neurons.items()
        }
        expected = expected_value(own_run, name, neurons, values)
        for head in ("chosen", "hidden"):
            entry = task[head]
            assert entry["baseline"] == pytest.approx(recorded[name][head]["val"], abs=1e-3)
            assert entry["salient"]["value"] == pytest.approx(expected[head], abs=1e-3)
            change = entry["salient"]["value"] - entry["baseline"]
            assert entry["salient"]["change"] == pytest.approx(change)
            low, high = entry["salient"]["interval"]
            assert low <= change <= high
            assert len(entry["random"]["values"]) == 2
            gap = entry["salient"]["change"] - entry["random"]["change"]
            assert entry["difference"]["change"] == pytest.approx(gap)


def test_nothing_silenced_changes_nothing(own_run: RunConfig) -> None:
    task = ablate(own_run, tasks=["mood"], options=AblationOptions(top=0))["tasks"]["mood"]
    for head in ("chosen", "hidden"):
        for what in ("salient", "random", "difference"):
            assert task[head][what]["change"] == 0
            assert task[head][what]["interval"] == [0, 0]


def test_blocks_make_no_difference_and_reports_of_other_tasks_stay(
    own_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = AblationOptions(share=0.3, draws=1, split="test")
    both = ablate(own_run, options=options)["tasks"]
    monkeypatch.setattr("pipeline.neurons.ablation.BLOCK_BYTES", 0)
    monkeypatch.setattr("pipeline.neurons.ablation.MIN_BLOCK", 7)
    level = ablate(own_run, tasks=["level"], options=options)["tasks"]["level"]
    for head in ("chosen", "hidden"):
        assert level[head]["salient"]["value"] == pytest.approx(
            both["level"][head]["salient"]["value"], abs=1e-3
        )
    ablate(own_run, tasks=["mood"], options=AblationOptions(top=3, limit=10, draws=1))
    kept = read_json(Path(own_run.run_dir) / "ablation.json")["tasks"]
    assert (kept["mood"]["num_texts"], kept["level"]) == (10, level)


def test_texts_come_from_the_corpus_where_the_store_keeps_none(
    tiny_bert: Path, tmp_path: Path
) -> None:
    path = write_mood_run(tmp_path, tiny_bert, num_rows=40)
    path.write_text(path.read_text().replace("[store]", "[store]\nkeep_text = false"))
    config = RunConfig.load(path)
    stages.extract(config)
    store = ActivationStore.open(config.store.path)
    positions = np.array([5, 0, 5, 31])
    texts = sample_texts(store, positions, config)
    found = Extractor(load_backbone(tiny_bert))(texts).ffn[1].reshape(-1, 4).T
    np.testing.assert_allclose(
        found, store.read_matrix(layer=1, samples=positions), rtol=2e-3, atol=2e-3
    )
    lines = (tmp_path / "tweets.csv").read_text().splitlines()
    (tmp_path / "tweets.csv").write_text("\n".join(line.replace("was", "is") for line in lines))
    with pytest.raises(ExtractError, match="keeps no texts, and 4 of 4"):
        sample_texts(store, positions, config)


# ------------------------------------------------------------------ the command


def test_command(
    own_run: RunConfig, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = finished_run.read_text().replace('"run"', f'"{own_run.run_dir}"')
    for name in ("activations", "tweets.csv"):
        text = text.replace(f'"{name}"', f'"{finished_run.parent / name}"')
    config = tmp_path / "run.toml"
    config.write_text(text)
    run = ["ablate", str(config), "--task", "mood", "--draws", "2"]
    top = ["--top", "5"]
    assert run_command([*run, *top]) == 0
    shown = capsys.readouterr()
    for part in ("difference", "final hidden state", "mean of 2 draws", "ablation.json"):
        assert part in shown.out
    assert "silencing nothing: macro_f1" in shown.err
    assert run_command([*run, "--with", "mean", "--share", "0.2", "--json", "-q"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["tasks"]["mood"]["share"] == 0.2
    assert shown.err == ""
    for arguments, message in (
        (["--task", "joy"], "--task 'joy': there are heads for mood, level"),
        (["--top", "3", "--share", "0.1"], "--top 3 and --share 0.1: give one of them"),
        (["--top", "9999"], "--top 9999: layer 0 has"),
        (["--share", "1.5"], "--share 1.5: must lie in (0, 1]"),
        (["--share", "0"], "--share 0.0: must lie in (0, 1]"),
        (["--with", "noise"], "--with noise: choose zero or mean"),
        (["--split", "dev"], "--split dev: choose train, val or test"),
        (["--draws", "0"], "--draws 0: must be at least 1"),
        (["--limit", "1"], "--limit 1: must be at least 2"),
        (["--layer", "12"], "--layer 12: the run has layers 0..2"),
    ):
        assert run_command([*("ablate", str(config), "-q"), *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith(f"salient: {message}"), error
        assert error.count("\n") == 1
    shutil.rmtree(own_run.run_dir)
    assert run_command(run) == 1
    assert capsys.readouterr().err.endswith("no finished run here; run `salient run` first\n")


def test_another_model_is_refused(own_run: RunConfig, tiny: Callable[[str], Path]) -> None:
    folder = RunFolder(Path(own_run.run_dir))
    card = folder.head("mood") / "head.json"
    card.write_text(card.read_text().replace(own_run.backbone.model, str(tiny("roberta"))))
    with pytest.raises(HeadError, match="not the backbone that"):
        ablate(own_run, tasks=["mood"])
