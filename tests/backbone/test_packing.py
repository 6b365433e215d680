"""Batch plans and layouts."""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backbone.limits import Limits
from pipeline.backbone.packing import pack, pad, plan_batches

LENGTHS = st.lists(st.integers(0, 40), max_size=60)


@given(LENGTHS, st.integers(1, 100), st.booleans(), st.integers(1, 4))
def test_every_text_with_tokens_runs_once_within_the_budget(lengths, budget, packed, lanes):
    batches = list(plan_batches(lengths, max_tokens=budget, packed=packed, lanes=lanes))
    planned = [int(i) for batch in batches for i in batch]
    assert sorted(planned) == [i for i, length in enumerate(lengths) if length]
    for batch in batches:
        sizes = [lengths[i] for i in batch]
        slots = sum(sizes) if packed else max(sizes) * len(sizes)
        assert slots <= budget or len(batch) == 1


@given(LENGTHS, st.integers(1, 100), st.booleans())
def test_batches_are_sorted_and_full(lengths, budget, packed):
    batches = list(plan_batches(lengths, max_tokens=budget, packed=packed))
    sizes = [[lengths[i] for i in batch] for batch in batches]
    flat = [size for batch in sizes for size in batch]
    assert flat == sorted(flat, reverse=True)
    for batch, following in pairwise(sizes):
        grown = [*batch, following[0]]
        slots = sum(grown) if packed else max(grown) * len(grown)
        assert slots > budget


@given(
    LENGTHS,
    st.integers(1, 100),
    st.booleans(),
    st.integers(1, 3),
    st.lists(st.integers(0, 40), unique=True, max_size=3).map(sorted),
    st.none() | st.integers(0, 40),
)
def test_texts_on_both_sides_of_a_limit_never_share_a_batch(
    lengths, budget, packed, lanes, at, above
):
    limits = Limits(tuple(at), above)
    options = {"max_tokens": budget, "packed": packed, "lanes": lanes}
    batches = list(plan_batches(lengths, limits=limits, **options))
    planned = [int(i) for batch in batches for i in batch]
    assert sorted(planned) == [i for i, length in enumerate(lengths) if length]
    for batch in batches:
        sizes = [lengths[i] for i in batch]
        assert limits.allow(sizes)
        for limit in at:
            assert len({size > limit for size in sizes}) == 1
        assert above is None or max(sizes) <= above or len(set(sizes)) == 1
        slots = sum(sizes) if packed else max(sizes) * len(sizes)
        assert slots <= budget or len(batch) == 1
    if not limits:
        plain = list(plan_batches(lengths, **options))
        assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in plain]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30))
def test_equally_long_texts_share_as_few_batches_as_there_are_lengths(lengths):
    limits = Limits(equal_above=0)
    batches = list(plan_batches(lengths, max_tokens=10**6, packed=False, limits=limits))
    assert len(batches) == len(set(lengths))


def test_several_lanes_end_together():
    sizes = [
        25 * len(batch)
        for batch in plan_batches([25] * 1000, max_tokens=4000, packed=True, lanes=2)
    ]
    assert sizes[0] == 4000 and sizes[-1] <= 525 and len(sizes) >= 8
    few = list(plan_batches([25] * 100, max_tokens=4000, packed=True, lanes=4))
    assert len(few) >= 4


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.booleans())
def test_a_batch_says_where_each_token_lies(lengths, packed):
    ids = [np.arange(100 * i, 100 * i + n) for i, n in enumerate(lengths)]
    order = np.arange(len(ids))
    options = {"positions": lambda text: np.arange(len(text))}
    batch = pack(ids, order, **options) if packed else pad(ids, order, pad_id=7, **options)
    flat, positions = batch.input_ids.flatten(), batch.position_ids.flatten()
    for text, start, length in zip(ids, batch.starts, batch.lengths, strict=True):
        assert flat[start : start + length].tolist() == text.tolist()
        assert positions[start : start + length].tolist() == list(range(length))
    assert int(batch.attention_mask.sum()) == batch.num_tokens == sum(lengths)
    assert batch.num_slots == (sum(lengths) if packed else max(lengths) * len(lengths))
    if not packed:
        assert torch.all(batch.input_ids[batch.attention_mask == 0] == 7)
