"""What is proved at load: every layout gives Hugging Face's numbers, or is refused in one line."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from dataclasses import replace
from functools import cache, wraps
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertModel

from pipeline.backbone import engine, selfcheck, sites, states
from pipeline.backbone.limits import Limits, limits_of
from pipeline.backbone.loading import load_backbone
from pipeline.backbone.shapes import odd_sizes, recognise, slots
from pipeline.errors import BackboneError
from pipeline.extraction.extractor import Extractor
from store.layout import Source
from tests.builders.models import (
    CONTEXT,
    TEXTS,
    make_tiny_model,
    needs_onednn,
    random_texts,
    tiny_config,
)
from tests.builders.reference import POOL, relative_error

EXACT = 2e-5
LAYOUTS = {
    "nystromformer": "equal",
    "fnet": "equal",
    "yoso": "equal",
    "convbert": "equal",
    "mobilebert": "equal",
    "longformer": "padded",
    "led": "padded",
    "fsmt": "padded",
    "big_bird": "padded",
    "dpr": "padded",
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.5, 2.0, 2.5],
    "long_factor": [4.0, 5.0, 6.0, 7.0],
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
STRETCHED: dict[str, tuple[str, dict[str, Any], Limits]] = {
    "longrope": (
        "phi3",
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": 12},
        Limits(at=(12,)),
    ),
    "dynamic": (
        "llama",
        {"rope_parameters": DYNAMIC, "max_position_embeddings": 16},
        Limits(equal_above=16),
    ),
    "block sparse": ("big_bird", {}, Limits(equal_above=28)),
}


def load(path, **options):
    return load_backbone(path, **{"engine": "torch", **options})


@cache
def loaded(path):
    return AutoModel.from_pretrained(path, dtype=torch.float32).eval()


def by_hand(backbone, path, text):
    """One text through the model as it was loaded: per layer (2, neuron), (2, hidden)."""
    model = copy.deepcopy(loaded(path))
    part: Any = model.get_submodule(backbone.site.root)
    (ids,) = Extractor(backbone).encode([text]).ids(np.array([0]))
    kept = []

    def keep(_, args, kwargs):
        values = args[0].detach()
        kept.append(values[:, 0] if time_first else values[0])

    time_first = backbone.axes["ffn", 0] == "token, text"
    for layer in range(backbone.num_layers):
        name = backbone.site.inner(backbone.site.down, layer)
        part.get_submodule(name).register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        output = part(torch.tensor(ids[None]), output_hidden_states=True)
    pooled = [
        [[POOL[name](values[: len(ids)].numpy()) for name in ("mean", "max")] for values in part]
        for part in (kept, [state[0] for state in output.hidden_states])
    ]
    return np.array(pooled[0]), np.array(pooled[1])


def assert_right(backbone, path, texts):
    result = Extractor(backbone, hidden="all", batch_tokens=400)(texts)
    expected = [by_hand(backbone, path, text) for text in texts]
    for found, right in zip((result.ffn, result.hidden), zip(*expected, strict=True), strict=True):
        assert relative_error(found, np.stack(right, -1)) <= EXACT


# ------------------------------------------------------------------ layouts


@pytest.mark.parametrize("family", LAYOUTS)
def test_an_odd_model_gives_hugging_faces_numbers(family, tmp_path):
    path = make_tiny_model(family, tmp_path)
    backbone = load(path)
    assert backbone.layout == backbone.checked.layout == LAYOUTS[family]
    assert backbone.checked.largest <= EXACT
    assert_right(backbone, path, [text for text in TEXTS if text] + random_texts(12))


def test_weights_that_the_first_pass_rescales_are_rescaled_once(tmp_path):
    path = make_tiny_model("rwkv", tmp_path)
    backbone = load(path)
    texts = [text for text in TEXTS if text]
    right = np.stack([by_hand(backbone, path, text)[0] for text in texts], -1)
    for _ in range(2):
        assert relative_error(Extractor(backbone)(texts).ffn, right) <= EXACT


def test_states_that_are_not_those_the_model_lists_are_not_read(tiny_bert, monkeypatch):
    forward = BertModel.forward

    @wraps(forward)
    def other(self, *args, **options):
        output = forward(self, *args, **options)
        if output.hidden_states:
            output.hidden_states = tuple(2 * state for state in output.hidden_states)
        return output

    monkeypatch.setattr(BertModel, "forward", other)
    for _ in range(2):  # found, and remembered
        with pytest.raises(BackboneError, match=r"not those that the model itself lists.*sites = "):
            Extractor(load(tiny_bert), hidden="all")


def test_a_pass_that_lists_states_and_fails_is_told_of(tiny_bert, monkeypatch):
    forward = BertModel.forward

    @wraps(forward)
    def other(self, *args, **options):
        if options.get("output_hidden_states"):
            raise ValueError("no lists today")
        return forward(self, *args, **options)

    monkeypatch.setattr(BertModel, "forward", other)
    with pytest.raises(BackboneError, match="no lists today"):
        load(tiny_bert)


@pytest.mark.parametrize("family", ["fnet", "convbert"])
def test_a_layout_that_is_insisted_on_is_refused_with_what_differs(family, tmp_path):
    path = make_tiny_model(family, tmp_path)
    with pytest.raises(BackboneError, match=r"padded: .* layer|hidden state ") as caught:
        load(path, attention="padded")
    assert "attention = 'auto'" in str(caught.value) and "\n" not in str(caught.value)


def test_texts_that_may_not_share_a_batch_are_not_run_together(tmp_path):
    backbone = load(make_tiny_model("fnet", tmp_path))
    with pytest.raises(BackboneError, match=r"2 to 3 tokens .* Backbone\.plan"):
        backbone.run(backbone.batch([np.array([5, 6, 7]), np.array([5, 6])]))


def test_a_model_that_fits_no_layout_is_refused(tmp_path, monkeypatch):
    path = make_tiny_model("bert", tmp_path)
    monkeypatch.setitem(selfcheck.TOLERANCE, torch.float32, -1.0)
    with pytest.raises(BackboneError, match=r"packed: .*; padded: .*; equal: .* choose another"):
        load(path)


# ------------------------------------------------------------------ limits


@pytest.mark.parametrize("kind", STRETCHED)
def test_lengths_on_both_sides_of_a_limit_never_meet(kind, tmp_path):
    family, changes, limits = STRETCHED[kind]
    path = make_tiny_model(family, tmp_path, **changes)
    backbone = load(path, max_length=CONTEXT)
    assert backbone.limits == limits and backbone.changes and backbone.checked.changes
    edge = limits.edges[0]
    assert {edge, edge + 1} <= set(backbone.checked.lengths) and not backbone.checked.untried
    short, long = ["dog", "it was sad"], ["sad dog " * 9, "cat " * 40, "angry " * 15]
    for texts in (short + long, long + short, [long[0], short[0], long[1], short[1], long[2]]):
        assert_right(backbone, path, texts)
    one = [Extractor(backbone)([text]).ffn for text in (*long, *short, *long)]
    np.testing.assert_array_equal(one[0], one[-len(long)])  # whatever ran in between


def test_a_limit_beyond_the_texts_does_not_matter(tmp_path):
    path = make_tiny_model("big_bird", tmp_path, block_size=16)
    backbone = load(path)
    assert not backbone.limits and backbone.changes  # its attention is exchanged all the same
    assert_right(backbone, path, ["dog", "sad dog " * 9])


def test_a_limit_that_is_dear_is_kept_but_not_tried(tmp_path):
    changes = {"rope_parameters": LONGROPE, "original_max_position_embeddings": 2048}
    path = make_tiny_model("phi3", tmp_path, max_position_embeddings=4096, **changes)
    backbone = load(path, max_length=4096)
    assert backbone.limits.at == backbone.checked.untried == (2048,)
    assert backbone.changes


def test_limits_are_read_wherever_a_config_has_them():
    per_type = {"full_attention": LONGROPE | {"original_max_position_embeddings": 9}}

    class Nested:
        def to_dict(self):
            text = {"rope_parameters": per_type, "max_position_embeddings": 90}
            return {"text_config": text, "max_position_embeddings": 7}

    assert limits_of(Nested()) == Limits(at=(9,))
    assert limits_of(tiny_config("llama")) == Limits()
    old = {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 30}
    Nested.to_dict = lambda self: {"text_config": old}
    assert limits_of(Nested()) == Limits(equal_above=30)
    assert limits_of(Nested()).within(30) == Limits()


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("canine", {}, r"does not run on the ids of a text \(RuntimeError: "),
        ("xmod", {}, r"set_default_language"),
        ("fnet", {"dtype": "bfloat16"}, r"dtype = 'float32'"),
        ("vit", {}, "reads no token ids|no part that reads text"),
    ],
)
def test_what_a_dry_run_meets_is_one_line(family, options, message, tmp_path):
    with pytest.raises(BackboneError, match=message) as caught:
        load(make_tiny_model(family, tmp_path), **options)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------ remembering


def test_a_result_is_remembered_for_loads_of_the_same_kind(tmp_path, own_cache, monkeypatch):
    path = make_tiny_model("fnet", tmp_path)
    first = load(path)

    def refuse(*_):
        raise AssertionError("compared again")

    with monkeypatch.context() as patch:
        patch.setattr(selfcheck, "_find_layout", refuse)
        again, short = load(path), load(path, last_layer=0)
        assert again.layout == short.layout == "equal" and again.checked == first.checked
        assert set(short.checked.differences) == {Source("ffn", 0), Source("hidden", 0)}
        for options in ({"dtype": "bfloat16"}, {"max_length": 20}, {"attention": "padded"}):
            with pytest.raises((AssertionError, BackboneError)):
                load(path, **options)
    shutil.rmtree(own_cache / "checks")
    assert load(path, last_layer=0).layout == "equal"
    with monkeypatch.context() as patch, pytest.raises(BackboneError, match="compared again"):
        patch.setattr(selfcheck, "_find_layout", refuse)
        load(path)  # of a part nothing follows for the whole


def failing(monkeypatch, error, *, at=1):
    """Have the comparison's second pass, that of the first layout, fail."""
    whole, calls = selfcheck._observed, []

    def observed(*args):
        calls.append(args)
        if len(calls) == at + 1:
            raise error
        return whole(*args)

    monkeypatch.setattr(selfcheck, "_observed", observed)


