"""The figures of a run, one function of a task's facts each; `charts` renders them.

    for figure in task_figures(task):
        write_image(figure, Path(f"{figure.name}.svg"))

``FIGURES`` is the table; adding a figure is one row: a function that gives None where the run has
nothing to draw it from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.measures import METRICS, pareto_front
from pipeline.neurons import RANKINGS
from pipeline.report.charts import (
    BLUE,
    BROWN,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    TEAL,
    Figure,
    Series,
    dots,
    for_both,
    heat_map,
    labels_at,
    line_chart,
    log_ticks,
    matrix,
    points,
    star,
    whole_ticks,
    write_image,
    write_row,
)
from pipeline.report.facts import TaskFacts
from pipeline.report.scores import best_by_depth, judge, judged, num_layers_of, probes_of

Array = NDArray[Any]
KIND_COLOURS = {
    "dense": PURPLE,
    "states": TEAL,
    "sparse": BLUE,
    "frozen": ORANGE,
    "ensemble": GREEN,
    "stack": BROWN,
    "final": RED,
}
SITE_LINES = (
    ("ffn", "FFN layer", BLUE),
    ("hidden", "hidden state", ORANGE),
    ("router", "router", GREEN),
    ("experts", "experts", PURPLE),
)
"""Sites of single layers' probes, what their lines are called, and their colours."""
DRIFT_PARTS = (
    ("predictions", "predictions", BLUE),
    ("classes", "class shares", ORANGE),
    ("activations", "activations", GREEN),
)
"""Keys of a drift report's entries, their labels and colours."""
MAP_COLUMNS = 384
"""Columns of the importance map; each shows the largest of its neurons."""
SAMPLE_POINTS = 2000
"""Points of a scatter plot, at most."""


def _words(name: str) -> str:
    return name.replace("_", " ")


def _bounds(entries: Sequence[Any], metric: str) -> tuple[list[float], list[float]] | None:
    spans = [(entry.get("test_interval") or {}).get(metric) for entry in entries]
    found = [span for span in spans if span is not None]
    return ([s[0] for s in found], [s[1] for s in found]) if len(found) == len(spans) else None


def by_layer(task: TaskFacts) -> Figure | None:
    """Score of one probe per FFN layer and per hidden state (the paper's figures 4 and 5)."""
    metric, lines, blocks = task.metric, list[Series](), list[int]()
    y = f"test {_words(metric)}"
    for site, label, colour in SITE_LINES:
        probes = probes_of(task.metrics, site)
        if not probes:
            continue
        after = [source.depth for source, _ in probes]
        blocks = sorted({*blocks, *after})
        entries = [entry for _, entry in probes]
        tests = [entry["test"].get(metric) for entry in entries]
        if None in tests:
            val = [entry["val"] for entry in entries]
            lines.append(Series(f"{label}, validation", after, val, colour, dashed=True))
        else:
            low, high = _bounds(entries, metric) or (None, None)
            lines.append(Series(label, after, tests, colour, low=low, high=high))
    score = task.metrics["hidden"]["test"].get(metric)
    lines += _level(score, blocks)
    return Figure(
        "by-layer",
        "Score by layer",
        f"{_words(metric)} of one probe per layer on its pooled "
        + ("FFN activations" if probes_of(task.metrics, "ffn") else "values")
        + (
            ", and on the hidden state after each block (-1: the embeddings)"
            if blocks[0] < 0
            else ""
        )
        + ". Band: 95 % bootstrap interval over the test rows.",
        for_both(line_chart(lines, "block", y), xticks=whole_ticks(blocks)),
    )


def _level(score: float | None, at: Sequence[int]) -> list[Series]:
    """A horizontal line for the conventional head, where there is a score."""
    if score is None:
        return []
    ends = [at[0], at[-1]] if len(at) > 1 else [at[0] - 0.5, at[0] + 0.5]
    return [Series("final hidden state's head", ends, [score] * 2, RED, marks=False)]


