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
from pipeline.progress import counted
from pipeline.report.charts import (
    CHOSEN,
    THRESHOLD,
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
    whiskers,
    whole_ticks,
    write_image,
    write_row,
)
from pipeline.report.digits import blocks_read, metric_words, three
from pipeline.report.facts import TaskFacts
from pipeline.report.labelsets import by_label, every_label, label_calibration, missed_labels
from pipeline.report.palette import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, YELLOW, Style
from pipeline.report.scores import (
    BASELINES,
    baseline_label,
    best_by_depth,
    interval_of,
    judge,
    judged,
    num_layers_of,
    probes_of,
)

Array = NDArray[Any]
JSON = Mapping[str, Any]
KIND_STYLES = {
    "dense": Style(BLUE),
    "states": Style(ORANGE, (4, 2), "hex"),
    "sparse": Style(GREEN, (2, 2), "triangle"),
    "frozen": Style(YELLOW, (12, 3), "inverted_triangle"),
    "ensemble": Style(GREY, (7, 2, 2, 2), "plus"),
    "stack": Style(GREY, (12, 2, 2, 2, 2, 2), "square"),
    "final": Style(VERMILION, (7, 3), "square"),
}
BASELINE_STYLES = {
    "final": KIND_STYLES["final"],
    "hidden": KIND_STYLES["states"],  # what a head of states reads, too
    "random": Style(PURPLE, (7, 2, 2, 2), "diamond"),
    "layer": Style(SKY, (12, 3), "inverted_triangle"),
    "all": KIND_STYLES["dense"],
    "lexical": Style(GREEN, (2, 2), "triangle"),
}
"""What the chosen head is compared with in a figure; "final" is the conventional head."""
SITE_LINES = (
    ("ffn", "FFN layer", Style(BLUE)),
    ("hidden", "hidden state", Style(ORANGE, (4, 2), "hex")),
    ("router", "router", Style(GREEN, (2, 2), "triangle")),
    ("experts", "experts", Style(PURPLE, (7, 2, 2, 2), "diamond")),
)
"""Sites of single layers' probes, what their lines are called, and how they are drawn."""
DRIFT_PARTS = (
    ("predictions", "predictions", Style(BLUE)),
    ("classes", "class shares", Style(VERMILION, (7, 3), "square")),
    ("activations", "activations", Style(GREEN, (2, 2), "triangle")),
)
"""Keys of a drift report's entries, their labels and how they are drawn."""
MAP_COLUMNS = 384
"""Columns of the importance map; each shows the largest of its neurons."""
SAMPLE_POINTS = 2000
"""Points of a scatter plot, at most."""
APART = 0.09
"""Blocks between marks that would cover each other."""


def _test_rows(task: TaskFacts) -> str:
    return f"test, n = {task.metrics['num_test']:,}"


def _judged_rows(task: TaskFacts, rows: Sequence[JSON]) -> str:
    """``out of fold, n = 1,650``: the rows that judged the heads, with their number if known."""
    where = "validation" if judge(rows) == "validation" else "out of fold"
    count = task.metrics.get("num_judged") or (task.metrics["chosen"].get("calibration") or {}).get(
        "rows"
    )
    return where if count is None or where == "validation" else f"{where}, n = {count:,}"


def _blocks_axis(task: TaskFacts) -> str:
    return f"blocks read, of {num_layers_of(task.metrics)}"


def _bounds(spans: Sequence[Any]) -> tuple[list[float], list[float]] | None:
    """Lower and upper ends, if there are any of every entry."""
    known = [span for span in spans if span is not None and span[0] is not None]
    return ([s[0] for s in known], [s[1] for s in known]) if len(known) == len(spans) else None


def _is_chosen(task: TaskFacts, entry: JSON) -> bool:
    """Whether a baseline is the very head that was chosen."""
    same = ("kind", "depth", "num_features", "loss")
    return all(entry.get(key) == task.metrics["chosen"].get(key) for key in same)


