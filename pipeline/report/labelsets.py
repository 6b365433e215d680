"""The figures of a task whose texts have any subset of the labels.

for figure in filter(None, (by_label(task), missed_labels(task), label_calibration(task))):
    ...

Each gives None for other tasks, and where the test split's predictions are not there.
"""

from __future__ import annotations

import numpy as np

from pipeline.measures import METRICS, score
from pipeline.report.charts import (
    THRESHOLD,
    Figure,
    Series,
    dots,
    for_both,
    line_chart,
    matrix,
    short_label,
    whiskers,
)
from pipeline.report.digits import three
from pipeline.report.facts import TaskFacts
from pipeline.report.mistakes import Predictions, class_rows
from pipeline.report.palette import BLUE, GREY, Style

MOST_LABELS = 40
"""Labels in a figure; the most frequent."""


def _sets_of(task: TaskFacts) -> Predictions | None:
    found = task.predictions
    return found if found is not None and found.multilabel else None


def _most_frequent(found: Predictions) -> tuple[list[int], str]:
    """Indices of the labels that are drawn, in their order, and what is said of the others."""
    num_labels = len(found.classes)
    order = np.argsort(-found.targets.sum(axis=0, dtype=np.int64), kind="stable")[:MOST_LABELS]
    left_out = f" The {MOST_LABELS} most frequent of {num_labels} labels."
    return sorted(order.tolist()), left_out if num_labels > MOST_LABELS else ""


def every_label(task: TaskFacts) -> float | None:
    """The test score of whoever gives every label to every text; of a metric of decisions."""
    found = _sets_of(task)
    if found is None or not METRICS[task.metric].of_decisions:
        return None
    return score(task.metric, found.targets, np.ones(found.targets.shape))


def by_label(task: TaskFacts) -> Figure | None:
    """F1 of each label on the test rows, with its interval, beside chance."""
    found = _sets_of(task)
    if found is None:
        return None
    shown, left_out = _most_frequent(found)
    every = list(class_rows(found))
    rows = [every[i] for i in reversed(shown)]
    if all(row.f1 is None for row in rows):
        return None
    x, y = f"F1 (test, n = {len(found.targets):,})", "label"
    spans = {name: entry["interval"] for name, entry in task.metrics.get("labels", {}).items()}
    ends = [(i, spans[row.name]) for i, row in enumerate(rows) if spans.get(row.name)]
    known = [(i, row.f1) for i, row in enumerate(rows) if row.f1 is not None]
    chance = [(i, row.chance) for i, row in enumerate(rows) if row.chance is not None]
    grey = Style(GREY, (4, 3), "square")
    chart = dots([one for _, one in chance], [i for i, _ in chance], x, y, grey, "chance")
    if ends:
        at = [i for i, _ in ends]
        bars = ([span[0] for _, span in ends], [span[1] for _, span in ends])
        chart *= whiskers(bars, (at, at), x, y, Style(BLUE))
    chart *= dots(
        [one for _, one in known], [i for i, _ in known], x, y, Style(BLUE), "chosen head"
    )
    ticks = [(i, short_label(row.name)) for i, row in enumerate(rows)]
    return Figure(
        "by-label",
        "Score by label",
        f"F1 of each label on the test rows (n = {len(found.targets):,}), with 95 % bootstrap"
        " intervals over them. Chance: the F1 of whoever gives the label to every text." + left_out,
        for_both(chart, yticks=ticks, ylabel="", xlim=(-0.02, 1.02)),
        110 + 28 * len(rows),
    )


def missed_labels(task: TaskFacts) -> Figure | None:
    """Labels that texts have and were not given, against those that they wrongly were."""
    found = _sets_of(task)
    if found is None or found.right == 1:
        return None
    shown, left_out = _most_frequent(found)
    counts = found.missed()[np.ix_(shown, shown)]
    rows = np.maximum(found.targets.sum(axis=0, dtype=np.int64)[shown], 1)
    return Figure(
        "missed",
        "Labels missed, and given instead",
        "Test rows that have the label and were not given it, by what they were wrongly given"
        " instead; on the diagonal nothing. A row counts for each of its labels. Colour is the"
        " share of the label's rows." + left_out,
        matrix(
            counts / rows[:, None],
            "wrongly given",
            "missed",
            "share",
            [found.classes[i] for i in shown],
            texts=[[str(count) for count in row] for row in counts],
        ),
        430,
    )


def label_calibration(task: TaskFacts) -> Figure | None:
    """How often a text has a label, by the label's probability."""
    found = _sets_of(task)
    if found is None or found.probability is None:
        return None
    bins = found.reliability()
    low, high = bins.interval()
    x, y = "probability of a label", "share of texts that have it"
    lines = [
        Series("as often as said", [0, 1], [0, 1], THRESHOLD),
        Series("chosen head", bins.confidence, bins.accuracy, Style(BLUE), low=low, high=high),
    ]
    return Figure(
        "calibration",
        "Calibration",
        f"How often a text has a label, by the label's probability: test rows (n ="
        f" {len(found.targets):,}) times {len(found.classes)} labels, in bins of equal width."
        f" Expected calibration error: {three(bins.error)}. Band: 95 % interval of the share, as if"
        " a text's labels had nothing to do with each other.",
        for_both(line_chart(lines, x, y), xlim=(-0.02, 1.02), ylim=(-0.02, 1.02)),
    )
