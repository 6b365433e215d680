"""Which head is chosen, and how heads are judged, down to very few texts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import HeadConfig
from pipeline.heads.candidates import linear_part
from pipeline.heads.choice import (
    Candidate,
    Judge,
    Rule,
    Scores,
    best_of,
    candidate_rows,
    choose,
    losses_of,
    standard_error,
    why_chosen,
)
from pipeline.heads.joint import Joint
from pipeline.heads.model import Dense, Edges, Part
from pipeline.heads.salient import joint_sets
from pipeline.heads.sparse import fit_chosen
from pipeline.heads.stack import stacked
from pipeline.linear.fitted import Standardiser
from pipeline.linear.threads import BlockThreads
from pipeline.measures.metrics import probabilities
from pipeline.probes.model import Problem
from store.layout import NGRAMS, Source, ffn
from tests.builders.features import make_joint, memory_sources

Array = NDArray[Any]
ROWS = 200
SOURCE = ffn(2)


def candidate(
    losses: Array, *, depth: int = 0, num_features: int = 10, kind: str = "dense"
) -> Candidate:
    none = np.zeros((0, 1))
    return Candidate(kind, depth, None, "made", num_features, (), none, losses, 0.0, 0.0)


def around(mean: float, seed: int = 0, spread: float = 0.2, rows: int = ROWS) -> Array:
    """Losses of exactly that mean and spread."""
    found = np.random.default_rng(seed).normal(size=rows)
    return np.asarray(mean + spread * (found - found.mean()) / found.std())


ALONE = np.arange(ROWS)


ERROR = 0.2 / np.sqrt(ROWS)
"""The standard error of losses apart by ``around``."""
CONSTANT = 0.5 + 10 * ERROR / 0.02
"""Where a head of loss 0.5 may give away ten standard errors."""


def behind(errors: float, seed: int = 1) -> Array:
    """Losses that are so many standard errors behind those of ``around(0.5)``."""
    return around(0.5) + around(errors * ERROR, seed)


def chosen_of(heads: Sequence[Candidate], groups: Array = ALONE, **options: Any) -> Candidate:
    return choose(heads, groups, **{"constant_loss": CONSTANT} | options)


def test_the_standard_error_is_the_textbooks() -> None:
    found = around(1.0, 3)
    assert standard_error(found, ALONE) == pytest.approx(found.std() / np.sqrt(ROWS))
    # Rows that are copies of each other count once.
    copies = np.repeat(found, 4)
    expected = standard_error(found, ALONE)
    assert standard_error(copies, np.repeat(ALONE, 4) + 7) == pytest.approx(expected)
    assert standard_error(copies, np.arange(4 * ROWS)) == pytest.approx(expected / 2)
    assert standard_error(np.full(5, 3.0), np.zeros(5, np.int64)) == 0.0


def test_the_head_on_all_features_must_be_beaten_surely() -> None:
    nothing: dict[str, Any] = {"constant_loss": 0.5}  # may be given away
    full, shallow = candidate(around(0.5), depth=5), candidate(behind(20, 3), depth=1)
    near, better = (candidate(behind(-errors), depth=5, kind="stack") for errors in (2.9, 3.1))
    for heads in ([full, shallow, near], [near, shallow, full]):
        assert chosen_of(heads, **nothing) is full
    assert chosen_of([full, shallow, better], **nothing) is better
    assert chosen_of([full, near], standard_errors=2.8, **nothing) is near
    # Without it, the head of the least loss.
    sparse = candidate(around(0.5), depth=5, kind="sparse")
    assert chosen_of([sparse, near], **nothing) is near


def test_a_smaller_head_is_taken_that_surely_costs_little() -> None:
    full = candidate(around(0.5), depth=5)
    near, far = (candidate(behind(errors), depth=1) for errors in (6.9, 7.1))
    assert chosen_of([full, near]) is near
    assert chosen_of([full, far]) is full
    assert chosen_of([full, far], standard_errors=2.8) is far
    # What little has been learnt is not given away; the very same may be smaller.
    same = candidate(around(0.5), depth=1)
    assert chosen_of([full, candidate(behind(0.1), depth=1)], constant_loss=0.4) is full
    assert chosen_of([full, same], constant_loss=0.4) is same


def test_near_duplicates_do_not_make_a_difference_surer() -> None:
    """The same losses again and again: the difference is as unsure as that of one copy."""
    full = candidate(np.repeat(around(0.5), 4), depth=3)
    other = candidate(np.repeat(behind(-2), 4), kind="stack", depth=3)
    assert chosen_of([full, other], np.arange(4 * ROWS), constant_loss=0.5) is other
    assert chosen_of([full, other], np.repeat(ALONE, 4), constant_loss=0.5) is full


def test_depth_comes_before_features_and_features_before_the_loss() -> None:
    best = candidate(around(0.5), depth=2, num_features=5)
    wide = candidate(behind(0.5), depth=1, num_features=1000)
    small = candidate(behind(0.6), depth=1, num_features=20)
    same = candidate(behind(0.4, 5), depth=1, num_features=20)
    assert chosen_of([best, wide]) is wide
    assert chosen_of([best, wide, small]) is small
    assert chosen_of([best, wide, small, same]) is same
    assert chosen_of([best, same, wide, small]) is same


def test_of_equal_heads_the_first_is_taken() -> None:
    first, second = candidate(around(0.5)), candidate(around(0.5))
    assert chosen_of([first, second]) is first
    assert chosen_of([second]) is second
    assert best_of([first, second]) is first
    smaller = candidate(around(0.5), num_features=3)
    assert best_of([first, smaller]) is smaller
    assert best_of([first, smaller], num_features=10) is first


@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(0, 3), st.floats(0, 2))
def test_what_is_chosen_gives_little_away_and_is_no_deeper(
    seed: int, count: int, errors: float, constant: float
) -> None:
    draw = np.random.default_rng(seed)
    groups = draw.integers(8, size=30)
    heads = [
        candidate(
            draw.exponential(size=30),
            depth=int(draw.integers(4)),
            num_features=int(draw.integers(3)),
        )
        for _ in range(count)
    ]
    full = max(heads, key=lambda head: head.depth)
    chosen = choose(heads, groups, constant_loss=constant, standard_errors=errors)
    surely = [
        head
        for head in heads
        if (apart := head.losses - full.losses).mean() + errors * standard_error(apart, groups) < 0
    ]
    best = min(surely or [full], key=lambda head: head.loss)
    assert chosen.loss - best.loss <= 0.02 * max(constant - best.loss, 0)
    assert (chosen.depth, chosen.num_features) <= (best.depth, best.num_features)


@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(0, 3), st.floats(0.5, 2))
def test_why_a_head_was_chosen_is_said_in_one_line(
    seed: int, count: int, errors: float, constant: float
) -> None:
    draw = np.random.default_rng(seed)
    heads = [
        candidate(
            draw.exponential(size=30),
            depth=int(draw.integers(4)),
            num_features=int(draw.integers(1, 4)),
        )
        for _ in range(count)
    ]
    rule = Rule(draw.integers(8, size=30), constant, errors)
    options = {"constant_loss": constant, "standard_errors": errors}
    chosen = choose(heads, rule.groups, **options)
    told = why_chosen(chosen, heads, rule, num_layers=6, loss="log loss")
    assert told.isprintable() and "nan" not in told
    assert "depth" not in told
    if count > 1 and chosen is rule.best(heads):
        smaller = [
            h for h in heads if (h.depth, h.num_features) < (chosen.depth, chosen.num_features)
        ]
        assert ("nothing smaller surely costs" in told) == bool(smaller)
    elif count > 1:
        assert f"of 6 blocks, {rule.best(heads).num_features:,} feature" in told


def test_why_in_words() -> None:
    best = candidate(around(0.5), depth=5, num_features=2000)
    near = candidate(behind(8), depth=3, num_features=100, kind="sparse")
    far = candidate(behind(30), depth=1, num_features=20, kind="sparse")
    rule = Rule(ALONE, CONSTANT, 3.0)
    how = {"num_layers": 6, "loss": "log loss"}
    told = why_chosen(best, [best, far], rule, **how)
    assert told.startswith("nothing smaller surely costs less than 2 % of what is learnt")
    assert "the nearest is sparse on 2 of 6 blocks, 20 features (log loss +0.4" in told
    close = candidate(behind(5), depth=3, num_features=100, kind="sparse")
    assert chosen_of([best, close, far]) is close
    told = why_chosen(close, [best, close, far], rule, **how)
    assert "against dense on 6 of 6 blocks, 2,000 features" in told
    assert told.endswith("; nothing smaller surely does")
    assert near is not best
    lucky = candidate(behind(-1, 3), depth=5, num_features=2000, kind="stack")
    told = why_chosen(best, [best, lucky], rule, **how)
    assert (
        "stack on 6 of 6 blocks, 2,000 features has the least log loss, but is not surely" in told
    )


def test_scores_of_judged_rows_have_intervals_and_gains() -> None:
    draw = np.random.default_rng(0)
    targets = draw.normal(size=60)
    judge = judged(None, targets, "mae")

    def head(noise: float, kind: str = "sparse") -> Candidate:
        values = (targets + noise * draw.normal(size=60)).astype(np.float32)[None, :, None]
        return judge.candidate(kind, [linear(1)], values, selection="made", size=0.5)

    good, poor = head(0.1), head(2.0)
    scores = Scores(judge, 0)
    low, high = scores.bounds(good) or (0, 0)
    assert low < good.score < high
    gain = scores.gain(good, poor)
    assert gain["value"] == pytest.approx(poor.score - good.score)
    assert 0 < gain["low"] < gain["value"] < gain["high"]
    randoms = [head(noise, "random") for noise in (3.0, 0.5, 1.0)]
    (entry,) = scores.by_size([(good, randoms)])
    assert entry["salient"]["score"] == pytest.approx(good.score)
    assert entry["random"]["draws"] == sorted(one.score for one in randoms)
    assert entry["random"]["score"] == entry["random"]["draws"][1]
    assert entry["random"]["score_interval"][0] < entry["random"]["score"]
    gain = entry["gain"]
    assert gain["value"] == pytest.approx(entry["random"]["score"] - good.score)  # less is better
    assert gain["low"] < gain["value"] < gain["high"]
    few = judged(None, targets[:10], "mae")
    one = few.candidate("dense", [linear(1)], np.zeros((1, 10, 1), np.float32), selection="made")
    assert Scores(few, 0).bounds(one) is None
    assert Scores(few, 0).gain(one, one) == {"value": 0.0, "low": None, "high": None}


def linear(outputs: int, width: int = 4, source: Source = SOURCE) -> Part:
    draw = np.random.default_rng(outputs)
    plain = Standardiser(np.zeros(width, np.float32), np.ones(width, np.float32), np.inf)
    weights = draw.normal(size=(outputs, width)).astype(np.float32)
    bias = draw.normal(size=outputs).astype(np.float32)
    return Part((Edges(source, np.arange(width), plain, weights, bias),))


def judged(classes: int | None, targets: Array, metric: str = "accuracy") -> Judge:
    rows = len(targets)
    return Judge(Problem(classes, metric), targets, np.arange(rows), np.arange(rows) >= rows // 2)


@pytest.mark.parametrize("classes", [2, 3, 50])
@pytest.mark.parametrize("assignments", [1, 4])
def test_scores_of_indicators_become_logits_that_the_model_itself_puts_out(
    classes: int, assignments: int
) -> None:
    draw = np.random.default_rng(classes)
    outputs = classes if classes > 2 else 1
    x = draw.normal(size=(400, 4)).astype(np.float32)
    part = linear(outputs)
    scores = part.outputs({SOURCE: x})
    truth = scores + 0.2 * draw.normal(size=scores.shape)
    targets = truth.argmax(axis=1) if classes > 2 else (truth[:, 0] > 0).astype(np.int64)
    # Regressions on indicators lie about the shares of the classes.
    scores = (0.1 * scores + 1 / classes).astype(np.float32)
    shrunk = part.rescaled(np.full(outputs, 0.1), np.full(outputs, 1 / classes))
    several = np.stack([scores + 0.01 * i for i in range(assignments)])
    found = judged(classes, targets).candidate("dense", [shrunk], several, selection="all")
    (own,) = found.parts
    np.testing.assert_allclose(own.outputs({SOURCE: x}), found.outputs, rtol=1e-3, atol=1e-3)
    assert (found.depth, found.num_features, found.size) == (2, 4, None)
    assert found.losses.shape == (400,)
    shares = np.bincount(targets, minlength=classes) / 400
    entropy = -float(np.sum(shares[shares > 0] * np.log(shares[shares > 0])))
    assert found.loss < 0.8 * entropy
    if assignments == 1:
        expected = losses_of(Problem(classes, "accuracy"), targets, found.outputs)
        np.testing.assert_allclose(found.losses, expected)
    # The probabilities mean what they say.
    mean = probabilities(found.outputs).mean(axis=0)
    np.testing.assert_allclose(mean, shares, atol=0.02)


@pytest.mark.parametrize("classes", [2, 3, 50])
def test_scores_that_say_nothing_become_the_shares_of_the_classes(classes: int) -> None:
    draw = np.random.default_rng(0)
    targets = np.minimum(draw.geometric(0.4, size=600) - 1, classes - 1)
    outputs = classes if classes > 2 else 1
    scores = 0.02 * draw.normal(size=(1, 600, outputs))
    found = judged(classes, targets).candidate("dense", [linear(outputs)], scores, selection="")
    shares = np.bincount(targets, minlength=classes) / 600
    entropy = -float(np.sum(shares[shares > 0] * np.log(shares[shares > 0])))
    assert found.loss == pytest.approx(entropy, abs=0.06)


def test_values_stay_as_they_are() -> None:
    targets = np.linspace(-1, 1, 20)
    scores = np.stack([targets + 0.5, targets - 0.1])[..., None].astype(np.float32)
    found = judged(None, targets, "mae").candidate("dense", [linear(1)], scores, selection="all")
    np.testing.assert_array_equal(found.outputs, scores[0])
    np.testing.assert_allclose(found.losses, (0.25 + 0.01) / 2, rtol=1e-5)
    assert found.parts == found.parts and found.score == pytest.approx(0.5)


def test_a_head_on_the_texts_alone_has_depth_0() -> None:
    targets = np.arange(20) % 2
    part = linear(1, source=NGRAMS)
    found = judged(2, targets).candidate("lexical", [part], np.zeros((1, 20, 1)), selection="all")
    assert found.depth == 0


def test_an_ensemble_is_the_mean_of_two_heads() -> None:
    draw = np.random.default_rng(1)
    targets = np.arange(60) % 3
    judge = judged(3, targets)
    dense = Dense(np.zeros((0, 4), np.float32), np.zeros(0, np.float32),
                  draw.normal(size=(3, 4)).astype(np.float32), np.zeros(3, np.float32))  # fmt: skip
    network = Part(linear(4).edges, dense)
    x = {SOURCE: draw.normal(size=(60, 4)).astype(np.float32)}
    pair = [
        judge.candidate(kind, [part], part.outputs(x)[None], selection=kind, size=size)
        for kind, part, size in (("frozen", network, 0.5), ("sparse", linear(3), 0.1))
    ]
    both = judge.mean_of(*pair)
    np.testing.assert_allclose(both.outputs, (pair[0].outputs + pair[1].outputs) / 2)
    mean = np.mean([part.outputs(x) for part in both.parts], axis=0)
    np.testing.assert_allclose(mean, both.outputs, rtol=1e-3, atol=1e-3)
    assert both.size is None and both.selection == "frozen; sparse"


def everything(joint: Joint, config: HeadConfig) -> list[Candidate]:
    """Heads on all and on salient features, and their stack, as a run makes them."""
    judge = Judge(
        joint.problem,
        joint.rows.targets[joint.judged],
        joint.rows.groups[joint.judged],
        joint.judged >= joint.rows.num_train,
    )
    sources = memory_sources(len(joint.features.others))
    fit = joint.fit({"all": sources})["all"]
    chosen = [joint_sets(own, config.sizes[0], config) for own in joint.importance(sources)]
    sparse = fit_chosen(joint, fit.shares, chosen)
    x = joint.features.others
    found = []
    for kind, one, sets in (("dense", fit, {}), ("sparse", sparse, chosen[0])):
        part = linear_part(joint, one, sets)
        found.append(judge.candidate(kind, [part], one.outputs, selection=kind))
        raw = {e.source: x[e.source][:, e.features] for e in found[-1].parts[0].edges}
        outputs = found[-1].parts[0].outputs(raw)
        assert np.isfinite(outputs).all()
        if not joint.by_folds:
            np.testing.assert_allclose(
                outputs[joint.judged], found[-1].outputs, rtol=1e-2, atol=1e-2
            )
    found.append(stacked(judge, joint.rows.folds[0][joint.judged], found))
    candidate_rows(found, judge.targets, joint.problem, seed=0)
    assert choose(found, judge.groups, constant_loss=judge.constant_losses.mean()) in found
    for one in found:
        assert np.isfinite(one.losses).all() and np.isfinite(one.score)
    return found


def features(rows: int, seed: int = 0) -> list[Array]:
    draw = np.random.default_rng(seed)
    return [draw.normal(size=(rows, width)) for width in (30, 60, 16)]


def told(xs: Sequence[Array], classes: int) -> Array:
    signal = xs[0][:, 0] + xs[1][:, 1]
    return np.asarray(np.argsort(np.argsort(signal)) * classes // len(signal))


@pytest.fixture
def strict() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


CONFIG = HeadConfig(select="share", eta=(0.3,))


@pytest.mark.parametrize(("rows", "classes"), [(200, 3), (200, 2), (20, 2), (12, 3), (300, 50)])
@pytest.mark.parametrize("validation", [False, True])
def test_few_texts_and_many_classes(
    rows: int, classes: int, validation: bool, threads: BlockThreads, strict: None
) -> None:
    xs = features(rows)
    targets = told(xs, classes)
    if validation:  # labels in both parts
        order = np.random.default_rng(0).permutation(rows)
        xs, targets = [x[order] for x in xs], targets[order]
    num_train = rows * 2 // 3 if validation else None
    joint = make_joint(xs, targets, threads, classes=classes, num_train=num_train)
    found = everything(joint, CONFIG)
    if rows == 200:
        chance = float(np.log(classes))
        assert found[0].loss < chance and found[1].loss < chance


def test_a_class_with_one_row_and_classes_that_folds_lack(
    threads: BlockThreads, strict: None
) -> None:
    xs = features(60)
    targets = told(xs, 2)
    targets[7] = 2
    everything(make_joint(xs, targets, threads, classes=3), CONFIG)
    # A class that no row has; and folds of one class each.
    everything(make_joint(xs, targets, threads, classes=5), CONFIG)
    folds = [np.minimum(targets, 1) * 2 + np.arange(60) % 2]
    everything(make_joint(xs, targets, threads, classes=3, folds=folds), CONFIG)
    # One fold has all rows but one.
    folds = [(np.arange(60) == 5).astype(np.int64)]
    everything(make_joint(xs, targets, threads, classes=3, folds=folds), CONFIG)


def test_validation_rows_of_one_fold(threads: BlockThreads, strict: None) -> None:
    xs = features(60)
    folds = [np.where(np.arange(60) < 45, np.arange(60) % 3, 1)]
    targets = np.arange(60) % 2
    everything(make_joint(xs, targets, threads, classes=2, folds=folds, num_train=45), CONFIG)


def test_weights_of_rows_by_class(threads: BlockThreads, strict: None) -> None:
    xs = features(90)
    targets = (told(xs, 9) == 8).astype(np.int64)
    weight = np.where(targets == 1, 4.5, 0.5625)
    for metric in ("macro_f1", "auc"):
        joint = make_joint(xs, targets, threads, classes=2, weight=weight, metric=metric)
        everything(joint, CONFIG)


@pytest.mark.parametrize("select", ["share", "top_k", "budget"])
def test_features_that_are_constant(select: Any, threads: BlockThreads, strict: None) -> None:
    """Standardised, they are 0."""
    xs = [np.zeros((40, 5)), np.zeros((40, 8))]
    config = HeadConfig(select=select, eta=(0.5,), top_k=(2,), budget=(3,))
    targets = np.arange(40) % 2
    for classes in (2, 3):
        for one in everything(make_joint(xs, targets, threads, classes=classes), config):
            assert one.loss == pytest.approx(np.log(2), abs=0.1)
    half = [np.zeros((40, 5)), features(40)[0]]
    everything(make_joint(half, targets, threads, classes=2), config)


@pytest.mark.parametrize("value", [0.0, 3.0, 0.1])
def test_values_that_are_all_equal(value: float, threads: BlockThreads, strict: None) -> None:
    joint = make_joint(features(40), np.full(40, value), threads, classes=None, metric="mae")
    for one in everything(joint, CONFIG):
        np.testing.assert_allclose(one.outputs, value, atol=1e-5)


def test_one_class_alone(threads: BlockThreads, strict: None) -> None:
    joint = make_joint(features(30), np.ones(30, np.int64), threads, classes=2)
    for one in everything(joint, CONFIG):
        assert one.score == 1.0


def test_rows_of_the_table_hold_their_intervals(threads: BlockThreads) -> None:
    xs = features(80)
    joint = make_joint(xs, told(xs, 3), threads, classes=3)
    found = everything(joint, CONFIG)
    rows = candidate_rows(found, joint.rows.targets, joint.problem, seed=0)
    assert [row["kind"] for row in rows] == ["dense", "sparse", "stack"]
    assert all(row["low"] <= row["score"] <= row["high"] for row in rows)
    assert rows == candidate_rows(found, joint.rows.targets, joint.problem, seed=0)