def by_depth(task: TaskFacts) -> Figure | None:
    """Score of the dense head by depth, of the other kinds where they were tried."""
    rows = task.sweep.to_pylist()
    best, judging = best_by_depth(rows, task.metric), judge(rows)
    y = f"{judging} {_words(task.metric)}"
    depths = sorted({depth for _, depth in best})
    chosen, hidden = task.metrics["chosen"], task.metrics["hidden"]
    kinds = list(dict.fromkeys(kind for kind, _ in best))
    # One band: those of several kinds cover each other.
    banded = "dense" if "dense" in kinds else chosen["kind"]
    lines, others = [], []
    for kind in kinds:
        if kind == "final":
            continue  # the horizontal line
        own = [best[kind, depth] for depth in depths if (kind, depth) in best]
        at, scores = [row["depth"] for row in own], [judged(row) for row in own]
        label, colour = f"{kind} head", KIND_COLOURS.get(kind, GREY)
        if len(own) < len(depths):
            others.append(dots(at, scores, "depth", y, colour, label))
            continue
        spans = [(row["low"], row["high"]) for row in own if row.get("low") is not None]
        low, high = zip(*spans, strict=True) if spans else ((), ())
        shown = kind == banded and len(spans) == len(own)
        lines.append(
            Series(
                label, at, scores, colour, low=low if shown else None, high=high if shown else None
            )
        )
    # An older run's baseline was judged on validation only.
    score = hidden.get("score", hidden.get("val") if judging == "validation" else None)
    lines += _level(score, depths)
    chart = line_chart(lines, "depth", y)
    for other in others:
        chart *= other
    score = chosen.get("score", chosen["val"])
    chart *= star(chosen["depth"], score, "depth", y, f"chosen ({chosen['kind']})")
    return Figure(
        "by-depth",
        "Score by depth",
        f"{y} of the heads that read blocks 0 to depth; scoring with one runs depth + 1"
        f" blocks. The final hidden state needs all {num_layers_of(task.metrics)}. Band: 95 %"
        f" interval, of the {banded} head.",
        for_both(chart, xticks=whole_ticks(depths)),
    )


def pareto(task: TaskFacts) -> Figure | None:
    """Every head tried: features against validation score, with the Pareto front."""
    rows = [row for row in task.sweep.to_pylist() if row["num_features"] > 0]
    y = f"{judge(rows)} {_words(task.metric)}"
    features = [row["num_features"] for row in rows]
    scores = [judged(row) for row in rows]
    higher = METRICS[task.metric].higher_is_better
    front = pareto_front(features, scores, higher=higher)
    x = "features"
    line = Series(
        "Pareto front", [features[i] for i in front], [scores[i] for i in front], GREY, marks=False
    )
    depths = [row["depth"] for row in rows]
    chart = line_chart([line], x, y) * points(features, scores, x, y, by=("depth", depths))
    chosen = task.metrics["chosen"]
    score = chosen.get("score", chosen["val"])
    chart *= star(chosen["num_features"], score, x, y, f"chosen ({chosen['kind']})")
    return Figure(
        "pareto",
        "What a better score costs",
        "Every head tried: how many (layer, pooling, neuron) features it reads, and its score;"
        " colour is the deepest layer it needs.",
        for_both(chart, logx=True, xticks=log_ticks(features)),
    )


def importance_map(task: TaskFacts) -> Figure | None:
    """Importance of every neuron over both poolings, layer by layer."""
    if task.importance is None:
        return None
    both = np.sqrt(np.square(task.importance).sum(axis=1))
    num_neurons = both.shape[1]
    columns = min(MAP_COLUMNS, num_neurons)
    edges = np.linspace(0, num_neurons, columns + 1).astype(np.int64)[:-1]
    cells = np.maximum.reduceat(both, edges, axis=1)
    largest = cells.max(axis=1, keepdims=True)
    cells = np.divide(cells, largest, out=np.zeros_like(cells), where=largest > 0)
    share = (
        f"the largest of every {num_neurons / columns:.3g} neurons, "
        if columns < num_neurons
        else ""
    )
    return Figure(
        "importance",
        "Importance over layers and neurons",
        f"L2 norm of each neuron's probe weights over the poolings: {share}relative to the layer's"
        " most important one.",
        heat_map(cells, "neuron", "layer", "importance", width=num_neurons),
    )