def compared(task: TaskFacts) -> Figure | None:
    """The chosen head and what it is compared with, on the test rows, with intervals."""
    metric, known = task.metric, task.metrics.get("baselines", {})
    chosen = task.metrics["chosen"]
    rows: list[tuple[str, Style, JSON]] = [(f"chosen: {chosen['kind']}", CHOSEN, chosen)]
    rows += [
        (baseline_label(name, known[name]), own, known[name])
        for name, own in BASELINE_STYLES.items()
        if name in known and not _is_chosen(task, known[name])
    ]
    if "majority" in known:
        rows.append(("chance (majority)", Style(GREY, (4, 3), "square"), known["majority"]))
    every = every_label(task)
    if every is not None:
        everything: JSON = {"test": {metric: every}}
        rows.append(("chance (every label)", Style(GREY, (4, 3), "triangle"), everything))
    rows = [row for row in rows if row[2]["test"].get(metric) is not None]
    if len(rows) < 2:
        return None
    x, y = f"{metric_words(metric)} ({_test_rows(task)})", "model"
    parts = []
    for place, (label, own, entry) in enumerate(reversed(rows)):
        low, high = interval_of(entry, metric)
        if low is not None:
            colour = Style(BLUE) if own == CHOSEN else own
            parts.append(whiskers(([low], [high]), ([place], [place]), x, y, colour))
        parts.append(dots([entry["test"][metric]], [place], x, y, own, label))
    ticks = [(place, label) for place, (label, _, _) in enumerate(reversed(rows))]
    chart = parts[0]
    for part in parts[1:]:
        chart *= part
    return Figure(
        "compared",
        "The chosen head and what it is compared with",
        f"{metric_words(metric)} on the test rows (n = {task.metrics['num_test']:,}), which chose"
        " nothing. Bars: 95 % bootstrap intervals over these rows; of random features there is one"
        " draw, and others score a little differently. Intervals of differences, which are"
        " narrower, are in the table of scores."
        + (" Every label: given to every text; by majority few labels are given." if every else ""),
        for_both(chart, yticks=ticks, ylabel=""),
        100 + 36 * len(rows),
        legend=False,
    )


def by_layer(task: TaskFacts) -> Figure | None:
    """Score of one probe per FFN layer and per hidden state (the paper's figures 4 and 5)."""
    metric, lines, blocks = task.metric, list[Series](), list[int]()
    sites = [(probes_of(task.metrics, site), label, own) for site, label, own in SITE_LINES]
    entries = [entry for probes, _, _ in sites for _, entry in probes]
    tested = all(entry["test"].get(metric) is not None for entry in entries)
    where = _test_rows(task) if tested else "validation"
    y = f"{metric_words(metric)} ({where})"
    embeds = any(source.depth < 0 for probes, _, _ in sites for source, _ in probes)
    x = f"block, of {num_layers_of(task.metrics)}" + " (0: the embeddings)" * embeds
    for probes, label, own in sites:
        if not probes:
            continue
        after = [source.depth + 1 for source, _ in probes]
        blocks = sorted({*blocks, *after})
        scores = [e["test"][metric] if tested else e["val"] for _, e in probes]
        ends = _bounds([interval_of(e, metric) for _, e in probes]) if tested else None
        low, high = ends or (None, None)
        lines.append(Series(label, after, scores, own, low=low, high=high))
    chance, every = None, every_label(task)
    if tested:
        lines = [*_levels(task, blocks), *lines]
        known = task.metrics.get("baselines", {})
        chance = known.get("majority", {"test": {}})["test"].get(metric)
    return Figure(
        "by-layer",
        "Score by layer",
        f"{metric_words(metric)} of one probe per layer on its pooled "
        + ("FFN activations" if probes_of(task.metrics, "ffn") else "values")
        + (
            ", and on the hidden state after each block"
            if probes_of(task.metrics, "hidden")
            else ""
        )
        + (
            f". All on the test rows (n = {task.metrics['num_test']:,}). Bands: 95 % bootstrap"
            " intervals over them."
            + _levels_said(task)
            + ("" if chance is None else f" Chance (majority): {three(chance)}.")
            + ("" if every is None else f" Chance (every label): {three(every)}.")
            if tested
            else ". All on the validation rows: this run was not tested."
        ),
        for_both(line_chart(lines, x, y), xticks=whole_ticks(blocks)),
    )


