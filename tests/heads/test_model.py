"""What a head folder holds, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import HeadError
from pipeline.heads.model import Dense, Edges, Head, HeadCard, Part
from pipeline.linear.fitted import Standardiser
from pipeline.texts.lexical import Lexicon
from store.layout import NGRAMS, Source, ffn
from store.tables import read_arrays, read_json, write_arrays, write_json

TEXTS = ("a glad cat", "a sad dog", "the cat was sad", "glad dogs")
SOURCES = (ffn(0), ffn(2), Source("hidden", 2))


def normal(draw: np.random.Generator, *shape: int) -> np.ndarray:
    return draw.normal(size=shape).astype(np.float32)


def linear(seed: int, outputs: int, sources: tuple[Source, ...] = SOURCES) -> Part:
    draw = np.random.default_rng(seed)
    edges = []
    for source in sources:
        plain = Standardiser(normal(draw, 6), np.abs(normal(draw, 6)) + 0.5, 5.0)
        index = np.sort(draw.choice(20, 6, replace=False))
        edges.append(Edges(source, index, plain, normal(draw, outputs, 6), normal(draw, outputs)))
    return Part(tuple(edges))


def network(seed: int, outputs: int) -> Part:
    draw = np.random.default_rng(seed + 100)
    dense = Dense(
        normal(draw, 4, 9), normal(draw, 4), normal(draw, outputs, 4), normal(draw, outputs)
    )
    return Part(linear(seed, 3).edges, dense)


def made(*parts: Part, outputs: int = 3, lexicon: Lexicon | None = None) -> Head:
    card = HeadCard(
        task="t", type="classification", kind="sparse", classes=tuple("abc"[: max(outputs, 2)]),
        metric="accuracy", positive=None, depth=2, num_layers=3,
        num_features=sum(part.num_features for part in parts), selection="share 0.3 by weight",
        val_score=0.5, poolings=("mean", "max"), stored_dtype="float16",
        extraction={"backbone": {"special_tokens": True}, "normalise": {}},
        extraction_fingerprint="f",
    )  # fmt: skip
    return Head(card, parts, None, lexicon)


def activations(seed: int = 9, rows: int = 7) -> dict[Source, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {source: normal(draw, rows, 20) for source in SOURCES}


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_head_is_the_same_from_its_folder(tmp_path: Path, outputs: int) -> None:
    head = made(linear(0, outputs), network(1, outputs), outputs=outputs)
    head.save(tmp_path / "head")
    again = Head.load(tmp_path / "head")
    assert again.card == head.card and again.fingerprint == head.fingerprint
    x = activations()
    np.testing.assert_array_equal(again.outputs_full(x), head.outputs_full(x))
    alone = [replace(head, parts=(part,)).outputs_full(x) for part in head.parts]
    np.testing.assert_allclose(
        head.outputs_full(x), (alone[0] + alone[1]) / 2, rtol=1e-5, atol=1e-6
    )
    own = {source: x[source][:, index] for source, index in head.features.items()}
    np.testing.assert_array_equal(head.outputs(own), head.outputs_full(x))


def test_rescaled_parts_rescale_their_outputs() -> None:
    scale, shift = np.array([2.0, 0.5, 1.0]), np.array([1.0, -1.0, 0.0])
    x = activations()
    for part in (linear(2, 3), network(2, 3)):
        head, changed = made(part), made(part.rescaled(scale, shift))
        expected = head.outputs_full(x) * scale + shift
        np.testing.assert_allclose(changed.outputs_full(x), expected, rtol=1e-4, atol=1e-4)
        assert changed.fingerprint != head.fingerprint


def with_ngrams() -> Head:
    lexicon = Lexicon.fit(TEXTS)
    size = len(lexicon.terms)
    draw = np.random.default_rng(0)
    plain = Standardiser(np.zeros(size, np.float32), np.ones(size, np.float32), np.inf)
    edges = Edges(NGRAMS, np.arange(size), plain, normal(draw, 3, size), normal(draw, 3))
    return made(Part((*linear(3, 3).edges, edges)), lexicon=lexicon)


def test_a_lexicon_goes_with_its_head(tmp_path: Path) -> None:
    head = with_ngrams()
    head.save(tmp_path / "head")
    again = Head.load(tmp_path / "head")
    assert again.lexicon is not None and again.fingerprint == head.fingerprint
    x = activations(rows=4)
    outputs = [
        one.outputs_full(x | {NGRAMS: one.lexicon.features(TEXTS)})
        for one in (head, again)
        if one.lexicon is not None
    ]
    np.testing.assert_array_equal(*outputs)
    (tmp_path / "head" / "lexicon.json").unlink()
    with pytest.raises(HeadError, match="lexicon"):
        Head.load(tmp_path / "head")


def test_another_lexicon_is_another_head(tmp_path: Path) -> None:
    head = with_ngrams()
    head.save(tmp_path / "head")
    path = tmp_path / "head" / "lexicon.json"
    data = read_json(path)
    write_json(path, data | {"words": [word.replace("glad", "blad") for word in data["words"]]})
    with pytest.raises(HeadError, match="do not belong together"):
        Head.load(tmp_path / "head")


def test_thresholds_belong_to_the_fingerprint(tmp_path: Path) -> None:
    head = made(linear(4, 3))
    other = replace(head, thresholds=np.array([0.2, 0.3, 0.5]))
    assert other.fingerprint != head.fingerprint
    other.save(tmp_path / "head")
    np.testing.assert_array_equal(Head.load(tmp_path / "head").thresholds, other.thresholds)
    probability = np.array([[0.3, 0.3, 0.4], [0.1, 0.3, 0.6]])
    assert head.decide(probability).tolist() == [2, 2]
    assert other.decide(probability).tolist() == [0, 2]


def test_damaged_heads_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "head"
    with pytest.raises(HeadError, match=r"no head\.json"):
        Head.load(folder)
    made(linear(5, 3)).save(folder)
    card = read_json(folder / "head.json")
    for changes, problem in (
        ({"format_version": 9}, "head format 9"),
        ({"depth": 1}, "do not belong together"),
        ({"depth": 3}, r"not a head card .*4 of 3 blocks"),
        ({"depth": "2"}, r"not a head card: member 'depth': .* valid integer, not '2'"),
        ({"selektion": "all"}, "not a head card: member 'selektion'"),
        ({"task": "../other"}, "not a head card: member 'task'"),
        ({"classes": ["a", "b\x1b[2J", "c"]}, r"member 'classes\.1': has control characters"),
        ({"metric": "beauty"}, "metric 'beauty'"),
        ({"extraction": {"backbone": {}}}, r"extraction: member 'backbone\.special_tokens'"),
        ({"metrics": {"score": "good"}}, "metrics: member 'score'"),
        ({"provenance": {"snapshot": 3}}, "provenance: member 'snapshot'"),
    ):
        write_json(folder / "head.json", card | changes)
        with pytest.raises(HeadError, match=problem) as refused:
            Head.load(folder)
        assert str(folder) in str(refused.value) and "again" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("part_0.layer_002.features", lambda x: x[::-1]),
        ("part_0.layer_002.features", lambda x: x + 2**40),
        ("part_0.layer_002.features", lambda x: x.astype(np.float32)),
        ("part_0.layer_002.weights", lambda x: x[:, :-1]),
        ("part_0.layer_002.bias", lambda x: x[:-1]),
        ("part_0.layer_002.mean", lambda x: x[None]),
        ("part_0.layer_002.bound", lambda x: x.reshape(1, 1).repeat(2, 0)),
        ("part_0.layer_002.scale", None),
        ("part_1.dense.weights", lambda x: x[:, :-1]),
        ("part_1.dense.hidden_bias", lambda x: x[:-1]),
        ("part_1.dense.bias", None),
    ],
)
def test_tensors_that_do_not_go_together_are_refused(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray] | None
) -> None:
    head = made(linear(5, 3), network(6, 3))
    sizes = {"extraction": {"neuron_size": 48, "hidden_size": 32}}
    head = replace(head, card=replace(head.card, extraction=head.card.extraction | sizes))
    head.save(tmp_path)
    assert Head.load(tmp_path).folder == tmp_path
    arrays = read_arrays(tmp_path / "head.safetensors")
    tensor = arrays.pop(name)
    if change is not None:
        arrays[name] = change(tensor)
    write_arrays(tmp_path / "head.safetensors", arrays)
    with pytest.raises(HeadError, match=r"head\.safetensors: lacks tensors or has others"):
        Head.load(tmp_path)


def test_a_head_larger_than_the_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(linear(5, 3)).save(tmp_path)
    with (tmp_path / "head.safetensors").open("r+b") as file:
        file.truncate(2 * 10**12)
    monkeypatch.setattr("pipeline.heads.model.free_memory", lambda: 10**12)
    with pytest.raises(HeadError, match=r"takes 2,000\.0 GB, 1,000\.0 GB of memory are free"):
        Head.load(tmp_path)
