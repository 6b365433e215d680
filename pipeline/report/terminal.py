"""Tables of results for the terminal, from ``metrics.json``, its companions and rankings."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table

from pipeline.measures import METRICS
from pipeline.neurons import RANKINGS
from pipeline.progress import counted
from pipeline.report.digits import NONE, span, three
from pipeline.report.scores import (
    ScoreRow,
    best_by_depth,
    judge,
    judged,
    judging,
    label_rows,
    num_layers_of,
    remarks,
    score_rows,
)

JSON = Mapping[str, Any]


@dataclass(frozen=True)
class Fitting:
    """One of several tables: the first that is no wider than the terminal, else the last."""

    tables: tuple[Table, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's own protocol."""
        free = options.update(max_width=1000)
        for table in self.tables[:-1]:
            if table.__rich_measure__(console, free).maximum <= options.max_width:
                yield table
                return
        yield self.tables[-1]


SCORE_COLUMNS = {
    "model": "model",
    "blocks": "blocks",
    "features": "features",
    "loss": "loss",
    "score": "score",
    "test": "test [95 % CI]",
    "gain": "gain of chosen\n[95 % CI]",
}
"""Field of a row -> its head."""
LESS_NEEDED = (
    "", "loss", "loss score", "loss score features", "loss score features gain",
    "loss score features gain blocks",
)  # fmt: skip
"""Columns that ever narrower terminals do without."""


def task_table(name: str, task: JSON) -> Fitting:
    """What one task's baselines, single layers and heads score, and the choice in words.

    The test score's interval is a bootstrap interval over the test rows; a gain's is of the
    difference on the same rows.
    """
    rows = list(score_rows(task))
    empty = [key for key in ("loss", "gain") if not any(getattr(row, key) for row in rows)]
    widths = dict.fromkeys(frozenset([*empty, *names.split()]) for names in LESS_NEEDED)
    return Fitting(tuple(_task_table(name, task, rows, left_out) for left_out in widths))


def _task_table(
    name: str, task: JSON, rows: Sequence[ScoreRow], left_out: Collection[str]
) -> Table:
    better = "" if METRICS[task["metric"]].higher_is_better else " (lower is better)"
    judged_by = f"; {judging(task, loss='loss' not in left_out)}"
    judged_by = "" if "score" in left_out else judged_by
    table = open_table(
        f"{name}: {task['metric']}{better}, {task['num_test']:,} test texts{judged_by}",
        caption=escape("\n".join(remarks(task))),
        caption_justify="left",
    )
    columns = {key: head for key, head in SCORE_COLUMNS.items() if key not in left_out}
    for key, head in columns.items():
        right = key != "model"
        table.add_column(head, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        table.add_row(
            *(escape(getattr(row, key)) for key in columns),
            style="bold" if row.chosen else None,
            end_section=following is not None and following.group != row.group,
        )
    return table


def open_table(title: str, **options: Any) -> Table:
    """A table with a line below its head only, as narrow as its words; options as of ``Table``."""
    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        **options,
    )