def _levels(task: TaskFacts, at: Sequence[int]) -> list[Series]:
    """Horizontal lines: test scores of the conventional head and of random features."""
    known = task.metrics.get("baselines", {})
    ends = [at[0], at[-1]] if len(at) > 1 else [at[0] - 0.5, at[0] + 0.5]
    found = []
    for name in ("final", "random"):
        entry = known.get(name, task.metrics["hidden"] if name == "final" else None)
        score = None if entry is None else entry["test"].get(task.metric)
        if entry is not None and score is not None:
            bounds = _bounds([interval_of(entry, task.metric)] * 2)
            low, high = bounds or (None, None)
            style = Style(BASELINE_STYLES[name].colour, BASELINE_STYLES[name].dash, "")
            label = baseline_label(name, entry)
            found.append(Series(label, ends, [score] * 2, style, low, high))
    return found


def _levels_said(task: TaskFacts) -> str:
    """What the level of random features reads, which single layers do not."""
    entry = task.metrics.get("baselines", {}).get("random")
    if entry is None or entry["test"].get(task.metric) is None:
        return ""
    read = blocks_read(entry["depth"] + 1, num_layers_of(task.metrics))
    return f" The random features are of {read} together."


def by_depth(task: TaskFacts) -> Figure | None:
    """Score of the dense head by blocks read, of the other kinds where they were tried."""
    rows = task.sweep.to_pylist()
    best, where = best_by_depth(rows, task.metric), _judged_rows(task, rows)
    x, y = _blocks_axis(task), f"{metric_words(task.metric)} ({where})"
    depths = sorted({depth for _, depth in best})
    chosen = task.metrics["chosen"]
    kinds = [kind for kind in dict.fromkeys(kind for kind, _ in best) if kind != "final"]
    # One band: those of several kinds cover each other.
    banded = "dense" if "dense" in kinds else chosen["kind"]
    lines, alone = [], []
    for kind in kinds:
        own = [best[kind, depth] for depth in depths if (kind, depth) in best]
        at, scores = [row["depth"] + 1 for row in own], [judged(row) for row in own]
        style = KIND_STYLES.get(kind, Style(GREY, (4, 3)))
        if len(own) < len(depths):
            alone.append((f"{kind} head", style, at, scores))
            continue
        spans = _bounds([(row.get("low"), row.get("high")) for row in own])
        low, high = spans if spans is not None and kind == banded else (None, None)
        lines.append(Series(f"{kind} head", at, scores, style, low, high))
    if "hidden" in _beside_names(task, where):  # those are its states, too
        alone = [one for one in alone if one[0] != "states head"]
    final = _judged_entry(task, "final", where)
    if final is not None:
        first, last = depths[0] + 1, depths[-1] + 1
        reach = [first, last] if first < last else [first - 0.5, last + 0.5]
        bounds = _bounds([final.get("score_interval")] * 2)
        low, high = bounds or (None, None)
        style = Style(VERMILION, (7, 3), "")
        lines.append(Series(BASELINES["final"], reach, [final["score"]] * 2, style, low, high))
    chart = line_chart(lines, x, y)
    for place, (label, style, at, scores) in enumerate(alone):
        left = [one - APART * (place + 2) for one in at]  # the star is wide
        chart *= dots(left, scores, x, y, style, label)
    beside = list(_beside(task, where, x, y))
    for part in beside:
        chart *= part
    score = chosen.get("score", chosen["val"])
    chart *= star(chosen["depth"] + 1, score, x, y, f"chosen ({chosen['kind']})")
    known = [_judged_entry(task, name, where) or {} for name in BASELINE_STYLES]
    bars = (
        "; bars: of what it is compared with" if any(e.get("score_interval") for e in known) else ""
    )
    return Figure(
        "by-depth",
        "Score by blocks read",
        f"{metric_words(task.metric)} of the best head of each kind that reads so many of the"
        f" model's {num_layers_of(task.metrics)} blocks, all on the rows that judged them"
        f" ({where}). The final hidden state needs all blocks, and is a line for comparison."
        f" Band: 95 % interval, of the {banded} head{bars}. These rows chose the head and the best"
        " of each kind, too, so their scores are a little too good; the test rows chose nothing."
        + (" Marks beside each other are of the same block." if alone or beside else ""),
        for_both(chart, xticks=whole_ticks([depth + 1 for depth in depths])),
    )


