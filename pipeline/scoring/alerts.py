"""The drift report of a scoring run: JSON beside the scores, and a plot.

    report = write_drift(scores / "_drift", "20261124", {head.card.task: watched}, drift)
    report["warnings"]                          # one line each; empty: nothing drifted

An index counts as drift when it exceeds what so few texts show by chance by more than the
threshold; days too small to tell a drift of that size from chance are marked, not warned of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.events import TaskDrift
from pipeline.heads import Comparison, Drift, DriftCounts, Finding, Head, Reference
from store.tables import write_json

FORMAT_VERSION = 1
THRESHOLD = 0.2
"""Excess of the index over chance from which a day counts as drifted, by custom."""
NUM_WORST = 5
"""Activations named in the report, those that drifted most."""
PLOTTED = {
    "predictions": ("predictions (largest)", "o-", "#1f6fb4"),
    "classes": ("class shares", "s-", "#d9730d"),
    "activations": ("activations (mean)", "^-", "#2a8f4c"),
}
"""Part of an entry -> label, style and colour of its line."""


@dataclass(frozen=True)
class Watched:
    """A head with what its scores are held against; of a site ``sizes`` units make a pooling."""

    head: Head
    reference: Reference
    sizes: Mapping[str, int]


def write_drift(
    folder: Path,
    name: str,
    watched: Mapping[str, Watched],
    drift: Drift,
    *,
    threshold: float = THRESHOLD,
) -> dict[str, Any]:
    """Write ``folder/NAME.json`` and, where matplotlib is installed, ``folder/NAME.png``.

    Args:
        folder: of the reports.
        name: of the run.
        watched: task -> head and reference.
        drift: what was counted.
        threshold: see :data:`THRESHOLD`.

    Returns:
        The content of the JSON file.
    """
    report = drift_report(watched, drift, threshold=threshold)
    write_json(folder / f"{name}.json", report)
    if any(task["dates"] for task in report["tasks"].values()):
        _plot(report, folder / f"{name}.png")
    return report


def drift_report(
    watched: Mapping[str, Watched], drift: Drift, *, threshold: float = THRESHOLD
) -> dict[str, Any]:
    """Indices of all tasks, for every date and for all dates together, JSON-ready."""
    tasks: dict[str, Any] = {}
    warnings: list[str] = []
    for task, one in watched.items():
        dates = {
            date: _entry(one, counts[task], threshold)
            for date, counts in sorted(drift.dates.items())
            if task in counts
        }
        total = drift.total(task)
        tasks[task] = {
            "reference_texts": one.reference.num_rows,
            "all": None if total is None else _entry(one, total, threshold),
            "dates": dates,
        }
        warnings += [
            f"{task}, {date}: {', '.join(entry['drifted'])} drifted ({entry['num_texts']} texts)"
            for date, entry in dates.items()
            if entry["drifted"]
        ]
    return {
        "format_version": FORMAT_VERSION,
        "threshold": threshold,
        "warnings": warnings,
        "tasks": tasks,
    }


def drift_of_tasks(report: Mapping[str, Any]) -> dict[str, TaskDrift]:
    """Task -> how far its texts drifted in the worst case, of a drift report; a task without texts
    is left out."""
    found = {}
    for task, one in report["tasks"].items():
        dates = list(one["dates"].values())
        told = [entry for entry in dates if entry["status"] != "too few texts"] or dates
        excesses = [entry[part]["excess"] for entry in told for part in PLOTTED if part in entry]
        if excesses:
            drifted = any(entry["drifted"] for entry in dates)
            found[task] = TaskDrift(excess=max(excesses), drifted=drifted)
    return found


def _entry(watched: Watched, counts: DriftCounts, threshold: float) -> dict[str, Any]:
    """One task on one date."""
    found, card = watched.reference.compare(counts), watched.head.card
    names = card.classes or ("value",)
    entry: dict[str, Any] = {
        "num_texts": counts.num_texts,
        "status": "",
        "drifted": _drifted(found, names, threshold),
        "predictions": {
            "excess": max(one.excess for one in found.predictions),
            "of": {name: _finding(one) for name, one in zip(names, found.predictions, strict=True)},
        },
    }
    if found.classes is not None:
        expected = watched.reference.classes / max(watched.reference.num_rows, 1)
        actual = counts.classes / max(counts.num_texts, 1)
        entry["classes"] = {
            **_finding(found.classes),
            "shares": {
                name: {"expected": float(e), "found": float(a)}
                for name, e, a in zip(names, expected, actual, strict=True)
            },
        }
    if found.activations:
        entry["activations"] = _activations(watched, found, threshold)
    enough = all(one.can_tell(threshold) for one in found.predictions)
    entry["status"] = "drifted" if entry["drifted"] else "stable" if enough else "too few texts"
    return entry


def _drifted(found: Comparison, names: tuple[str, ...], threshold: float) -> list[str]:
    """What drifted, in words."""
    parts = [
        "the value" if names == ("value",) else f"the probability of {name!r}"
        for name, one in zip(names, found.predictions, strict=True)
        if one.drifts(threshold)
    ]
    if found.classes is not None and found.classes.drifts(threshold):
        parts.append("the class shares")
    # A few of many neurons always move; together they move only with the texts.
    mean = float(np.mean([one.excess for one in found.activations])) if found.activations else 0.0
    if mean > threshold and any(one.drifts(threshold) for one in found.activations):
        parts.append("the activations")
    return parts


def _activations(watched: Watched, found: Comparison, threshold: float) -> dict[str, Any]:
    excess = np.array([one.excess for one in found.activations])
    places, worst = watched.reference.places(), []
    for at in np.argsort(-excess, kind="stable")[:NUM_WORST].tolist():
        source, feature = places[at]
        pooling, unit = divmod(feature, watched.sizes[source.site])
        place = {
            "site": source.site,
            "layer": source.layer,
            "pooling": watched.head.card.poolings[pooling],
            "neuron": unit,
        }
        worst.append(place | _finding(found.activations[at]))
    return {
        "num": len(excess),
        "num_drifted": sum(one.drifts(threshold) for one in found.activations),
        "excess": float(excess.mean()),
        "worst": worst,
    }


def _finding(one: Finding) -> dict[str, float]:
    return {
        "psi": one.psi,
        "by_chance": one.by_chance,
        "chance_limit": one.chance_limit,
        "excess": one.excess,
    }


def _plot(report: Mapping[str, Any], path: Path) -> None:
    """Excess of the indices over chance by date, one panel a task."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = {name: task for name, task in report["tasks"].items() if task["dates"]}
    figure = Figure(figsize=(9, 0.6 + 2.6 * len(tasks)), layout="constrained")
    FigureCanvasAgg(figure)
    dates = sorted({date for task in tasks.values() for date in task["dates"]})
    place = {date: x for x, date in enumerate(dates)}
    panels = figure.subplots(len(tasks), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (name, task) in zip(panels, tasks.items(), strict=True):
        entries = [(place[date], entry) for date, entry in task["dates"].items()]
        for part, (label, style, colour) in PLOTTED.items():
            shown = [(x, entry) for x, entry in entries if part in entry]
            if not shown:
                continue
            panel.plot(
                [x for x, _ in shown],
                [entry[part]["excess"] for _, entry in shown],
                style,
                color=colour,
                label=label,
                markersize=5,
            )
            few = [x for x, entry in shown if entry["status"] == "too few texts"]
            panel.plot(
                few,
                [entry[part]["excess"] for _, entry in shown if entry["status"] == "too few texts"],
                style[0],
                markersize=5,
                markerfacecolor="white",
                markeredgecolor=colour,
            )
        panel.axhline(report["threshold"], color="#b3261e", lw=1, ls="--", label="warning")
        panel.set_title(
            f"{_plain(name)}: against {task['reference_texts']} validation texts",
            loc="left",
            fontsize=10,
        )
        panel.set_ylim(0, max(panel.get_ylim()[1], 1.25 * report["threshold"]))
        panel.set_xlim(-0.5, len(dates) - 0.5)
        panel.grid(alpha=0.3)
    step = -(-len(dates) // 12)
    panels[-1].set_xticks(range(0, len(dates), step), dates[::step], rotation=30, ha="right")
    panels[0].legend(fontsize=8, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    figure.supylabel("PSI above chance (hollow: too few texts to tell)", fontsize=9)
    figure.savefig(path, dpi=120)


def _plain(text: str) -> str:
    """Without matplotlib's mathematics."""
    return text.replace("$", r"\$")
