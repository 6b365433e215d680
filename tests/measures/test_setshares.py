"""Shares of labels, corrected by the sets in which they come."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy import special

from pipeline.measures.confusion import Confusion
from pipeline.measures.prevalence import CORRECTED, class_shares
from pipeline.measures.setshares import LEAST_ROWS, LabelSets, label_shares

Array = np.ndarray[Any, Any]
PLACES = np.array([-3.0, -1.0, 1.0, 3.0])
"""Of four labels in an order, of which every text has one: neighbours are easily confused."""


def ordered_texts(shares: Array, number: int, seed: int) -> tuple[Array, Array]:
    """The right probabilities of labels that exclude each other ``(n, 4)``, and labels ``(n, 4)``;
    the probabilities are those of texts that have all labels alike often."""
    draw = np.random.default_rng(seed)
    own = draw.choice(4, size=number, p=shares)
    points = PLACES[own] + draw.normal(size=number)
    return special.softmax(-0.5 * np.square(points[:, None] - PLACES), axis=1), np.eye(4)[own]


EVEN = np.full(4, 0.25)


def ordered_sets(rows: int, seed: int) -> LabelSets:
    found = LabelSets.of(*ordered_texts(EVEN, rows, seed), seed=seed)
    assert found is not None
    return found


def free_texts(number: int, seed: int, *, rare: float = 0.02) -> tuple[Array, Array]:
    """Three labels, the last a rare one."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(number, 3)) * 2 + [0.0, -0.5, special.logit(rare)]
    probability = special.expit(logits)
    return probability, draw.random((number, 3)) < probability


def test_labels_that_exclude_each_other_move_together() -> None:
    """Days whose shares are drawn anew, of texts as they were: right, and no day is flagged. Label
    by label the same texts look as if nothing explained them."""
    draw, days = np.random.default_rng(0), 8
    held: dict[str, list[Array]] = {name: [] for name in CORRECTED}
    sets_off, labels_off, flagged = [], [], 0
    for seed in range(days):
        known, targets = ordered_texts(EVEN, 900, seed)
        sets = ordered_sets(900, seed)
        probability, there = ordered_texts(draw.dirichlet(np.ones(4)), 500, 100 + seed)
        real = there.mean(axis=0)
        flagged += sets.misfit(probability) <= 0.01
        for name, own in label_shares(probability, sets, seed=seed).items():
            held[name].append((own.low <= real) & (real <= own.high))
        sets_off.append(np.abs(own.value - real).mean())
        two, new = (np.stack([1 - one[:, 1], one[:, 1]], axis=1) for one in (known, probability))
        alone = Confusion.of(two, two.argmax(axis=1), targets[:, 1].astype(int))
        by_label = class_shares(new, np.bincount(new.argmax(axis=1), minlength=2), alone)["em"]
        labels_off.append(np.abs(by_label.value[1] - real[1]))
    assert flagged <= 1
    for name, one in held.items():
        assert np.mean(one) >= 0.85, (name, np.mean(one))
    assert np.mean(sets_off) < 0.03 and np.mean(labels_off) > 1.5 * np.mean(sets_off)


def test_sets_that_many_rows_have_are_classes_and_the_rest_is_one() -> None:
    probability, targets = free_texts(600, 0)
    found = LabelSets.of(probability, targets)
    assert found is not None
    sets, amounts = np.unique(targets, axis=0, return_counts=True)
    often = amounts >= LEAST_ROWS
    assert np.array_equal(found.members[:-1], sets[often])
    assert found.num_rest == amounts[~often].sum() > 0
    rest = np.repeat(sets[~often], amounts[~often], axis=0).mean(axis=0)
    assert np.allclose(found.members[-1], rest)
    assert np.array_equal(found.confusion.confusion.sum(axis=1)[:-1], amounts[often])
    own = found.probability(probability)
    assert np.allclose(own.sum(axis=1), 1, atol=1e-4) and (own > 0).all()
    # Independent labels: the product is right as it is.
    assert np.abs(own.mean(axis=0) - found.confusion.priors[0]).max() < 0.05


def test_where_few_rows_share_a_set_there_are_none() -> None:
    draw = np.random.default_rng(0)
    probability = draw.random((300, 9))
    assert LabelSets.of(probability, draw.random((300, 9)) < probability) is None
    assert LabelSets.of(probability, np.ones((300, 9))) is None
    assert LabelSets.of(probability[:0], np.ones((0, 9))) is None


def test_of_a_label_that_no_row_has_nothing_is_known() -> None:
    probability, targets = free_texts(500, 1)
    targets[:, 2] = False
    found = LabelSets.of(probability, targets)
    assert found is not None and found.cannot_tell().tolist() == [False, False, True]
    for share in label_shares(probability, found).values():
        assert (share.low[2], share.high[2]) == (0, 1)
        assert (share.low <= share.value).all() and (share.value <= share.high).all()


def test_a_label_of_the_rest_alone_is_not_told() -> None:
    probability, targets = free_texts(500, 2)
    targets[:, 2] = np.arange(500) < 6
    found = LabelSets.of(probability, targets)
    assert found is not None and found.num_rest > 0
    assert found.cannot_tell()[2]


def test_other_texts_are_told() -> None:
    sets = ordered_sets(900, 0)
    probability, _ = ordered_texts(EVEN, 600, 1)
    assert sets.misfit(probability) > 0.05
    assert sets.misfit(0.6 * probability + 0.1) <= 0.01


def test_some_of_many_texts_say_less() -> None:
    sets = ordered_sets(900, 0)
    probability, _ = ordered_texts(EVEN, 400, 1)
    few, many = (label_shares(probability, sets, num_texts=number) for number in (None, 9000))
    for name in CORRECTED:
        assert np.array_equal(few[name].value, many[name].value)
        widths = ((one[name].high - one[name].low).mean() for one in (few, many))
        assert next(widths) < next(widths)
    assert np.isnan(label_shares(probability[:0], sets)["em"].value).all()


def test_they_survive_json_and_float32() -> None:
    probability, targets = free_texts(400, 3)
    found = LabelSets.of(probability, targets)
    assert found is not None
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    back = LabelSets.from_dict(data)
    assert back.num_rest == found.num_rest and np.allclose(back.members, found.members, atol=1e-6)
    one, other = (
        label_shares(values, sets)["em"]
        for values, sets in ((probability, found), (probability.astype(np.float32), back))
    )
    assert np.allclose(one.value, other.value, atol=1e-3)
    for change in ({"members": [[1.0]]}, {"members": 3}, {"members": [[2.0]] * len(back.members)}):
        with pytest.raises(ValueError, match="members"):
            LabelSets.from_dict({**data, **change})
