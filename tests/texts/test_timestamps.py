"""Times: as dumps and tables write them, and as ids hold them."""

from __future__ import annotations

import calendar
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.texts.timestamps import (
    parse_time,
    parse_time_apart,
    snowflake_seconds,
    time_trouble,
)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("Fri Jan 01 07:29:00 +0000 2021", 1609486140),
        ("Fri Jan 01 09:29:00 +0200 2021", 1609486140),
        ("2021-01-01T07:29:00.000Z", 1609486140),
        ("2021-01-01 07:29:00", 1609486140),
        ("2021-01-01T09:29:00+02:00", 1609486140),
        ("1609486140", 1609486140),
        ("1609486140123", 1609486140),
        ("1609486140.75", 1609486140),
        ("2021-01-01", 1609459200),
        ("-1", -1),
        ("20261301", 20261301),
        ("1000", 1000),
    ],
)
def test_times(value: str, seconds: int) -> None:
    assert parse_time(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "Fri Foo 01 07:29:00 +0000 2021",
        "Fri Jan 45 07:29:00 +0000 2021",
        "9" * 40,
        "2026",
        "20260131",
        "20150224.0",
        "0001-01-01T00:00:00+05:00",
    ],
)
def test_no_times(value: str) -> None:
    assert parse_time(value) is None


NINE = 1_793_782_800  # 2026-11-04 09:00:00 UTC


@pytest.mark.parametrize(
    ("value", "hours"),
    [
        ("2026-11-04 09:00:00 -0800", 8),
        ("2026-11-04 09:00:00 +0000", 0),
        ("2026-11-04T09:00Z", 0),
        ("2026-11-04 9:00", 0),
        ("2026-11-04 9:00:00.123 PM", 12),
        ("2026/11/4 09:00:00", 0),
        ("2026-11-04 09:00:00 UTC", 0),
        ("2026-11-04 09:00:00 AKST", 9),
        ("2026-11-04 09:00:00 HST", 10),
        ("2026-11-04 09:00:00 AEST", -10),
        ("2026-11-04 09:00:00 UTC+1", -1),
        ("2026-11-04 09:00:00 GMT-03:30", 3.5),
        ("Nov 4, 2026 · 9:00 AM UTC", 0),
        ("Nov 4, 2026, 9:00\u202fPM", 12),
        ("Nov 4, 2026 12:00 AM", -9),
        ("November 4, 2026 at 9:00 PM", 12),
        ("Sept 4, 2026 9:00", -61 * 24),
        ("9:00 AM · Nov 4, 2026", 0),
        ("9:00 PM · 4 Nov 2026", 12),
        ("Wed, 04 Nov 2026 09:00:00 +0000", 0),
        ("Wed, 4 Nov 2026 09:00:00 GMT", 0),
        ("4 November 2026 09:00", 0),
        ("04-Nov-2026 09:00", 0),
        ("Wed Nov  4 09:00:00 2026", 0),
        ("Wed Nov 4 09:00:00 PST 2026", 8),
        ("Wed Nov 04 09:00:00 PST 2026", 8),
        ("Wed Nov 04 2026 09:00:00 GMT+0100 (Central European Time)", -1),
        ("20261104090000", 0),
        ("1793782800", 0),
        ("1793782800000", 0),
        ("1793782800000999", 0),
        ("1793782800000000999", 0),
        ("1793782800.999", 0),
    ],
)
def test_times_as_tools_write_them(value: str, hours: float) -> None:
    assert parse_time(value) == NINE + hours * 3600


@pytest.mark.parametrize(
    ("value", "trouble"),
    [
        ("11/4/2026 9:00", "may be day or month first"),
        ("04.11.2026", "may be day or month first"),
        ("11/24/26", "may be day or month first"),
        ("46330.375", "a spreadsheet's count of days"),
        ("46330", "a spreadsheet's count of days"),
        ("202611040900", "may be a date or a number of seconds"),
        ("2026", "may be a date or a number of seconds"),
        ("2026-11-04 09:00:00 IST", "IST is the time of India, Israel and Ireland"),
        ("Wed Nov 04 09:00:00 BST 2026", "BST is the time of Britain and Bangladesh"),
        ("2026-11-04 13:00 PM", ""),
        ("Nov 31, 2026 9:00 AM", ""),
        ("Nov 4, 2026 9:00 XYZ", ""),
        ("1.79378E+12", ""),
        ("yesterday", ""),
        ("2 h", ""),
    ],
)
def test_what_may_be_two_times_is_refused(value: str, trouble: str) -> None:
    assert parse_time(value) is None
    assert trouble in time_trouble(value) and bool(trouble) == bool(time_trouble(value))


@pytest.mark.parametrize(
    ("parts", "hours"),
    [
        (("2026-11-04", "09:00:00", "+0000"), 0),
        (("2026-11-04", "09:00:00", "-0800"), 8),
        (("2026-11-04", "09:00:00", None), 0),
        (("2026-11-04", "9:00 PM"), 12),
        (("Nov 4, 2026", "9:00"), 0),
        (("2026-11-04", ""), -9),
        (("2026-11-04", "2026-11-04T09:00:00Z"), 0),
        (("2026-11-04", "1793782800"), 0),
        (("2026-11-04", "09:00:00", "Pacific Time (US & Canada)"), None),
        (("2026-11-04", "120"), None),
        ((None, "09:00:00"), None),
        ((None, None, "UTC"), None),
    ],
)
def test_a_day_and_its_time_apart(parts: tuple[str | None, ...], hours: float | None) -> None:
    assert parse_time_apart(parts) == (None if hours is None else NINE + hours * 3600)


@given(st.datetimes(min_value=datetime(1973, 4, 1), max_value=datetime(2100, 1, 1)))
def test_a_moment_is_the_same_in_every_form(moment: datetime) -> None:
    moment = moment.replace(microsecond=0)
    seconds = calendar.timegm(moment.timetuple())
    month = calendar.month_abbr[moment.month]
    clock = f"{moment.hour % 12 or 12}:{moment:%M:%S} {'AP'[moment.hour >= 12]}M"
    for value in (
        f"{moment}",
        f"{seconds}",
        f"{seconds * 10**3}",
        f"{seconds * 10**6 + 999_999}",
        f"{seconds * 10**9}",
        f"{month} {moment.day}, {moment.year} · {clock} UTC",
        f"{moment.day} {month} {moment.year} {clock}",
    ):
        assert parse_time(value) == seconds, value
    assert parse_time_apart((f"{moment:%Y-%m-%d}", f"{moment:%H:%M:%S}")) == seconds


@given(st.text())
def test_smoke_parse_time_never_fails(value: str) -> None:
    parse_time(value)
    time_trouble(value)
    parse_time_apart((value, value))


def test_time_of_a_tweet_id() -> None:
    assert snowflake_seconds(1344908468193435649) == 1609486140
    assert snowflake_seconds(20) is None
    assert snowflake_seconds(1 << 70) is None
