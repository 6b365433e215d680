"""Times: as dumps and tables write them, and as ids hold them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.texts.timestamps import parse_time, snowflake_seconds


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


@given(st.text())
def test_smoke_parse_time_never_fails(value: str) -> None:
    parse_time(value)


def test_time_of_a_tweet_id() -> None:
    assert snowflake_seconds(1344908468193435649) == 1609486140
    assert snowflake_seconds(20) is None
    assert snowflake_seconds(1 << 70) is None