def _judged_entry(task: TaskFacts, name: str, where: str) -> JSON | None:
    """A baseline as it was judged with the heads, on the same rows; None if it was not."""
    known = task.metrics.get("baselines", {"final": task.metrics["hidden"]})
    entry: JSON | None = known.get(name)
    if entry is None or entry.get("score") is not None:
        return entry
    # An older run's baseline was judged on validation only.
    val = entry.get("val") if where.startswith("validation") else None
    return None if val is None else {**entry, "score": val}


def _beside_names(task: TaskFacts, where: str) -> list[str]:
    """Baselines that read as many blocks as the chosen head."""
    at = task.metrics["chosen"]["depth"]
    entries = ((name, _judged_entry(task, name, where)) for name in ("hidden", "random", "layer"))
    return [name for name, entry in entries if entry is not None and entry.get("depth") == at]


def _beside(task: TaskFacts, where: str, x: str, y: str) -> Iterator[Any]:
    """What reads as many blocks as the chosen head: marks with bars, beside its star."""
    for place, name in enumerate(_beside_names(task, where)):
        entry = _judged_entry(task, name, where)
        assert entry is not None
        at = entry["depth"] + 1 + APART * (place + 1)
        style = BASELINE_STYLES[name]
        if bounds := _bounds([entry.get("score_interval")]):
            yield whiskers(([at], [at]), bounds, x, y, style)
        yield dots([at], [entry["score"]], x, y, style, baseline_label(name, entry))


def by_size(task: TaskFacts) -> Figure | None:
    """Salient features against as many random ones, by their number."""
    entries = task.metrics.get("by_size") or []
    chosen = task.metrics["chosen"]
    if not entries:
        return None
    depths = {int(entry["depth"]) for entry in entries}
    depth = int(chosen["depth"]) if chosen["depth"] in depths else max(depths)
    entries = [entry for entry in entries if entry["depth"] == depth]
    where = _judged_rows(task, task.sweep.to_pylist())
    x, y = "features read", f"{metric_words(task.metric)} ({where})"
    sizes = [entry["num_features"] for entry in entries]
    lines = []
    for name, label, style in (
        ("salient", "salient features", KIND_STYLES["sparse"]),
        ("random", "as many random features", BASELINE_STYLES["random"]),
    ):
        own = [entry[name] for entry in entries]
        low, high = _bounds([one.get("score_interval") for one in own]) or (None, None)
        lines.append(Series(label, sizes, [one["score"] for one in own], style, low, high))
    chart = line_chart(lines, x, y)
    known = task.metrics.get("baselines", {})
    seen = [*sizes]
    for name in ("layer", "hidden", "all"):
        entry = known.get(name)
        if entry is None or entry["depth"] != depth or entry.get("score") is None:
            continue
        if _is_chosen(task, entry):
            continue
        at = entry["num_features"]
        seen.append(at)
        style = BASELINE_STYLES[name]
        if bounds := _bounds([entry.get("score_interval")]):
            chart *= whiskers(([at], [at]), bounds, x, y, style)
        chart *= dots([at], [entry["score"]], x, y, style, BASELINES[name])
    if chosen["depth"] == depth and chosen["num_features"]:
        seen.append(chosen["num_features"])
        score = chosen.get("score", chosen["val"])
        chart *= star(chosen["num_features"], score, x, y, f"chosen ({chosen['kind']})")
    middle = _draws_said(entries)
    return Figure(
        "by-size",
        "Salient against random features",
        f"{metric_words(task.metric)} of heads on so many features of the first"
        f" {blocks_read(depth + 1, num_layers_of(task.metrics))}, chosen by weight (salient) or at"
        f" random{middle}; all on the rows that judged the heads ({where}). Bands and bars: 95 %"
        " intervals over these rows, not over draws.",
        for_both(chart, logx=True, xticks=log_ticks(seen)),
    )


