"""Figures of shares over time."""

from __future__ import annotations

import pytest

pytest.importorskip("holoviews", reason="needs the extra: salient-neurons[report]")
from pipeline.report.shares import _places, _ticks, _unbroken


def test_dates_that_are_left_out_break_the_line() -> None:
    days = ["2013-05-01", "2013-05-02", "2026-11-20", "2026-11-21", "unknown"]
    place = _places(days)
    assert list(place.values()) == [0, 1, 3, 4, 6]
    assert [len(part) for part in _unbroken([(x, 0.0) for x in place.values()])] == [2, 2, 1]
    assert [words for _, words in _ticks(place)] == ["2013-05-01", "2026-11-20", "unknown"]
    weeks = ["2024-01-01", "2024-01-08", "2024-01-22"]
    assert list(_places(weeks).values()) == [0, 1, 3]
    months = {"2024-01": 0.0, "2024-02": 1.0, "2024-03": 2.0}
    assert _places(list(months)) == months and _ticks(months)[0] == (0.0, "01")
    assert list(_places(["bluesky", "twitter"]).values()) == [0, 1]