def label_table(name: str, task: JSON) -> Table:
    """The chosen head's F1 of each label of a multilabel task, with its bootstrap interval, beside
    that of whoever gives the label to every text."""
    table = open_table(f"{name}: labels, {task['num_test']:,} test texts")
    table.add_column("label")
    for column in ("texts", "F1 [95 % CI]", "chance"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in label_rows(task):
        table.add_row(*map(escape, row))
    return table


@dataclass(frozen=True)
class AblationRow:
    """A head's score with neurons silenced, and its change against none silenced."""

    head: str
    silenced: str
    score: str
    change: str = ""
    interval: str = ""


def ablation_rows(report: JSON) -> Iterator[AblationRow]:
    """Each head with nothing, salient and random neurons silenced, and the latter's difference.

    Args:
        report: a task's entry in ``ablation.json``.
    """
    for key, head in _heads(report).items():
        entry = report[key]
        yield AblationRow(head, "nothing", three(entry["baseline"]))
        for what in ("salient", "random", "difference"):
            found = entry[what]
            score = three(found["value"]) if "value" in found else ""
            change = f"{found['change']:+.3f}"
            yield AblationRow(head, what, score, change, span(*found["interval"]))


def fitted_line(report: JSON) -> str | None:
    """Which heads were fitted on the very texts of an ablation, whose levels flatter them so.

    Args:
        report: a task's entry in ``ablation.json``; those of earlier versions do not say.
    """
    heads = _heads(report)
    if not (fitted := [heads[key] for key in report.get("fitted", ())]):
        return None
    return (
        f"fitted on these texts: {', '.join(fitted)}; compare the drops, not the levels (--split"
        " test has texts they were not fitted on)"
    )


def _heads(report: JSON) -> dict[str, str]:
    """Keys of a task's entry in ``ablation.json`` that are heads, and what they are called."""
    return {"chosen": f"chosen ({report['head']['kind']})", "hidden": "final hidden state"}


def ablation_table(name: str, report: JSON) -> Table:
    """What each head loses with salient and with random neurons silenced, and the difference.

    Args:
        name: the task.
        report: its entry in ``ablation.json``.
    """
    metric, layers = report["metric"], report["layers"]
    better = "" if METRICS[metric].higher_is_better else " (lower is better)"
    spreads = (
        f"{three(min(draws))} to {three(max(draws))} ({head})"
        for draws, head in (
            (report[key]["random"]["values"], head) for key, head in _heads(report).items()
        )
    )
    drawn = f"random: mean of {report['draws']} draws; they lie in {', '.join(spreads)}"
    table = Table(
        title=escape(
            f"{name}: {report['num_silenced']} of {report['num_neurons']} neurons of"
            f" layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))} set to"
            f" {report['fill']}; {report['num_texts']} {report['split']} texts"
        ),
        title_justify="left",
        caption=escape("\n".join(filter(None, (drawn, fitted_line(report))))),
        caption_justify="left",
    )
    table.add_column("head")
    table.add_column("silenced")
    for column in (metric + better, "change", f"{100 * report['level']:.0f} % CI"):
        table.add_column(column, justify="right")
    for row in ablation_rows(report):
        head = escape(row.head) if row.silenced == "nothing" else ""
        table.add_row(head, row.silenced, row.score, row.change, row.interval)
        if row.silenced == "difference":
            table.add_section()
    return table


def plan_table(plan: JSON) -> Table:
    """Scores and costs by depth, the Pareto front and the picks.

    Args:
        plan: the content of ``plan.json``.
    """
    tasks, measured = plan["tasks"], plan["measured"]
    table = Table(
        title="what a deeper pass costs and brings: " + ", ".join(tasks), title_justify="left"
    )
    table.add_column("blocks", justify="right", no_wrap=True)
    for name, task in tasks.items():
        table.add_column(f"{name}\n{task['metric']}", justify="right")
    for column in ("salient\nneurons", "MFLOP/\ntoken", "texts/s\ntokens/s"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("pick", no_wrap=True)

    def cells(option: JSON, front: str = "") -> list[str]:
        found = [f"{front}{option['depth'] + 1}"]
        for name in tasks:
            head = option["heads"][name]
            above = "" if head["depth"] == option["depth"] else f"@{head['depth'] + 1} "
            found.append(f"{above}{three(head['score'])}\n{span(head['low'], head['high'])}")
        speed = option["speed"]
        return [
            *found,
            f"{option['num_neurons']:,}",
            f"{option['flops_per_token'] / 1e6:,.3g}",
            f"{speed['texts_per_s']:,.0f}\n{speed['tokens_per_s']:,.0f}",
        ]

    for option in plan["options"]:
        picked = [rule for rule, depth in plan["picks"].items() if depth == option["depth"]]
        front = "• " if option["depth"] in plan["front"] else ""
        slow = option["speed"]["texts_per_s"] < (plan["min_texts_per_s"] or 0)
        style = "bold" if picked else "dim" if slow else None
        table.add_row(*cells(option, front), "\n".join(picked), style=style)
    table.add_section()
    table.add_row(*cells(plan["chosen"]), "chosen\nnow")
    table.caption = _plan_caption(plan, measured)
    table.caption_justify = "left"
    return table


def plan_lines(plan: JSON) -> Iterator[str]:
    """What was picked, in words."""
    depth = plan["picks"][plan["pick"]]
    option = next(one for one in plan["options"] if one["depth"] == depth)
    fingerprints = [
        {task: head["fingerprint"] for task, head in one["heads"].items()}
        for one in (option, plan["chosen"])
    ]
    done = "chosen now" if fingerprints[0] == fingerprints[1] else "--apply makes it the chosen one"
    yield f"{plan['pick']}: {counted(depth + 1, 'block')} ({done})"
    for task, head in option["heads"].items():
        yield (
            f"  {task}: {head['kind']} head, {counted(head['depth'] + 1, 'block')},"
            f" {counted(head['num_features'], 'feature')},"
            f" {plan['tasks'][task]['metric']} {three(head['score'])}"
        )


def cascade_table(cascade: JSON) -> Table:
    """Scores and throughput of the chosen heads alone and with an early exit.

    Args:
        cascade: the content of ``cascade.json``.
    """
    found, tasks = cascade["found"], cascade["tasks"]
    measured = found["measured"]
    table = Table(
        title=f"cascade: texts may leave after {found['early_depth'] + 1} of"
        f" {counted(found['full_depth'] + 1, 'block')}",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("")
    for name, task in found["tasks"].items():
        table.add_column(f"{name}\n{task['metric']}", justify="right")
    table.add_column("texts/s", justify="right")

    def row(label: str, key: str) -> list[str]:
        scores = [three(task[key]) for task in found["tasks"].values()]
        return [label, *scores, f"{measured[key]['texts_per_s']:,.0f}"]

    table.add_row(*row("chosen heads", "plain"))
    table.add_row(*row("with the cascade", "cascade"))
    changes = [
        span(*task["change"]) if task["change"] else NONE for task in found["tasks"].values()
    ]
    table.add_row("change, 95 % CI", *changes, "")
    thresholds = ", ".join(f"{name} {task['threshold']:.3f}" for name, task in tasks.items())
    table.caption = (
        f"scores: on validation, where blocks and thresholds were chosen for a loss of at most"
        f" {cascade['loss']:g}\n{found['share_early']:.0%} of {found['num_validation_texts']:,}"
        f" validation texts leave early: their classes are at least so probable: {thresholds}\n"
        f"speed: {measured['gain']:.2f} times as fast on {measured['num_texts']:,} texts, of which"
        f" {measured['share_early']:.0%} left (expected: {found['expected_gain']:.2f})"
    )
    if measured["gain"] < 1:
        table.caption += "\nslower than the chosen heads alone: better not used"
    return table


def _plan_caption(plan: JSON, measured: JSON) -> str:
    limit = plan["min_texts_per_s"]
    lines = [
        "score with its 95 % interval; •: on the Pareto front of measured speed and score"
        + (" (of the task that loses most)" if len(plan["tasks"]) > 1 else ""),
        f"best: the best score; smallest: fewest blocks within {plan['tolerance']:g} of it"
        + (f"; among those with {limit:,.0f} texts/s" if limit else ""),
        f"speed: median of {measured['rounds']} passes over {measured['num_texts']:,} texts"
        f" ({measured['num_tokens']:,} tokens), {measured['dtype']}, {measured['device']}"
        + (f" with {measured['threads']} threads" if measured["device"] == "cpu" else ""),
    ]
    if any(
        head["depth"] < option["depth"]
        for option in (*plan["options"], plan["chosen"])
        for head in option["heads"].values()
    ):
        lines.append("@N: this task's best head up to here reads N blocks only")
    return "\n".join(lines)


def depth_table(name: str, task: JSON, sweep: pa.Table) -> Table:
    """The dense head's score at each depth, and the best of the other kinds with their sizes."""
    metric, rows = task["metric"], sweep.to_pylist()
    best = best_by_depth(rows, metric)
    kinds = list(dict.fromkeys(kind for kind, _ in best))
    main = "dense" if "dense" in kinds else None
    table = open_table(f"{name}: {judge(rows)} {metric} by blocks read")
    table.add_column("blocks", no_wrap=True)
    if main:
        table.add_column("dense", justify="right", no_wrap=True)
    table.add_column("other kinds (features)" if main else "best (features)")
    for depth in sorted({depth for _, depth in best}):
        others = [
            f"{kind} {three(judged(best[kind, depth]))} ({best[kind, depth]['num_features']:,})"
            for kind in kinds
            if kind != main and (kind, depth) in best
        ]
        cells = [f"{depth + 1}/{num_layers_of(task)}"]
        if main:
            cells.append(three(judged(best[main, depth])) if (main, depth) in best else "")
        chosen = depth == task["chosen"]["depth"]
        if chosen:
            cells[0] += " *"
        others_shown = escape(", ".join(others))
        table.add_row(*cells, others_shown, style="bold" if chosen else None)
    table.caption = escape(f"* chosen: {task['chosen']['kind']}")
    table.caption_justify = "left"
    return table


def top_neurons(table: pa.Table, *, rows: int) -> list[dict[str, Any]]:
    """The first neurons of a ranking table by their share of a layer's squared importance.

    Returns:
        ``layer``, ``pooling``, ``neuron``, ``share`` and ``ranks``: ranking -> rank in the layer.
    """
    names = table["ranking"].cast(pa.string())
    first = table.filter(pc.equal(names, names[0]))
    first = first.sort_by([("share", "descending"), ("layer", "ascending")]).slice(0, rows)
    out = []
    for row in first.select(["layer", "pooling", "neuron", "share"]).to_pylist():
        same = pc.and_(
            pc.and_(
                pc.equal(table["layer"], row["layer"]), pc.equal(table["neuron"], row["neuron"])
            ),
            pc.equal(table["pooling"].cast(pa.string()), row["pooling"]),
        )
        ranks = table.filter(same).select(["ranking", "rank"]).to_pylist()
        out.append(row | {"ranks": {entry["ranking"]: entry["rank"] for entry in ranks}})
    return out


def ranking_summary(found: Mapping[str, Mapping[str, pa.Table]], *, rows: int) -> dict[str, Any]:
    """What `salient rank` made as JSON: the first neurons, and the other tables whole."""
    return {
        task: {
            "neurons": top_neurons(tables["rankings"], rows=rows),
            **{k: table.to_pylist() for k, table in tables.items() if k != "rankings"},
        }
        for task, tables in found.items()
    }


def ranking_views(task: str, tables: Mapping[str, pa.Table], *, rows: int) -> Iterator[Table]:
    """Tables for the terminal: first neurons, overlaps, stability and selectivity by layer."""
    yield _neuron_view(task, top_neurons(tables["rankings"], rows=rows))
    overlaps = tables["overlaps"].to_pylist()
    own, expected = overlaps[0]["ranking"], overlaps[0]["expected"]
    title = (
        f"{task}: share of the top {overlaps[0]['top']} features in common with"
        f" {RANKINGS[own].label}"
        f" (Jaccard; random sets: {expected:.3f})"
    )
    with_own = [row | {"ranking": row["other"]} for row in overlaps if row["ranking"] == own]
    yield _layer_view(title, with_own, "jaccard")
    if "stability" in tables:
        entries = tables["stability"].to_pylist()
        title = (
            f"{task}: stability of the top {entries[0]['top']} features over"
            f" {entries[0]['replicates']} bootstrap replicates (1: always the same, 0: random)"
        )
        yield _layer_view(title, entries, "stability")
    if "selectivity" in tables:
        yield _selectivity_view(task, tables["selectivity"].to_pylist())


def _neuron_view(task: str, neurons: Sequence[Mapping[str, Any]]) -> Table:
    others = list(neurons[0]["ranks"])
    table = Table(
        title=f"{task}: neurons with the largest share of their layer's squared importance; rank"
        " in the layer by each ranking",
        title_justify="left",
    )
    for column in ("layer", "pool", "neuron", "share", *(RANKINGS[name].label for name in others)):
        table.add_column(column, justify="left" if column == "pool" else "right")
    for row in neurons:
        cells = [str(row["layer"]), row["pooling"], str(row["neuron"]), f"{row['share']:.2%}"]
        table.add_row(*cells, *(str(row["ranks"][name] + 1) for name in others))
    return table


def _layer_view(title: str, entries: Sequence[Mapping[str, Any]], value: str) -> Table:
    """A row per layer, a column per ranking."""
    names = list(dict.fromkeys(row["ranking"] for row in entries))
    cells = {(row["layer"], row["ranking"]): row[value] for row in entries}
    table = Table(title=title, title_justify="left")
    for column in ("layer", *(RANKINGS[name].label for name in names)):
        table.add_column(column, justify="right")
    for layer in sorted({layer for layer, _ in cells}):
        table.add_row(str(layer), *(f"{cells[layer, name]:.3f}" for name in names))
    return table


def _selectivity_view(task: str, entries: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(
        title=f"{task}: {entries[0]['metric']} with labels and with shuffled ones (mean of"
        f" {entries[0]['shuffles']} shuffles)",
        title_justify="left",
    )
    columns = ("validation", "shuffled", "selectivity", "training", "training, shuffled")
    for column in ("layer", *columns):
        table.add_column(column, justify="right")
    for row in entries:
        keys = ("val", "val_control", "selectivity", "train", "train_control")
        table.add_row(str(row["layer"]), *(three(row[key]) for key in keys))
    return table
