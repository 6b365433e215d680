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
    r"[A-Z][a-z]{2} ([A-Z][a-z]{2}) (\d\d) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d) (\d{4})"
)
_EPOCH = re.compile(r"[+-]?\d+(?:\.\d*)?")
_FIRST_MILLISECONDS = 100_000_000_000
_MAX_SECONDS = 253_402_300_799  # the end of the year 9999
_MIN_SECONDS = -62_135_596_800  # the beginning of the year 1
_SNOWFLAKE_EPOCH_MS = 1_288_834_974_657
_FIRST_SNOWFLAKE = 29_700_859_247

TIME_FORMATS = "ISO 8601, 'Wed Oct 10 20:19:24 +0000 2018', or seconds since 1970"


def parse_time(value: str) -> int | None:
    """Whole seconds since 1970 in UTC, or None where ``value`` is no time.

    Accepts ISO 8601 (without a zone: UTC), Twitter's v1.1 format, and epoch seconds; numbers from
    1e11 up are milliseconds.
    """
    value = value.strip()
    if match := _TWITTER.fullmatch(value):
        return _twitter_seconds(match)
    if _EPOCH.fullmatch(value):
        seconds = float(value)
        if abs(seconds) >= _FIRST_MILLISECONDS:
            seconds /= 1000
        return int(seconds // 1) if _MIN_SECONDS <= seconds <= _MAX_SECONDS else None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return calendar.timegm(moment.utctimetuple())
    except (ValueError, OverflowError):
        return None


def _twitter_seconds(match: re.Match[str]) -> int | None:
    month, day, hour, minute, second, sign, zone_hours, zone_minutes, year = match.groups()
    if month not in _MONTHS:
        return None
    try:
        moment = datetime(
            int(year), _MONTHS[month], int(day), int(hour), int(minute), min(int(second), 59)
        )
    except ValueError:
        return None
    offset = int(zone_hours) * 3600 + int(zone_minutes) * 60
    return calendar.timegm(moment.timetuple()) - (offset if sign == "+" else -offset)


def snowflake_seconds(tweet_id: int) -> int | None:
    """The time in a tweet id; None for ids older than November 2010, which hold none."""
    if not _FIRST_SNOWFLAKE < tweet_id < 1 << 63:
        return None
    return ((tweet_id >> 22) + _SNOWFLAKE_EPOCH_MS) // 1000
