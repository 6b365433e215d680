"""Shares of classes over time, as figures and as a table for the terminal.

figures = share_figures(report.table)           # one for each class
write_shares_image(report.table, Path("shares.png"))
share_table(report.table, "emotion")            # rich's
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pyarrow as pa
from rich.markup import escape
from rich.table import Table

from pipeline.errors import ConfigError
from pipeline.measures import CORRECTED
from pipeline.report.digits import NONE
from pipeline.report.palette import BLUE, GREY, VERMILION, Style
from pipeline.report.terminal import open_table

Row = Mapping[str, Any]
LINES = {
    "em": ("EM", Style(BLUE)),
    "adjusted": ("adjusted", Style(VERMILION, (7, 3), "square")),
    "mean": ("mean", Style(GREY, (2, 2), "triangle")),
    "counted": ("counted", Style(GREY, (4, 2), "diamond")),
}
"""Method -> what its line is called, and how it is drawn."""
SHOWN = {"em": ("em", "adjusted", "counted"), "adjusted": ("adjusted", "mean")}
"""The best method that a task has -> the lines drawn."""
PANELS_A_ROW = 3
TICKS = {True: 6, False: 3}
"""Of an axis of dates without the year, and of longer names."""
GAP = 2.0
"""Steps of the axis over dates without texts, however many; lines break there."""
CHECKED = {".png", ".svg"}


def _rows(table: pa.Table, **where: str) -> list[Row]:
    return [row for row in table.to_pylist() if all(row[k] == v for k, v in where.items())]


def _names(rows: Sequence[Row], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


def _methods(rows: Sequence[Row]) -> tuple[str, ...]:
    found = _names(rows, "method")
    return next((own for best, own in SHOWN.items() if best in found), tuple(found))


def share_figures(table: pa.Table, task: str | None = None) -> list[Any]:
    """A figure of each class of each task over the groups, with bands of 95 %.

    Args:
        table: of ``prevalence.SharesReport``.
        task: of this task only.
    """
    rows = table.to_pylist()
    found = []
    for name in _names(rows, "task"):
        if task in (None, name):
            own = [row for row in rows if row["task"] == name]
            found += [_figure(name, one, own) for one in _names(own, "class")]
    return found


def _figure(task: str, name: str, rows: Sequence[Row]) -> Any:
    from pipeline.report.charts import Figure, Series, for_both, line_chart, short_label

    groups = _names(rows, "group")
    value = name == "value" and not any(row["method"] == "em" for row in rows)
    place, scale = _places(groups), 1 if value else 100
    methods = _methods(rows)
    banded = [method for method in methods if method in CORRECTED] or methods
    lines = []
    for method in methods:
        label, style = LINES[method]
        own = [
            (place[row["group"]], *(scale * row[key] for key in ("share", "low", "high")))
            for row in rows
            if row["class"] == name and row["method"] == method and row["share"] is not None
        ]
        for part in _unbroken(own):
            x, y, low, high = map(list, zip(*part, strict=True))
            band = (low, high) if method in banded else (None, None)
            lines.append(Series(label, x, y, style, *band))
    chart = line_chart(lines, "group", "mean value" if value else "share of the texts, %")
    ticks = [(x, short_label(words)) for x, words in _ticks(place)]
    return Figure(
        f"shares-{task}-{name}",
        f"{task}: mean" if value else f"{task}: {short_label(name)}",
        _caption(methods, "Mean value" if value else "Share of the texts"),
        for_both(chart, xticks=ticks, xlabel=""),
        360,
    )


def _caption(methods: Sequence[str], what: str) -> str:
    if not any(method in CORRECTED for method in methods):
        return f"{what} by group, with 95 % intervals, not corrected for the head's errors."
    return (
        f"{what} by group, with 95 % intervals: as decided, and corrected for the head's errors."
        " Corrections assume that texts of a class are as in training."
    )


def _places(groups: Sequence[str]) -> dict[str, float]:
    """Where each group stands: dates a step from one another, more where some are left out."""
    days = [_day(group) for group in groups]
    apart = [
        None if one is None or other is None else (other - one).days
        for one, other in pairwise(days)
    ]
    dated = any(days)
    step = min((number for number in apart if number), default=1)
    place, x = {groups[0]: 0.0}, 0.0
    for group, number in zip(groups[1:], apart, strict=True):
        x += GAP if dated and (number is None or number > 1.5 * step) else 1.0
        place[group] = x
    return place


def _day(group: str) -> date | None:
    """The first day of a date or month; None of what is neither."""
    try:
        return date.fromisoformat(group if len(group) == 10 else f"{group}-01")
    except ValueError:
        return None


def _unbroken(points: Sequence[tuple[float, ...]]) -> list[list[tuple[float, ...]]]:
    """Points ``(x, …)`` in runs whose neighbours are a step apart."""
    found: list[list[tuple[float, ...]]] = []
    for point in points:
        if not found or point[0] - found[-1][-1][0] > 1:
            found.append([])
        found[-1].append(point)
    return found


def _ticks(place: Mapping[str, float]) -> list[tuple[float, str]]:
    """Some groups by name, evenly; dates of one year without it."""
    days = [_day(group) for group in place]
    one_year = all(days) and len({day.year for day in days if day}) == 1
    apart = max(place.values()) / TICKS[one_year]
    found: list[str] = []
    for group, x in place.items():
        if not found or x - place[found[-1]] >= apart:
            found.append(group)
    return [(place[group], group[5:] if one_year else group) for group in found]


def write_shares_image(table: pa.Table, path: Path, task: str | None = None) -> None:
    """Write the figures of all classes as one PNG or SVG.

    Raises:
        ConfigError: no such kind of file, or nothing to draw.
        MissingExtra: without the packages of the extra ``report``.
    """
    check_image_path(path)
    from pipeline.report.charts import write_row

    figures = share_figures(table, task)
    if not figures:
        raise ConfigError(f"--figure {path}: there are no texts, so there is nothing to draw")
    write_row(figures, path, title="", columns=PANELS_A_ROW, one_legend=True)


def check_image_path(path: Path) -> None:
    """Raises ConfigError where a name is not of a PNG or SVG file."""
    if path.suffix.lower() not in CHECKED:
        raise ConfigError(f"--figure {path}: name a .png or .svg file")


def share_table(table: pa.Table, task: str) -> Table:
    """Shares in per cent, for the terminal: a row for each group and class."""
    rows = _rows(table, task=task)
    values = not any(row["method"] == "counted" for row in rows)
    methods = [own for own in ("counted", "adjusted", "em", "mean") if own in _methods(rows)]
    unit = "mean values" if values else "shares of the texts, %"
    found = open_table(f"{task}: {unit} [95 % CI]", caption_justify="left")
    for head in ("group", "texts", *([] if values else ["class"])):
        found.add_column(head, justify="right" if head == "texts" else "left", overflow="fold")
    for method in methods:
        found.add_column(LINES[method][0], justify="right", no_wrap=True)
    marks: dict[str, str] = {}
    for flag in (flag for row in rows for flag in _flags(row)):
        marks.setdefault(flag, _mark(len(marks)))
    if marks:
        found.add_column("", no_wrap=True)
    by = {(row["group"], row["class"], row["method"]): row for row in rows}
    before = None
    for group, name in dict.fromkeys((row["group"], row["class"]) for row in rows):
        own = [by[group, name, method] for method in methods]
        cells = [_cell(row, scale=1 if values else 100) for row in own]
        texts = f"{own[0]['num_texts']:,}"
        said = " ".join(dict.fromkeys(marks[flag] for row in own for flag in _flags(row)))
        start = (escape(group), texts) if group != before else ("", "")
        found.add_row(
            *start, *([] if values else [escape(name)]), *cells, *([said] if marks else [])
        )
        before = group
    found.caption = escape("\n".join(f"{mark}: {flag}" for flag, mark in marks.items())) or None
    return found


def _mark(number: int) -> str:
    """What stands for a flag in the table: a, b, … z, a1, …"""
    turn, place = divmod(number, len(ascii_lowercase))
    return f"{ascii_lowercase[place]}{turn or ''}"


def _flags(row: Row) -> list[str]:
    return row["flag"].split("; ") if row["flag"] else []


def _cell(row: Row, *, scale: int) -> str:
    if row["share"] is None:
        return NONE
    places = 1 if scale == 100 else 3
    value, low, high = (f"{row[key] * scale:.{places}f}" for key in ("share", "low", "high"))
    return f"{value} [{low}, {high}]"