def _draws_said(entries: Sequence[JSON]) -> str:
    """Which of some draws of random features is shown."""
    draws = [(entry["num_features"], len(entry["random"].get("draws") or ())) for entry in entries]
    most = max(number for _, number in draws)
    if most < 2:
        return ""
    fewer = [size for size, number in draws if number < most]
    single = f"; from {min(fewer):,} features on one draw" if fewer else ""
    return f" (the middle one of {most} draws{single})"


def pareto(task: TaskFacts) -> Figure | None:
    """Every head tried: features against validation score, with the Pareto front."""
    rows = [row for row in task.sweep.to_pylist() if row["num_features"] > 0]
    where = _judged_rows(task, rows)
    y = f"{metric_words(task.metric)} ({where})"
    features = [row["num_features"] for row in rows]
    scores = [judged(row) for row in rows]
    higher = METRICS[task.metric].higher_is_better
    front = pareto_front(features, scores, higher=higher)
    x = "features read"
    ends = ([features[i] for i in front], [scores[i] for i in front])
    line = Series("Pareto front: no head is both better and smaller", *ends, THRESHOLD)
    depths = [row["depth"] + 1 for row in rows]
    chart = line_chart([line], x, y) * points(features, scores, x, y, by=("blocks", depths))
    chosen = task.metrics["chosen"]
    score = chosen.get("score", chosen["val"])
    chart *= star(chosen["num_features"], score, x, y, f"chosen ({chosen['kind']})")
    return Figure(
        "pareto",
        "What a better score costs",
        f"Every head tried: how many features it reads, and its score on the rows that judged it"
        f" ({where}); colour is the number of blocks that must run.",
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
    if found is None or not found.classes or found.multilabel:
        return None
    counts = found.confusion()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    texts = [[str(count) for count in row] for row in counts]
    return Figure(
        "confusion",
        "Confusion matrix",
        f"Test rows (n = {len(found.targets):,}) by label and by the chosen head's decision; colour"
        " is the share of the label's rows.",
        matrix(share, "decided", "label", "share", list(found.classes), texts=texts),
        430,
    )


def calibration(task: TaskFacts) -> Figure | None:
    """How often the most probable class is right, by its probability."""
    found = task.predictions
    if found is None or found.probability is None or found.multilabel:
        return None
    bins = found.reliability()
    low, high = bins.interval()
    x, y = "probability of the most probable class", "share that is right"
    lines = [
        Series("as often as said", [0, 1], [0, 1], THRESHOLD),
        Series("chosen head", bins.confidence, bins.accuracy, Style(BLUE), low=low, high=high),
    ]
    start = max(0.0, min(float(bins.confidence.min()), float(low.min())) - 0.05)
    return Figure(
        "calibration",
        "Calibration",
        f"How often the most probable class is right, by its probability: test rows (n ="
        f" {len(found.targets):,}) in bins of equal size. Expected calibration error:"
        f" {bins.error:.3f}; of so many rows and right probabilities it is {bins.chance:.3f}, and"
        f" over {bins.most_by_chance:.3f} in 5 of 100 cases. Band: 95 % interval of the share.",
        for_both(line_chart(lines, x, y), xlim=(start, 1.02), ylim=(start, 1.02)),
    )


def predicted(task: TaskFacts) -> Figure | None:
    """Predicted against labelled values, for regression."""
    found = task.predictions
    if found is None or found.classes:
        return None
    draw = np.random.default_rng(0).permutation(len(found.targets))[:SAMPLE_POINTS]
    y_true, y_head = found.targets[draw], found.decided[draw]
    x, y = "label", "predicted"
    ends = [float(min(y_true.min(), y_head.min())), float(max(y_true.max(), y_head.max()))]
    diagonal = Series("the same", ends, ends, THRESHOLD)
    return Figure(
        "predicted",
        "Predicted against labelled values",
        f"{len(draw):,} of {len(found.targets):,} test rows and the chosen head's values for them.",
        line_chart([diagonal], x, y) * points(y_true, y_head, x, y, style=Style(BLUE)),
    )


def drift(task: TaskFacts) -> Figure | None:
    """How far a folder of scores has moved from the validation texts, by date."""
    if task.drift is None:
        return None
    dates = list(task.drift.dates)
    lines = []
    for part, label, style in DRIFT_PARTS:
        at = [i for i, date in enumerate(dates) if part in task.drift.dates[date]]
        if at:
            excess = [float(task.drift.dates[dates[i]][part]["excess"]) for i in at]
            sets = part == "classes" and task.metrics["type"] == "multilabel"
            lines.append(Series("label shares" if sets else label, at, excess, style))
    ends = [0, max(len(dates) - 1, 1)]
    lines.append(Series("threshold", ends, [task.drift.threshold] * 2, THRESHOLD))
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
    compared,
    by_depth,
    by_size,
    by_layer,
    confusion,
    by_label,
    missed_labels,
    predicted,
    calibration,
    label_calibration,
    pareto,
    importance_map,
    overlap,
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
    x, y = "texts a second, measured", metric_words(plan["tasks"][name]["metric"])
    options = sorted(plan["options"], key=lambda one: one["speed"]["texts_per_s"])
    heads = [option["heads"][name] for option in options]
    speeds = [option["speed"]["texts_per_s"] for option in options]
    scores = [head["score"] for head in heads]
    spans = [(head["low"], head["high"]) for head in heads if head["low"] is not None]
    known = len(spans) == len(heads)
    every = Series(
        "every number of blocks",
        speeds,
        scores,
        Style(BLUE),
        low=[low for low, _ in spans] if known else None,
        high=[high for _, high in spans] if known else None,
    )
    front = [i for i, option in enumerate(options) if option["depth"] in plan["front"]]
    ends = ([speeds[i] for i in front], [scores[i] for i in front])
    chart = line_chart([every, Series("Pareto front", *ends, Style(VERMILION, (7, 3), ""))], x, y)
    depths = [option["depth"] for option in options]
    chart *= labels_at(speeds, scores, [counted(depth + 1, "block") for depth in depths], x, y)
    at = depths.index(plan["picks"][plan["pick"]])
    chart *= star(
        speeds[at], scores[at], x, y, f"{plan['pick']}: {counted(depths[at] + 1, 'block')}"
    )
    return Figure(
        "plan",
        name,
        "Score by measured throughput of the backbone cut after so many blocks, heads included."
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
            write_image(drawn[0], path, title="scores and costs by blocks read")
        else:
            write_row(drawn, path, title="scores and costs by blocks read")
        written.append(path)
    return written


def write_overview(task: TaskFacts, path: Path) -> None:
    """The scores by blocks read and, side by side, salient against random features by their number;
    by layer where an older run has none. One PNG or SVG."""
    drawn = [figure for draw in (by_depth, by_size, by_layer) if (figure := draw(task)) is not None]
    write_row(drawn[:2], path, title=task.name)