def overlap(task: TaskFacts) -> Figure | None:
    """How far the rankings' top sets agree, averaged over the layers."""
    if task.overlaps is None or not len(task.overlaps):
        return None
    rows = task.overlaps.to_pylist()
    names = list(dict.fromkeys(name for row in rows for name in (row["ranking"], row["other"])))
    at = {name: i for i, name in enumerate(names)}
    total = np.zeros((len(names), len(names)))
    num_layers = len({row["layer"] for row in rows})
    for row in rows:
        total[at[row["ranking"]], at[row["other"]]] += row["jaccard"] / num_layers
    values = total + total.T
    np.fill_diagonal(values, 1.0)
    labels = [RANKINGS[name].label if name in RANKINGS else name for name in names]
    return Figure(
        "overlap",
        "Agreement of rankings",
        f"Jaccard index of the top {rows[0]['top']} features of a layer by two rankings, averaged"
        f" over the layers; random sets: {rows[0]['expected']:.3f}.",
        matrix(values, "ranking", "other ranking", "Jaccard", labels),
        430,
    )


def confusion(task: TaskFacts) -> Figure | None:
    """Labels against the chosen head's decisions on the test split."""
    found = task.predictions
    if found is None or not found.classes:
        return None
    counts = found.confusion()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    texts = [[str(count) for count in row] for row in counts]
    return Figure(
        "confusion",
        "Confusion matrix",
        "Test rows by label and by the chosen head's decision; colour is the share of the label's"
        " rows.",
        matrix(share, "decided", "label", "share", list(found.classes), texts=texts),
        430,
    )


def calibration(task: TaskFacts) -> Figure | None:
    """How often the most probable class is right, by its probability."""
    found = task.predictions
    if found is None or found.probability is None:
        return None
    bins = found.reliability()
    low, high = _wilson(bins.accuracy, bins.count)
    x, y = "probability of the most probable class", "share that is right"
    lines = [
        Series("perfect", [0, 1], [0, 1], GREY, dashed=True, marks=False),
        Series("chosen head, test", bins.confidence, bins.accuracy, BLUE, low=low, high=high),
    ]
    start = max(0.0, min(float(bins.confidence.min()), float(low.min())) - 0.05)
    return Figure(
        "calibration",
        "Calibration",
        f"Test rows in bins of equal size; expected calibration error {bins.error:.3f}. Band: 95 %"
        " interval of the share.",
        for_both(line_chart(lines, x, y), xlim=(start, 1.0), ylim=(start, 1.0)),
    )


def _wilson(share: Array, count: Array) -> tuple[Array, Array]:
    """Wilson's 95 % interval of a share."""
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + (z / 2 / count) ** 2)
    return middle - half, middle + half


def predicted(task: TaskFacts) -> Figure | None:
    """Predicted against labelled values, for regression."""
    found = task.predictions
    if found is None or found.classes:
        return None
    draw = np.random.default_rng(0).permutation(len(found.targets))[:SAMPLE_POINTS]
    y_true, y_head = found.targets[draw], found.decided[draw]
    x, y = "label", "predicted"
    ends = [float(min(y_true.min(), y_head.min())), float(max(y_true.max(), y_head.max()))]
    diagonal = Series("perfect", ends, ends, GREY, dashed=True, marks=False)
    return Figure(
        "predicted",
        "Predicted against labelled values",
        "Test rows and the chosen head's values for them.",
        line_chart([diagonal], x, y) * points(y_true, y_head, x, y),
    )


