"""What a report begins with, its tables, and figures that keep to one split."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.report.digits import blocks_read
from pipeline.report.facts import TaskFacts
from pipeline.report.mistakes import Mistake, Predictions, class_rows, find_mistakes
from pipeline.report.opening import opening, warnings_of
from pipeline.report.salience import SalientNeuron
from pipeline.report.tables import page_tables
from tests.builders.metrics import GAIN, made_up_task

CLASSES = ("negative", "positive")
SWEEP = [
    {"kind": "dense", "depth": depth, "num_features": 10 + depth, "loss": 0.5, "score": 0.7,
     "val_score": 0.71, "low": 0.6, "high": 0.8}
    for depth in range(6)
]  # fmt: skip


class Texts:
    """Of a store that keeps them."""

    def at(self, positions: Any) -> list[str | None]:
        return [f"<b>text {position}" for position in positions]

    def ids(self, positions: Any) -> list[str]:
        return [str(position) for position in positions]


def facts(predictions: Predictions | None = None, **others: Any) -> TaskFacts:
    metrics = made_up_task(**others)
    return TaskFacts("mood", metrics, pa.Table.from_pylist(SWEEP), predictions=predictions)


def classes_said() -> Predictions:
    probability = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.05, 0.95]])
    return Predictions(
        CLASSES, np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1]), probability, np.arange(4)
    )


def test_three_sentences_say_what_was_found() -> None:
    found, gains, trust = opening(facts(classes_said()))
    assert found == (
        "The chosen head (ensemble) reads 4 of 6 blocks and 1,643 of 16,128 features there; its"
        " Pearson's r is 0.710 [0.679, 0.738] on 1,002 test texts."
    )
    assert gains == (
        "It is not surely different from the final hidden state (+0.070 [-0.003, 0.098]) and"
        " TF-IDF (+0.070 [-0.003, 0.098])."
    )
    assert trust.startswith("Its most frequent mistake is negative taken for positive (1 of 2);")
    assert "probabilities" not in trust  # of four texts there is nothing to say
    assert "sure to ±0.029" in trust


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        ({"value": 0.07, "low": 0.02, "high": 0.1}, "It gains +0.070 [0.020, 0.100] over the"),
        ({"value": -0.07, "low": -0.1, "high": -0.02}, "It is worse than the final hidden state"),
        ({"value": 0.07, "low": None, "high": None}, "from the final hidden state (+0.070 —)"),
    ],
)
def test_gains_losses_and_what_is_neither_are_told_apart(gain: Any, words: str) -> None:
    task = made_up_task()
    task["baselines"] = {"final": task["baselines"]["final"] | {"gain": gain}}
    assert words in opening(replace(facts(), metrics=task))[1]


def test_few_rows_and_a_head_chosen_later_are_said() -> None:
    task = made_up_task(num_test=12, gain={})
    task["chosen"] = task["chosen"] | {
        "test_interval": {"pearson": None}, "note": "it was chosen by hand",
    }  # fmt: skip
    _, gains, trust = opening(replace(facts(), metrics=task))
    assert gains == "It was compared with nothing: it was chosen by hand."
    assert trust == "12 test texts are too few for an interval: trust no digit."
    assert warnings_of({"corpus": {"warnings": ["few rows"]}}) == ("few rows",)
    assert warnings_of({"corpus": None}) == warnings_of({}) == ()
    assert blocks_read(1, 1) == "1 of 1 block"


def test_classes_are_counted_one_by_one() -> None:
    negative, positive = class_rows(classes_said())
    assert (negative.rows, negative.decided, negative.precision, negative.recall) == (
        2,
        2,
        0.5,
        0.5,
    )
    assert positive.f1 == 0.5
    sets = Predictions(
        ("a", "b"), np.array([[1, 0], [1, 0]]), np.array([[1, 0], [0, 0]]),
        np.array([[0.8, 0.1], [0.4, 0.2]]), np.arange(2),
    )  # fmt: skip
    a, b = class_rows(sets)
    assert (a.precision, a.recall) == (1.0, 0.5) and (b.precision, b.recall, b.f1) == (None,) * 3
    assert (a.chance, b.chance) == (1.0, None)
    trust = opening(facts(sets))[2]
    assert "weakest label is a (F1 0.667, by chance 1.000, 2 texts)" in trust
    assert "50% of the texts are given exactly their labels" in trust
    (missed,) = find_mistakes(sets, Texts())  # type: ignore[arg-type]
    assert missed == Mistake("1", ("a",), (), 0.6, "<b>text 1", "not a")
    right = replace(sets, decided=sets.targets)
    assert "makes no mistake there" in opening(facts(right))[2]


def sets_said() -> Predictions:
    """Three labels, one of them of no text, on four texts."""
    targets = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]], np.int8)
    decided = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 1, 0]], np.int8)
    probability = np.array([[0.9, 0.2, 0], [0.3, 0.95, 0], [0.1, 0.4, 0], [0.2, 1.0, 0]])
    return Predictions(("a", "b,c", "never"), targets, decided, probability, np.arange(4))


def test_a_text_with_several_wrong_labels_is_one_mistake() -> None:
    found = find_mistakes(sets_said(), Texts())  # type: ignore[arg-type]
    assert [(one.id, one.label, one.decided, one.wrong) for one in found] == [
        ("1", ("a",), ("b,c",), "b,c"),
        ("0", ("a", "b,c"), ("a",), "not b,c"),
    ]
    assert [one.sure for one in found] == [0.95, 0.8]
    metrics = made_up_task(type="multilabel", metric="micro_f1")
    task = replace(facts(sets_said()), metrics=metrics, mistakes=found)
    table = {one.name: one for one in page_tables(task, {})}["mistakes"]
    assert table.rows[0] == ("<b>text 1", "a", "b,c", "b,c", "0.950", "1")
    (first, second) = csv.DictReader(io.StringIO(table.csv().decode()))
    assert (first["label"], first["decided"], second["label"]) == (
        '["a"]', '["b,c"]', '["a", "b,c"]',
    )  # fmt: skip


def test_what_was_missed_is_counted_by_what_was_given_instead() -> None:
    assert sets_said().missed().tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert sets_said().right == 0.5
    bins = sets_said().reliability()
    assert bins.count.sum() == 12 and bins.accuracy[-1] == pytest.approx(2 / 3)
    low, high = bins.interval()
    assert (low <= bins.accuracy).all() and (bins.accuracy <= high + 1e-12).all()


def test_the_table_of_labels_says_how_many_a_text_has() -> None:
    metrics = made_up_task(type="multilabel", metric="micro_f1")
    task = replace(facts(sets_said()), metrics=metrics)
    table = {one.name: one for one in page_tables(task, {})}["classes"]
    assert table.wide and table.title == "Label by label"
    assert table.notes == (
        "A text has 1.00 labels on average and is given 0.75; 1 have none, 1 are given none;"
        " 50% are given exactly their labels.",
    )
    assert table.raw["chance"][:2] == [pytest.approx(2 / 3)] * 2 and table.raw["chance"][2] is None


def test_the_surest_mistakes_come_first() -> None:
    found = find_mistakes(classes_said(), Texts())  # type: ignore[arg-type]
    assert [(one.label, one.decided, one.sure) for one in found] == [
        ("negative", "positive", 0.95), ("positive", "negative", 0.8),
    ]  # fmt: skip
    values = Predictions((), np.array([1.0, 2.0]), np.array([1.5, 2.1]), None, np.arange(2))
    assert [one.id for one in find_mistakes(values, Texts())] == ["0", "1"]  # type: ignore[arg-type]
    assert "half of its values are off by less than 0.3;" in opening(facts(values))[2].lower()


def test_every_table_is_a_csv_with_unrounded_numbers() -> None:
    neuron = SalientNeuron(3, "max", 417, 0.0123, "positive", -0.2, ('a, "b"', "c" * 900))
    task = replace(
        facts(classes_said(), classes=CLASSES, type="classification"),
        neurons=(neuron,),
        mistakes=find_mistakes(classes_said(), Texts()),  # type: ignore[arg-type]
    )
    card = {"corpus": {"label_counts": {"mood": {"train": {"labels": {"negative": 30}}}}}}
    tables = {table.name: table for table in page_tables(task, card)}
    assert list(tables) == ["scores", "classes", "mistakes", "neurons"]
    read = {
        name: list(csv.DictReader(io.StringIO(table.csv().decode())))
        for name, table in tables.items()
    }
    chosen = read["scores"][-1]
    assert (chosen["blocks"], chosen["all_blocks"], chosen["test_low"]) == ("4", "6", "0.679")
    assert [row["gain_low"] for row in read["scores"] if row["model"] == "TF-IDF"] == [
        str(GAIN["low"])
    ]
    assert [head for head, _ in tables["scores"].heads][:3] == [
        "model", "test [95 % CI]", "gain of the chosen head [95 % CI]",
    ]  # fmt: skip
    assert tables["classes"].rows[0] == (
        "negative", "0.500", "0.500", "0.500", "2", "2", "30",
    )  # fmt: skip
    assert tables["classes"].rows[1][-1] == "—"
    link, speaks, texts, weight, _ = tables["neurons"].rows[0]
    assert link.href == (  # type: ignore[union-attr]
        "http://localhost:5006/?task=mood&layer=3&pooling=max&neuron=417"
    )
    assert (speaks, weight) == ("against positive", "-0.200")
    assert max(map(len, texts.texts)) < 150  # type: ignore[union-attr]


def newer_task() -> TaskFacts:
    """Of a run that measured salient against random features at several sizes."""
    sizes = [
        {
            "depth": 3, "size": 0.1 * n, "num_features": 10 * n,
            "salient": {"score": 0.6 + n / 50, "score_interval": [0.5, 0.8], "loss": 0.5},
            "random": {"score": 0.5, "score_interval": None, "loss": 0.6, "draws": [0.4, 0.5, 0.6]},
        }
        for n in (1, 2, 3)
    ]  # fmt: skip
    task = made_up_task(by_size=sizes, num_judged=777)
    random = task["baselines"]["all"] | {
        "kind": "random", "score_interval": [0.6, 0.8], "num_features": 30,
    }  # fmt: skip
    task["baselines"] |= {"random": random, "layer": random | {"kind": "layer", "num_features": 96}}
    return replace(facts(), metrics=task)


def test_a_figure_keeps_to_the_rows_of_one_split() -> None:
    pytest.importorskip("holoviews", reason="needs the extra: salient-neurons[report]")
    from pipeline.report import charts, figures

    task = newer_task()
    names = ("compared", "by-depth", "by-size", "by-layer")
    drawn = dict(zip(names, figures.task_figures(task), strict=False))
    assert [figure.name for figure in drawn.values()] == list(names)
    for name, rows in (
        ("compared", "test, n = 1,002"), ("by-layer", "test, n = 1,002"),
        ("by-depth", "out of fold, n = 777"), ("by-size", "out of fold, n = 777"),
    ):  # fmt: skip
        labels = {str(axis) for part in drawn[name].element for axis in part.dimensions()}
        assert f"Pearson's r ({rows})" in labels
        other = "test" if name.startswith("by-d") or name == "by-size" else "fold"
        assert not any(other in label for label in labels)
        assert f"n = {rows.split()[-1]}" in drawn[name].caption
    shown = {entry.label: entry for entry in charts.legend_of(drawn["by-depth"])}
    assert {"final hidden state", "30 random features", "chosen (ensemble)"} <= set(shown)
    assert shown["dense head"].line and not shown["30 random features"].line
    assert shown["dense head"].style.mark == "circle"
    sizes = {entry.label for entry in charts.legend_of(drawn["by-size"])}
    assert {"salient features", "as many random features", "the last block's FFN alone"} <= sizes
    assert "the middle one of 3 draws" in drawn["by-size"].caption
    assert "blocks read, of 6" in {str(a) for part in drawn["by-depth"].element for a in part.kdims}
    assert "block, of 6 (0: the embeddings)" in {
        str(a) for part in drawn["by-layer"].element for a in part.kdims
    }
    assert "The random features are of 4 of 6 blocks together" in drawn["by-layer"].caption
    older = replace(task, metrics=made_up_task())
    assert figures.by_size(older) is None
    assert figures.compared(older) is not None


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (None, "30 salient features score 0.660 out of fold, as many random ones 0.500"),
        ({"value": 0.16, "low": 0.1, "high": 0.2},
         "30 salient features gain +0.160 [0.100, 0.200] out of fold over as many random ones"),
        ({"value": 0.16, "low": -0.1, "high": 0.2},
         "30 salient features are not surely better than as many random ones"
         " (+0.160 [-0.100, 0.200] out of fold)"),
        ({"value": -0.16, "low": -0.2, "high": -0.1}, "30 salient features are worse than"),
    ],
)  # fmt: skip
def test_the_control_compares_as_many_features(gain: Any, words: str) -> None:
    task = newer_task()
    random = task.metrics["baselines"]["random"]
    for entry in task.metrics["by_size"]:
        entry["gain"] = gain
    said = opening(task)[1]
    assert f"as a control, {words}" in said and "random features" not in said
    random["num_features"] = 31  # of a run without the sizes: compared with the chosen head
    said = opening(task)[1]
    assert "31 random features of the same blocks (+0.070" in said and "control" not in said


def test_right_probabilities_of_few_rows_are_off_by_chance() -> None:
    draw = np.random.default_rng(0)
    confidence = draw.uniform(0.45, 0.99, 289)
    probability = np.stack([confidence, *[(1 - confidence) / 2] * 2], axis=1)
    right = draw.uniform(size=289) < confidence
    found = Predictions(("a", "b", "c"), np.where(right, 0, 1), np.zeros(289, int), probability)
    bins = found.reliability()
    assert 0.05 < bins.chance < 0.07 < bins.most_by_chance < 0.1  # of 289 such rows
    assert not bins.shown and "no more than chance" in opening(facts(found))[2]
    wrong = replace(found, targets=np.where(draw.uniform(size=289) < 0.3, 0, 1))
    assert wrong.reliability().shown
    assert f"of which chance makes {bins.chance:.3f}" in opening(facts(wrong))[2]
