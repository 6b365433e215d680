"""What people look at: result tables for the terminal and plots, both from ``metrics.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.table import Table

from pipeline.errors import ConfigError
from pipeline.metrics import METRICS

JSON = Mapping[str, Any]


def task_table(name: str, task: JSON) -> Table:
    """Validation and test score of the baseline, every layer and the heads of one task.

    The test score's interval is a bootstrap interval over the test rows; the caption's is of the
    difference on the same rows.
    """
    metric = task["metric"]
    table = Table(title=f"{name}: {metric}, {task['num_test']} test rows", title_justify="left")
    table.add_column("model")
    for column in ("blocks", "features", "val", "test (95 % CI)"):
        table.add_column(column, justify="right", no_wrap=True)
    num_layers = len(task["layers"])

    def row(label: str, blocks: int, features: str, entry: JSON, *, bold: bool = False) -> None:
        value = entry["test"][metric]
        bounds = entry.get("test_interval", {}).get(metric)
        test = "-" if value is None else f"{value:.4f}"
        cells = (
            label,
            f"{blocks}/{num_layers}",
            features,
            f"{entry['val']:.4f}",
            test if bounds is None else f"{test} {_span(*bounds)}",
        )
        table.add_row(*cells, style="bold" if bold else None)

    row("baseline: final hidden state", num_layers, "all", task["hidden"])
    for entry in task["layers"]:
        best = entry["source"] == task["best_layer"]["source"]
        label = f"layer {entry['source']}" + (" (best single layer)" if best else "")
        row(label, entry["source"] + 1, "all", entry)
    for kind in ("frozen", "sparse"):
        if kind in task:
            entry = task[kind]
            row(
                f"{kind}, best on validation", entry["depth"] + 1, str(entry["num_features"]), entry
            )
    chosen = task["chosen"]
    label = f"chosen: {chosen['kind']}, depth {chosen['depth']}"
    row(label, chosen["depth"] + 1, str(chosen["num_features"]), chosen, bold=True)
    gain = task.get("gain", {})
    if gain.get("low") is not None:
        table.caption = (
            "chosen head less baseline: {value:+.4f} ({low:+.3f} to {high:+.3f})".format(**gain)
        )
        table.caption_justify = "left"
    return table


def _span(low: float, high: float) -> str:
    """An interval to three digits, such as .648-.690."""
    return ("-" if low >= 0 else " to ").join(f"{end:.3f}".removeprefix("0") for end in (low, high))


def ablation_table(name: str, report: JSON) -> Table:
    """What each head loses with salient and with random neurons silenced, and the difference.

    Args:
        name: the task.
        report: its entry in ``ablation.json``.
    """
    metric, layers = report["metric"], report["layers"]
    better = "" if METRICS[metric].higher_is_better else " (lower is better)"
    labels = {"chosen": f"chosen ({report['head']['kind']})", "hidden": "final hidden state"}
    spreads = (
        f"{min(draws):.4f} to {max(draws):.4f} ({label})"
        for draws, label in ((report[key]["random"]["values"], labels[key]) for key in labels)
    )
    table = Table(
        title=f"{name}: {report['num_silenced']} of {report['num_neurons']} neurons of"
        f" layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))} set to {report['fill']};"
        f" {report['num_texts']} {report['split']} texts",
        title_justify="left",
        caption=f"random: mean of {report['draws']} draws; they lie in {', '.join(spreads)}",
        caption_justify="left",
    )
    table.add_column("head")
    table.add_column("silenced")
    for column in (metric + better, "change", f"{100 * report['level']:.0f} % CI"):
        table.add_column(column, justify="right")

    def change(entry: JSON) -> tuple[str, str]:
        low, high = entry["interval"]
        return f"{entry['change']:+.4f}", f"{low:+.4f}, {high:+.4f}"

    for key, label in labels.items():
        entry = report[key]
        table.add_row(label, "nothing", f"{entry['baseline']:.4f}")
        for what in ("salient", "random"):
            table.add_row("", what, f"{entry[what]['value']:.4f}", *change(entry[what]))
        table.add_row("", "difference", "", *change(entry["difference"]))
        table.add_section()
    return table


def depth_table(name: str, task: JSON, sweep: pa.Table) -> Table:
    """Best validation score of each head kind at each depth, with the salient set's size."""
    metric = task["metric"]
    kinds = sorted(set(sweep["kind"].to_pylist()))
    table = Table(title=f"{name}: validation {metric} by depth", title_justify="left")
    table.add_column("layers", justify="left")
    for kind in kinds:
        table.add_column(kind, justify="right")
        table.add_column("features", justify="right")
    best = best_by_depth(sweep.to_pylist(), metric)
    for depth in sorted({depth for _, depth in best}):
        cells = []
        for kind in kinds:
            entry = best.get((kind, depth))
            cells += (
                [f"{entry['val_score']:.4f}", str(entry["num_features"])] if entry else ["", ""]
            )
        chosen = depth == task["chosen"]["depth"]
        table.add_row(f"0..{depth}" + (" (chosen)" if chosen else ""), *cells)
    return table


def best_by_depth(rows: Sequence[JSON], metric: str) -> dict[tuple[str, int], JSON]:
    """(kind, depth) -> the sweep's best row there."""
    sign = 1 if METRICS[metric].higher_is_better else -1
    best: dict[tuple[str, int], JSON] = {}
    for row in rows:
        key = (row["kind"], row["depth"])
        if key not in best or sign * row["val_score"] > sign * best[key]["val_score"]:
            best[key] = row
    return best


def plot_task(name: str, task: JSON, sweep: pa.Table, path: Path) -> None:
    """Score by layer and by aggregated depth, one PNG.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise ConfigError("plots need the extra: pip install 'salient[report]'") from None
    metric = task["metric"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    layers = [entry["source"] for entry in task["layers"]]
    left.plot(
        layers, [entry["val"] for entry in task["layers"]], "o--", color="0.6", label="validation"
    )
    tests = [entry["test"][metric] for entry in task["layers"]]
    if None not in tests:
        left.plot(layers, tests, "o-", label="test")
    left.set_title("one probe per layer")
    left.set_xlabel("layer")
    left.set_ylabel(metric.replace("_", " "))
    best = best_by_depth(sweep.to_pylist(), metric)
    for kind in sorted({kind for kind, _ in best}):
        depths = sorted(depth for found, depth in best if found == kind)
        scores = [best[kind, depth]["val_score"] for depth in depths]
        right.plot(depths, scores, "o--", label=f"{kind} head, validation")
    chosen = task["chosen"]
    if chosen["test"][metric] is not None:
        right.plot(
            [chosen["depth"]],
            [chosen["test"][metric]],
            "*",
            markersize=16,
            color="black",
            label=f"chosen ({chosen['kind']}, {chosen['num_features']} features), test",
        )
    right.set_title("heads over layers 0..depth")
    right.set_xlabel("depth")
    hidden = task["hidden"]["test"][metric]
    for axis in (left, right):
        if hidden is not None:
            axis.axhline(hidden, color="firebrick", lw=1, label="final hidden state, test")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