FULL = [
    MemoryError("full"),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("error", FULL)
def test_want_of_memory_proves_nothing_of_a_layout(error, at, tiny_bert, own_cache, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(type(error), match=r"full|memory"):
        failing(patch, error, at=at)
        load(tiny_bert)
    assert not (own_cache / "checks").exists() and load(tiny_bert).layout == "packed"


def test_a_layout_that_fails_is_told_and_not_remembered(tiny_bert, monkeypatch, caplog):
    with monkeypatch.context() as patch, caplog.at_level("INFO", "pipeline"):
        failing(patch, ValueError("a slip"))
        backbone = load(tiny_bert)
    assert backbone.layout == "padded"
    assert backbone.checked.passed_over == ("packed: ValueError: a slip",)
    (line,) = caplog.messages
    assert "passed over packed: ValueError: a slip" in line and str(tiny_bert) in line
    again = load(tiny_bert)
    assert again.layout == "packed" and again.checked.passed_over == ()


@pytest.mark.parametrize(
    "facts", [{}, {"layout": "packed"}, {"differences": []}, {"layout": "folded"}]
)
def test_a_damaged_result_is_found_out_again(facts, tiny_bert, own_cache):
    first = load(tiny_bert)
    (file,) = (own_cache / "checks").iterdir()
    kept = json.loads(file.read_text())
    whole = kept["facts"] if facts == {"layout": "folded"} else {}
    file.write_text(json.dumps(kept | {"facts": whole | facts}))
    assert load(tiny_bert).checked == first.checked
    assert json.loads(file.read_text()) == kept


def test_a_result_is_compared_again_if_asked_for(tiny_bert, own_cache):
    load(tiny_bert)
    (file,) = (own_cache / "checks").iterdir()
    file.write_text(file.read_text().replace('"packed"', '"padded"'))
    assert load(tiny_bert).layout == "padded"
    assert load(tiny_bert, anew=True).layout == "packed"
    assert load(tiny_bert).layout == "packed"


def test_what_is_remembered_holds_in_its_circumstances(tiny_bert, monkeypatch):
    backbone = load(tiny_bert)
    keys = [backbone.circumstances(), backbone.circumstances(blocks=1)]
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
        keys.append(backbone.circumstances())
    for name, value in (
        ("site", replace(backbone.site, positions="internal")),
        ("engine", "onednn"),
        ("fingerprint", "another"),
        ("device", torch.device("meta")),
    ):
        other = copy.copy(backbone)
        setattr(other, name, value)
        keys.append(other.circumstances())
    assert len(set(keys)) == len(keys) and keys[0] == load(tiny_bert).circumstances()


@needs_onednn
def test_kernels_that_change_a_model_are_tried_once(tiny_bert, monkeypatch, caplog):
    read = []
    compared, from_pretrained = selfcheck.compared, BertModel.from_pretrained.__func__

    def differ(backbone, values, expected):
        found = compared(backbone, values, expected)
        return found if backbone.engine == "torch" else replace(found, tolerance=-1.0)

    monkeypatch.setattr(engine, "choose", lambda *_, **__: "onednn")
    with monkeypatch.context() as patch:
        patch.setattr(selfcheck, "compared", differ)
        assert load(tiny_bert, engine="auto").engine == "torch"
    (line,) = caplog.messages
    assert "the fast kernels change" in line and str(tiny_bert) in line

    def count(cls, *args, **options):
        read.append(cls)
        return from_pretrained(cls, *args, **options)

    monkeypatch.setattr(BertModel, "from_pretrained", classmethod(count))
    assert load(tiny_bert, engine="auto").engine == "torch" and len(read) == 1
    assert load(tiny_bert, engine="auto", anew=True).engine == "onednn"
    assert load(tiny_bert, engine="auto").engine == "onednn"


@needs_onednn
@pytest.mark.parametrize("error", FULL)
def test_want_of_memory_proves_nothing_of_kernels(error, tiny_bert, own_cache, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(type(error), match=r"full|memory"):
        load(tiny_bert)
        failing(patch, error)
        load(tiny_bert, engine="onednn")
    assert not (own_cache / "kernels").exists()


def test_a_model_repeats_itself_once_for_each_network(caplog):
    names = ("One", "Other")
    networks = [
        type(name, (torch.nn.Linear,), {"__module__": "some.model"})(1, 1) for name in names
    ]
    logger = logging.getLogger("some.model")
    for network in networks:
        states.say_once(network)
        for _ in range(3):
            logger.warning("unused: %s", type(network).__name__)
    assert caplog.messages == ["unused: One", "unused: Other"]


def test_a_dry_run_leaves_the_model_as_it_was(tmp_path):
    backbone = load(make_tiny_model("big_bird", tmp_path))
    kinds = {type(module).__name__ for module in backbone.network.modules()}
    assert "BigBirdBlockSparseAttention" in kinds and "BigBirdSelfAttention" not in kinds


@pytest.mark.parametrize("family", ["mpnet", "bloom"])
def test_what_differs_is_named(family, tmp_path, monkeypatch):
    row = replace(sites.FFN_SITES[family], packs=True)
    monkeypatch.setitem(sites.FFN_SITES, family, row)
    with pytest.raises(BackboneError, match=r"packed: .*; use attention = 'padded'"):
        load(make_tiny_model(family, tmp_path), attention="packed")


# ------------------------------------------------------------------ shapes and states


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 11, 48), "text, token"),
        ((3, 16, 48), "text, token"),  # padded inside
        ((11, 3, 48), "token, text"),
        ((33, 48), "text x token"),
        ((3, 48, 11), None),  # features before tokens
        ((3, 2, 48), None),  # fewer tokens inside
        ((3, 48), None),
        ((3, 11, 4, 12), None),
    ],
)
def test_axes_are_told_from_a_shape(shape, axes):
    assert recognise(shape, texts=3, length=11) == axes
    if axes is not None:
        values = torch.arange(float(np.prod(shape))).reshape(shape)
        tokens = slots(values, axes, texts=3, length=11)
        assert tokens.shape == (33, 48)
        second = {"text, token": (1, 0), "token, text": (0, 1), "text x token": (11,)}[axes]
        assert torch.equal(tokens[11], values[second])  # of the second text its first token


def test_odd_sizes_are_no_width_of_the_model():
    network = torch.nn.Sequential(torch.nn.Linear(3, 11), torch.nn.Linear(11, 13))
    num_texts, length = odd_sizes(network, 48)
    assert num_texts not in (3, 11, 13) and length not in (3, 11, 13) and num_texts != length
    assert odd_sizes(network, 5)[1] <= 5 and odd_sizes(network, 1)[1] == 1
    narrow = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(5, 7))
    assert odd_sizes(narrow, 4) == (6, 4)


def test_what_a_pass_changes_is_found():
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))
            self.inner = torch.nn.Linear(2, 2)
            self.memory = {"longest": 0}

    network = Counting()
    for change, what in (
        (lambda own: own.seen.add_(1), "seen"),
        (lambda own: own.memory.update(longest=3), "memory"),
        (lambda own: setattr(own, "new", 1), "new"),
        (lambda own: setattr(own, "inner", torch.nn.Identity()), "inner"),
        (lambda own: None, None),
    ):
        own = states.fresh(network)
        change(own)
        assert states.changed(network, own) == what
        assert network.seen == 0 and network.memory == {"longest": 0}
        if what != "inner":
            assert own.inner.weight is network.inner.weight
