"""Silenced neurons: equal to a hook in the model as a user would load it, or refused."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.backbone.loading import load_backbone
from pipeline.backbone.silencing import check_silenced, silenced
from pipeline.errors import BackboneError
from pipeline.extraction.extractor import Extractor
from pipeline.neurons.arms import random_neurons
from tests.builders.models import TEXTS, make_tiny_model, random_texts
from tests.builders.reference import Reference, hooked, relative_error

EXACT = 1e-5


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
            np.testing.assert_allclose(future.result().ffn, before.ffn, rtol=EXACT, atol=1e-6)
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


def test_blocks_without_an_ffn_are_refused(tmp_path: Path) -> None:
    backbone = load_backbone(make_tiny_model("glm4_moe", tmp_path))
    assert 0 not in backbone.ffn_layers and 1 in backbone.ffn_layers
    with pytest.raises(BackboneError, match=r"layer 0: .*has FFNs in layers 1, 2"):
        silenced(backbone, {0: [1]})
    assert silenced(backbone, {1: [1]}).fingerprint != backbone.fingerprint


def test_refusals(tiny_bert: Path, tiny: Callable[[str], Path]) -> None:
    backbone = load_backbone(tiny_bert)
    with pytest.raises(BackboneError, match=r"layer 9: .*has FFNs in layers 0, 1, 2"):
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
