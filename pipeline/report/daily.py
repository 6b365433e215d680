"""The part of a report about the shares of classes among scored texts, day by day.

part = shares_part(report, "emotion")       # figures, a table of the latest days, sentences
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.measures import CORRECTED
from pipeline.prevalence import SharesReport
from pipeline.report.charts import Figure, short_label
from pipeline.report.shares import LINES, share_figures
from pipeline.report.tables import PageTable, columns_of

Row = Mapping[str, Any]
MOST_CLASSES = 12
"""Classes that have a figure: the largest."""
UNKNOWN = "unknown"
"""The group of texts without a date."""
LATEST_DAYS = 7
"""Days in the table; its CSV has all."""
FLAGGED = 10
"""Days that are named, and how often each is said why."""
SHOWN = ("counted", "adjusted", "em", "mean")
"""Methods of the table, in order, where there are any."""


@dataclass(frozen=True)
class SharesPart:
    """What a report says of shares.

    Attributes:
        figures: one of each class over the days, the largest classes.
        table: the latest days.
        notes: sentences: the assumption first, if it is made, then the days that speak against it.
    """

    figures: tuple[Figure, ...]
    table: PageTable
    notes: tuple[str, ...]


def shares_part(report: SharesReport, task: str) -> SharesPart | None:
    """A task's part; None without scored texts."""
    rows = [row for row in report.table.to_pylist() if row["task"] == task]
    if not rows:
        return None
    corrected = any(row["method"] in CORRECTED for row in rows)
    notes = report.notes if corrected else report.notes[1:]  # nothing is assumed of plain ones
    others = tuple(
        note for note in notes if not note.startswith("Task ") or note.startswith(f"Task {task}:")
    )
    return SharesPart(
        _figures(report, task, rows),
        _table(rows),
        (*others, *_flagged(rows)),
    )


def _figures(report: SharesReport, task: str, rows: list[Row]) -> tuple[Figure, ...]:
    """With names that do for files and addresses, whatever a class is called."""
    classes = list(dict.fromkeys(row["class"] for row in rows))
    sizes = dict.fromkeys(classes, 0.0)
    for row in rows:
        sizes[row["class"]] += (row["share"] or 0.0) * row["num_texts"]
    largest = sorted(classes, key=lambda name: -sizes[name])[:MOST_CLASSES]
    figures = zip(classes, share_figures(report.table, task), strict=True)
    return tuple(
        replace(figure, name=f"shares-{number}", title=f"Share of {short_label(name)}")
        for number, (name, figure) in enumerate(figures)
        if name in largest
    )


def _table(rows: list[Row]) -> PageTable:
    known = {row["method"] for row in rows}
    methods = [name for name in SHOWN if name in known]
    if "em" in methods:
        methods.remove("mean")  # in the CSV
    values = "counted" not in known
    days = list(dict.fromkeys(row["group"] for row in rows))
    days = [day for day in days if day != UNKNOWN] or days
    by = {(row["group"], row["class"], row["method"]): row for row in rows}
    cells = []
    for day, name in dict.fromkeys((row["group"], row["class"]) for row in rows):
        if day in days[-LATEST_DAYS:]:
            own = [by[day, name, method] for method in methods]
            cells.append(
                (day, name, f"{own[0]['num_texts']:,}", *(_cell(row, values) for row in own))
            )
    what = "mean" if values else "%"
    heads = [(f"{LINES[method][0]}, {what} [95 % CI]", "number") for method in methods]
    return PageTable(
        "shares",
        "Mean values, day by day" if values else "Shares, day by day",
        f"The latest {LATEST_DAYS} of {len(days)} days; the CSV has all, and every method."
        if len(days) > LATEST_DAYS
        else "With 95 % intervals.",
        (("day", "name"), ("class", "name"), ("texts", "number"), *heads),
        tuple(cells),
        columns_of(rows),
    )


def _cell(row: Row, values: bool) -> str:
    if row["share"] is None:
        return ""
    scale, places = (1, 3) if values else (100, 1)
    value, low, high = (f"{row[key] * scale:.{places}f}" for key in ("share", "low", "high"))
    return f"{value} [{low}, {high}]"


def _flagged(rows: list[Row]) -> tuple[str, ...]:
    """What speaks against the corrected shares, and on which days."""
    days: dict[str, dict[str, None]] = {}
    for row in rows:
        for words in filter(None, (row["flag"] or "").split("; ")):
            days.setdefault(words, {})[row["group"]] = None
    found = []
    for words, own in sorted(days.items(), key=lambda item: -len(item[1])):
        more = f" and {len(own) - FLAGGED:,} more" if len(own) > FLAGGED else ""
        found.append(f"Flagged, {words}: {', '.join([*own][:FLAGGED])}{more}.")
    return tuple(found[:FLAGGED])
