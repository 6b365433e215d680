"""Shares of classes on the page of a report."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

pytest.importorskip("holoviews", reason="needs the extra: salient-neurons[report]")
from pipeline.prevalence.shares import SCHEMA, SharesReport
from pipeline.report.daily import LATEST_DAYS, MOST_CLASSES, shares_part

NOTES = ("An assumption.", "Task mood: corrected.", "Task other: a regression.")


def report(classes: list[str], *, days: int, flag: str | None = None) -> SharesReport:
    rows: list[dict[str, Any]] = [
        {
            "task": "mood", "group": f"2026-11-{day:02}", "class": name, "method": method,
            "share": 0.1 * (number + 1), "low": 0.05, "high": 0.9, "num_texts": 40,
            "num_empty": 0, "flag": flag if method == "em" else None,
        }
        for day in range(1, days + 1)
        for number, name in enumerate(classes)
        for method in ("counted", "mean", "adjusted", "em")
    ]  # fmt: skip
    return SharesReport(pa.Table.from_pylist(rows, SCHEMA), "day", NOTES)


def test_names_of_classes_are_no_names_of_files() -> None:
    part = shares_part(report(["../../glad", "sad"], days=3), "mood")
    assert part is not None
    assert [figure.name for figure in part.figures] == ["shares-0", "shares-1"]
    assert part.notes == NOTES[:2]
    assert part.table.rows[0][:4] == ("2026-11-01", "../../glad", "40", "10.0 [5.0, 90.0]")
    assert len(part.table.raw["share"]) == 3 * 2 * 4
    assert shares_part(report(["glad"], days=1), "other") is None


def test_the_largest_classes_and_the_latest_days_are_shown() -> None:
    many = [f"c{number}" for number in range(MOST_CLASSES + 2)]
    part = shares_part(report(many, days=LATEST_DAYS + 4, flag="drifted; odd"), "mood")
    assert part is not None and len(part.figures) == MOST_CLASSES
    assert part.figures[0].name == "shares-2"
    shown = list(dict.fromkeys(row[0] for row in part.table.rows))
    assert len(shown) == LATEST_DAYS and shown[-1] == f"2026-11-{LATEST_DAYS + 4}"
    assert "CSV has all" in part.table.caption
    assert part.notes[2].startswith("Flagged, drifted: 2026-11-01, ")
    assert part.notes[2].endswith(" and 1 more.") and "odd" in part.notes[3]


def test_plain_shares_make_no_assumption_and_texts_without_a_date_are_no_latest_day() -> None:
    rows = [
        {**row, "group": "unknown" if row["group"] == "2026-11-03" else row["group"]}
        for row in report(["glad"], days=3).table.to_pylist()
        if row["method"] in ("counted", "mean")
    ]
    part = shares_part(SharesReport(pa.Table.from_pylist(rows, SCHEMA), "day", NOTES), "mood")
    assert part is not None and part.notes == NOTES[1:2]
    assert [row[0] for row in part.table.rows] == ["2026-11-01", "2026-11-02"]
    assert "not corrected" in part.figures[0].caption