def drift(task: TaskFacts) -> Figure | None:
    """How far a folder of scores has moved from the validation texts, by date."""
    if task.drift is None:
        return None
    dates = list(task.drift.dates)
    lines = []
    for part, label, colour in DRIFT_PARTS:
        at = [i for i, date in enumerate(dates) if part in task.drift.dates[date]]
        if at:
            excess = [float(task.drift.dates[dates[i]][part]["excess"]) for i in at]
            lines.append(Series(label, at, excess, colour))
    ends = [0, max(len(dates) - 1, 1)]
    lines.append(
        Series("threshold", ends, [task.drift.threshold] * 2, RED, dashed=True, marks=False)
    )
    ticks = [(i, dates[i]) for i in whole_ticks(range(len(dates)))]
    return Figure(
        "drift",
        "Drift of the scored texts",
        "Population stability index of the scored texts against the validation texts, less what"
        " so few texts show by chance.",
        for_both(line_chart(lines, "date", "index above chance"), xticks=ticks, xrotation=45),
        440,
    )


FIGURES: tuple[Callable[[TaskFacts], Figure | None], ...] = (
    by_layer,
    by_depth,
    pareto,
    importance_map,
    overlap,
    confusion,
    predicted,
    calibration,
    drift,
)


def task_figures(task: TaskFacts) -> Iterator[Figure]:
    """The figures that a task has something for, in order."""
    for draw in FIGURES:
        if (figure := draw(task)) is not None:
            yield figure


def plan_figure(plan: Mapping[str, Any], name: str) -> Figure:
    """Score of a planned task against measured throughput, depth by depth.

    Args:
        plan: the content of ``plan.json``.
        name: the task.
    """
    x, y = "texts a second, measured", _words(plan["tasks"][name]["metric"])
    options = sorted(plan["options"], key=lambda one: one["speed"]["texts_per_s"])
    heads = [option["heads"][name] for option in options]
    speeds = [option["speed"]["texts_per_s"] for option in options]
    scores = [head["score"] for head in heads]
    spans = [(head["low"], head["high"]) for head in heads if head["low"] is not None]
    known = len(spans) == len(heads)
    every = Series(
        "every depth",
        speeds,
        scores,
        BLUE,
        low=[low for low, _ in spans] if known else None,
        high=[high for _, high in spans] if known else None,
    )
    front = [i for i, option in enumerate(options) if option["depth"] in plan["front"]]
    ends = ([speeds[i] for i in front], [scores[i] for i in front])
    chart = line_chart(
        [every, Series("Pareto front", *ends, ORANGE, dashed=True, marks=False)], x, y
    )
    depths = [option["depth"] for option in options]
    chart *= labels_at(speeds, scores, [f"0..{depth}" for depth in depths], x, y)
    at = depths.index(plan["picks"][plan["pick"]])
    chart *= star(speeds[at], scores[at], x, y, f"{plan['pick']}: blocks 0..{depths[at]}")
    return Figure(
        "plan",
        name,
        "Score by measured throughput of the backbone truncated after each depth, heads included."
        " Band: 95 % interval of the score.",
        for_both(chart, logx=True, xticks=log_ticks(speeds)),
    )


def write_plan(plan: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``plan.png`` and ``plan.svg``, the tasks side by side."""
    drawn = [plan_figure(plan, name) for name in plan["tasks"]]
    written = []
    for suffix in ("png", "svg"):
        path = folder / f"plan.{suffix}"
        if len(drawn) == 1:
            write_image(drawn[0], path, title="scores and costs by depth")
        else:
            write_row(drawn, path, title="scores and costs by depth")
        written.append(path)
    return written


def write_overview(task: TaskFacts, path: Path) -> None:
    """The scores by layer and by depth side by side, as one PNG or SVG."""
    drawn = [figure for draw in (by_layer, by_depth) if (figure := draw(task)) is not None]
    write_row(drawn, path, title=task.name)
