"""Pooling against numpy, whatever the layout."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.backbone import pooling
from pipeline.backbone.packing import Segments
from pipeline.backbone.pooling import POOLINGS, argmax_tokens, check_poolings, pool
from pipeline.errors import ExtractError

NUMPY = {
    "mean": lambda text: text.mean(0),
    "max": lambda text: text.max(0),
    "first": lambda text: text[0],
    "last": lambda text: text[-1],
}


def naive(tokens, starts, lengths, poolings):
    out = np.zeros((len(starts), len(poolings), tokens.shape[1]))
    for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        for p, name in enumerate(poolings):
            if length:
                out[i, p] = NUMPY[name](tokens[start : start + length].astype(np.float64))
    return out


@st.composite
def layouts(draw):
    """Lengths, and where the texts start: packed, or padded on either side."""
    lengths = draw(st.lists(st.integers(0, 9), min_size=1, max_size=12))
    width = max(1, *lengths)
    kind = draw(st.sampled_from(["packed", "right", "left"]))
    rows = np.arange(len(lengths)) * width
    if kind == "packed":
        starts = np.cumsum(lengths) - lengths
        slots = max(1, sum(lengths))
    else:
        starts = rows if kind == "right" else rows + width - lengths
        slots = len(lengths) * width
    values = hnp.arrays(np.float32, (slots, 3), elements=st.floats(-100, 100, width=32))
    return draw(values), starts, np.array(lengths)


@settings(max_examples=200)
@given(layouts(), st.permutations(sorted(POOLINGS)), st.integers(1, 4))
def test_equals_numpy_in_every_layout(layout, names, count):
    tokens, starts, lengths = layout
    poolings = names[:count]
    result = pool(torch.from_numpy(tokens), Segments.of(starts=starts, lengths=lengths), poolings)
    assert result.dtype == torch.float32
    expected = naive(tokens, starts, lengths, poolings)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-4)


@settings(max_examples=100)
@given(layouts())
def test_argmax_names_the_token_of_the_maximum(layout):
    tokens, starts, lengths = layout
    segments = Segments.of(starts=starts, lengths=lengths)
    peaks = argmax_tokens(torch.from_numpy(tokens), segments).numpy()
    for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        if not length:
            assert (peaks[i] == -1).all()
            continue
        at_peak = np.take_along_axis(tokens[start : start + length], peaks[i][None], axis=0)[0]
        np.testing.assert_array_equal(at_peak, tokens[start : start + length].max(0))


def test_pads_never_leak():
    tokens = torch.full((2, 4, 3), torch.inf)
    tokens[0, :2], tokens[1, 1:] = 1.0, 2.0  # padded right, padded left
    result = pool(tokens.flatten(0, 1), Segments.of(starts=[0, 5], lengths=[2, 3]), ("mean", "max"))
    assert torch.equal(result[0], torch.ones(2, 3)) and torch.equal(
        result[1], torch.full((2, 3), 2.0)
    )


def test_texts_in_any_order_and_overlapping_runs():
    tokens = torch.arange(20.0).reshape(10, 2)
    segments = Segments.of(starts=[6, 0, 3], lengths=[3, 3, 3])
    result = pool(tokens, segments, ("first",))[:, 0, 0]
    assert result.tolist() == [12.0, 0.0, 6.0]


def test_mean_of_bfloat16_accumulates_in_float32():
    tokens = torch.full((4096, 1), 1.01).bfloat16()
    result = pool(tokens, Segments.of(starts=[0], lengths=[4096]), ("mean",))
    assert result.item() == pytest.approx(float(tokens[0, 0]), rel=1e-6)


def test_a_slice_of_a_larger_tensor():
    whole = torch.arange(24.0).reshape(6, 4)
    part = whole[2:, 1:3]
    result = pool(part, Segments.of(starts=[1], lengths=[2]), ("mean",))
    assert torch.equal(result[0, 0], part[1:3].mean(0))


@pytest.mark.parametrize("poolings", [["mean", "median"], [], ["mean", "mean"]])
def test_bad_poolings_are_named(poolings):
    with pytest.raises(ExtractError) as caught:
        check_poolings(poolings)
    assert "\n" not in str(caught.value)


@settings(max_examples=100)
@given(layouts(), st.permutations(sorted(POOLINGS)), st.integers(1, 4), st.data())
def test_within_a_frame_each_pooling_takes_its_part(layout, names, count, data):
    tokens, starts, lengths = layout
    poolings = names[:count]
    skip = np.array([data.draw(st.integers(0, n)) for n in lengths])
    own = np.array([data.draw(st.integers(0, n)) for n in lengths - skip])
    text = Segments.of(starts=starts + skip, lengths=own)
    whole = Segments.of(starts=starts, lengths=lengths)
    result = pool(torch.from_numpy(tokens), text, poolings, whole=whole).numpy()
    for p, name in enumerate(poolings):
        part = (starts + skip, own) if name in ("mean", "max") else (starts, lengths)
        expected = naive(tokens, *part, (name,))[:, 0]
        np.testing.assert_allclose(result[:, p], expected, rtol=1e-5, atol=1e-4)


def test_the_fused_kernel_pools_the_texts_own_part(monkeypatch):
    seen = []

    def kernel(tokens, starts, lengths):
        seen.append((starts.tolist(), lengths.tolist()))
        return torch.zeros(len(lengths), 2, tokens.shape[1])

    monkeypatch.setattr(pooling, "fuses", lambda *_: True)
    monkeypatch.setattr(pooling, "mean_and_max", kernel)
    tokens = torch.arange(1.0, 11.0).reshape(5, 2)
    text = Segments.of(starts=[1, 4], lengths=[1, 1])
    whole = Segments.of(starts=[0, 3], lengths=[3, 2])
    result = pool(tokens, text, ("mean", "max", "last"), whole=whole)
    assert seen == [([1, 4], [1, 1])]
    assert result[:, 2].tolist() == [[5.0, 6.0], [9.0, 10.0]] and not result[:, :2].any()
