"""Times as they stand in text sets and tweet dumps, as whole seconds since 1970 in UTC."""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime

_MONTHS = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), 1
    )
}
_TWITTER = re.compile(
    r"[A-Z][a-z]{2} ([A-Z][a-z]{2}) (\d\d) (\d\d):(\d\d):(\d\d) ([+-]\d{4}|[A-Z]{1,4}) (\d{4})"
)
_ZONED = re.compile(
    r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?) ?([+-]\d\d:?\d\d|[A-Z]{1,4})"
)
_ZONE_HOURS = {
    "UTC": 0, "UT": 0, "GMT": 0, "Z": 0, "WET": 0, "WEST": 1, "CET": 1, "CEST": 2, "EET": 2,
    "EEST": 3, "EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8,
    "PDT": -7,
}  # fmt: skip
"""Names of zones that mean one thing to most: those of RFC 5322, and of the European continent."""
_DATE_AS_NUMBER = re.compile(
    r"(?:1[89]|20|21)\d\d(?:(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))?(?:\.0*)?"
)
"""2026, and 20260101: a year or a date to whoever wrote it, not some hours or days of 1970."""
_EPOCH = re.compile(r"[+-]?\d+(?:\.\d*)?")
_FIRST_MILLISECONDS = 100_000_000_000
_MAX_SECONDS = 253_402_300_799  # the end of the year 9999
_MIN_SECONDS = -62_135_596_800  # the beginning of the year 1
_SNOWFLAKE_EPOCH_MS = 1_288_834_974_657
_FIRST_SNOWFLAKE = 29_700_859_247

TIME_FORMATS = (
    "ISO 8601 (dates as 2026-01-31), 'Wed Oct 10 20:19:24 +0000 2018', or seconds since 1970 (zones"
    " as +0100, UTC, PST or CET)"
)


def parse_time(value: str) -> int | None:
    """Whole seconds since 1970 in UTC, or None where ``value`` is no time.

    Accepts ISO 8601 (without a zone: UTC), Twitter's v1.1 format, and epoch seconds; numbers from
    1e11 up are milliseconds. Zones may have names (``_ZONE_HOURS``) in the first two. A number that
    reads as a year or a date, such as 2026 and 20260131, is refused: it may be meant as either.
    """
    value = value.strip()
    if match := _TWITTER.fullmatch(value):
        return _twitter_seconds(match)
    if _DATE_AS_NUMBER.fullmatch(value):
        return None
    if _EPOCH.fullmatch(value):
        seconds = float(value)
        if abs(seconds) >= _FIRST_MILLISECONDS:
            seconds /= 1000
        return int(seconds // 1) if _MIN_SECONDS <= seconds <= _MAX_SECONDS else None
    try:
        return _seconds(datetime.fromisoformat(value))
    except (ValueError, OverflowError):
        pass
    match = _ZONED.fullmatch(value)
    zone = _zone_seconds(match.group(2)) if match else None
    if match is None or zone is None:
        return None
    try:
        seconds = _seconds(datetime.fromisoformat(match.group(1))) - zone
    except ValueError:
        return None
    return seconds if _MIN_SECONDS <= seconds <= _MAX_SECONDS else None


def _seconds(moment: datetime) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return calendar.timegm(moment.utctimetuple())


def _zone_seconds(zone: str) -> int | None:
    """How far a zone is ahead of UTC; None for an unknown name."""
    if zone[0] not in "+-":
        hours = _ZONE_HOURS.get(zone)
        return None if hours is None else hours * 3600
    seconds = int(zone[1:3]) * 3600 + int(zone[-2:]) * 60
    return seconds if zone[0] == "+" else -seconds


def _twitter_seconds(match: re.Match[str]) -> int | None:
    month, day, hour, minute, second, zone, year = match.groups()
    offset = _zone_seconds(zone)
    if month not in _MONTHS or offset is None:
        return None
    try:
        moment = datetime(
            int(year), _MONTHS[month], int(day), int(hour), int(minute), min(int(second), 59)
        )
    except ValueError:
        return None
    return calendar.timegm(moment.timetuple()) - offset


def snowflake_seconds(tweet_id: int) -> int | None:
    """The time in a tweet id; None for ids older than November 2010, which hold none."""
    if not _FIRST_SNOWFLAKE < tweet_id < 1 << 63:
        return None
    return ((tweet_id >> 22) + _SNOWFLAKE_EPOCH_MS) // 1000
