"""Times as they stand in text sets and tweet dumps, as whole seconds since 1970 in UTC."""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

_FULL_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_MONTHS = {name[:3]: number for number, name in enumerate(_FULL_MONTHS, 1)}
_TWITTER = re.compile(
    r"[A-Z][a-z]{2} ([A-Z][a-z]{2}) (\d\d) (\d\d):(\d\d):(\d\d) ([+-]\d{4}|[A-Z]{1,5}) (\d{4})"
)
_ZONE_HOURS = {
    "UTC": 0, "UT": 0, "GMT": 0, "Z": 0, "WET": 0, "WEST": 1, "CET": 1, "CEST": 2, "EET": 2,
    "EEST": 3, "MSK": 3, "EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6,
    "PST": -8, "PDT": -7, "AKST": -9, "AKDT": -8, "HST": -10, "HDT": -9, "NST": -3.5, "NDT": -2.5,
    "BRT": -3, "ART": -3, "WAT": 1, "CAT": 2, "SAST": 2, "EAT": 3, "PKT": 5, "NPT": 5.75,
    "WIB": 7, "ICT": 7, "SGT": 8, "HKT": 8, "AWST": 8, "JST": 9, "KST": 9, "ACST": 9.5,
    "ACDT": 10.5, "AEST": 10, "AEDT": 11, "NZST": 12, "NZDT": 13,
}  # fmt: skip
"""Names of zones that mean one thing to most: those of RFC 5322 (EST, CST, MST, PST are those of
North America), of the European continent, and others that no two countries share."""
_SHARED_ZONES = {
    "IST": "of India, Israel and Ireland", "BST": "of Britain and Bangladesh",
    "AST": "of the Atlantic and Arabia", "ADT": "of the Atlantic and Arabia",
    "GST": "of the Gulf and South Georgia", "SST": "of Samoa and Singapore",
    "AMT": "of the Amazon and Armenia", "PHT": "of the Philippines and others",
    "WST": "of Western Australia and Samoa", "ECT": "of Ecuador and the Caribbean",
}  # fmt: skip
"""Names of zones that mean several."""
_DATE_AS_NUMBER = re.compile(
    r"(?:1[89]|20|21)\d\d(?:(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))?(?:\.0*)?"
    r"|(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[01]\d|2[0-3])[0-5]\d(?:\.0*)?"
)
"""2026, 20260101 and 202601011530: a year or a date to whoever wrote it, not a time since 1970."""
_STAMP = re.compile(
    r"((?:19|20)\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])([0-5]\d)([0-5]\d)"
)
"""20260131153000, as web archives name moments: as milliseconds it would be the year 2612."""
_EPOCH = re.compile(r"[+-]?(\d+)(?:\.\d*)?")
_SERIAL = re.compile(r"[1-9]\d{4}(?:\.\d*)?")
"""46330.375: days since 1900, as spreadsheets count; as seconds it would be the first of 1970."""
_SLASHES = re.compile(r"\d{1,2}(?:/\d{1,2}/|\.\d{1,2}\.|-\d{1,2}-)(?:\d{4}|\d\d)(?![\d./-])")
_MAX_CHARS = 80
_UNITS = ((100_000_000_000_000_000, 10**9), (100_000_000_000_000, 10**6), (100_000_000_000, 1000))
"""A number from so much on is in parts of a second: nano-, micro-, milliseconds since 1973."""
_MAX_SECONDS = 253_402_300_799  # the end of the year 9999
_MIN_SECONDS = -62_135_596_800  # the beginning of the year 1
_SNOWFLAKE_EPOCH_MS = 1_288_834_974_657
_FIRST_SNOWFLAKE = 29_700_859_247

_DAY_NAME = r"(?:[A-Z][a-z]{2,8},? )?"
_MONTH_NAME = r"(?P<name>[A-Z][a-z]{2,8})\.?"
_CLOCK = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,]\d{1,9})?)?"
    r"(?: ?(?P<half>[AaPp])\.?[Mm]\.?)?"
)
_ZONE = r"(?P<zone>[+-]\d\d:?\d\d|(?:UTC|GMT)[+-]\d{1,2}(?::?\d\d)?|[A-Z]{1,5})"
_AFTER = rf"(?:(?:T|,? (?:[·|] |at )?){_CLOCK}(?: ?{_ZONE})?)?"
_COMMENT = r"(?: \([^()]{1,60}\))?"
_WRITTEN = {
    # 2026-11-04 09:00:00 -0800, 2026/11/4 9:00 PM
    "year first": re.compile(
        rf"(?P<year>\d{{4}})[-/.](?P<month>\d{{1,2}})[-/.](?P<day>\d{{1,2}}){_AFTER}"
    ),
    # Nov 4, 2026 · 9:00 AM UTC; Wed Nov 04 2026 09:00:00 GMT+0100 (CET)
    "month first": re.compile(
        rf"{_DAY_NAME}{_MONTH_NAME} (?P<day>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<year>\d{{4}})"
        rf"{_AFTER}{_COMMENT}"
    ),
    # Wed, 04 Nov 2026 09:00:00 +0000; 4-Nov-2026
    "day first": re.compile(
        rf"{_DAY_NAME}(?P<day>\d{{1,2}})[ -]{_MONTH_NAME}[ -](?P<year>\d{{4}}){_AFTER}{_COMMENT}"
    ),
    # Wed Nov 4 09:00:00 2026, and with a zone before the year
    "year last": re.compile(
        rf"{_DAY_NAME}{_MONTH_NAME} (?P<day>\d{{1,2}}) {_CLOCK}(?: {_ZONE})? (?P<year>\d{{4}})"
    ),
    # 9:00 AM · Nov 4, 2026
    "clock and month first": re.compile(
        rf"{_CLOCK},? (?:[·|] )?{_MONTH_NAME} (?P<day>\d{{1,2}}),? (?P<year>\d{{4}})(?: {_ZONE})?"
    ),
    "clock and day first": re.compile(
        rf"{_CLOCK},? (?:[·|] )?(?P<day>\d{{1,2}}) {_MONTH_NAME},? (?P<year>\d{{4}})(?: {_ZONE})?"
    ),
}
"""Times as people and scrapers write them, the month by its English name or the year first."""
_CLOCK_ALONE = re.compile(_CLOCK)

TIME_FORMATS = (
    "ISO 8601 (dates as 2026-01-31), 'Wed Oct 10 20:19:24 +0000 2018', 'Nov 4, 2026 9:00 AM', or"
    " seconds since 1970 (zones as +0100, UTC, PST or CET)"
)


def parse_time(value: str) -> int | None:
    """Whole seconds since 1970 in UTC, or None where ``value`` is no time.

    Accepts ISO 8601 (without a zone: UTC), Twitter's v1.1 format, those of ``_WRITTEN``, and epoch
    seconds; numbers from 1e11 up are milliseconds, from 1e14 microseconds, from 1e17 nanoseconds.
    Zones may have names (``_ZONE_HOURS``). What may be meant as either of two times is refused:
    11/4/2026, IST, and numbers that read as a year, a date or a spreadsheet's days
    (:func:`time_trouble` says which).
    """
    value = value.strip()
    if match := _TWITTER.fullmatch(value):
        return _twitter_seconds(match)
    if value[4:5] == "-":  # most of all
        with suppress(ValueError, OverflowError):
            return _seconds(datetime.fromisoformat(value))
    if _DATE_AS_NUMBER.fullmatch(value) or _SERIAL.fullmatch(value):
        return None
    if match := _STAMP.fullmatch(value):
        return _moment(*map(int, match.groups()))
    if match := _EPOCH.fullmatch(value):
        return _epoch_seconds(value, match.group(1))
    with suppress(ValueError, OverflowError):
        return _seconds(datetime.fromisoformat(value))
    if len(value) > _MAX_CHARS:
        return None
    value = " ".join(value.replace("\u202f", " ").split())
    found = (_WRITTEN[kind].fullmatch(value) for kind in _WRITTEN)
    if (written := next(filter(None, found), None)) is None:
        return None
    return _written_seconds(written.groupdict())


def parse_time_apart(parts: Sequence[str | None]) -> int | None:
    """The time of a row whose day, time of day and zone stand in columns of their own.

    Where the second holds a whole time, the first repeats its day: ``2026-11-04`` and
    ``2026-11-04T09:00Z``.
    """
    day, clock, *zone = ((one or "").strip() for one in parts)
    if not clock:
        return parse_time(day) if day else None
    if _CLOCK_ALONE.fullmatch(clock):
        return parse_time(" ".join(filter(None, (day, clock, *zone)))) if day else None
    if _EPOCH.fullmatch(clock) and len(clock) < 9:  # some hours or seconds, not since 1970
        return None
    return parse_time(clock)


def time_trouble(value: str) -> str:
    """Why :func:`parse_time` refuses a value, and what to write; "" where that is plain."""
    value = value.strip()
    if _SLASHES.match(value):
        return "may be day or month first; write the year first, as 2026-11-04"
    if _SERIAL.fullmatch(value):
        return (
            "looks like a spreadsheet's count of days; format the cells as 2026-11-04 09:00 before"
            " it is saved as CSV"
        )
    if _DATE_AS_NUMBER.fullmatch(value):
        return "may be a date or a number of seconds; write a date as 2026-11-04"
    last = re.search(r"(?:^|[ \d])([A-Z]{3,4})(?: \d{4})?$", value[-_MAX_CHARS:])
    if last is not None and last.group(1) in _SHARED_ZONES:
        name = last.group(1)
        return f"{name} is the time {_SHARED_ZONES[name]}; write the offset, as +0530"
    return ""


def _epoch_seconds(value: str, whole: str) -> int | None:
    if len(whole) > 20:
        return None
    size = int(whole)
    unit = next((unit for first, unit in _UNITS if size >= first), None)
    seconds = float(value) // 1 if unit is None else int(value.partition(".")[0]) // unit
    return _bounded(int(seconds))


def _bounded(seconds: int | None) -> int | None:
    fits = seconds is not None and _MIN_SECONDS <= seconds <= _MAX_SECONDS
    return seconds if fits else None


def _written_seconds(parts: Mapping[str, str | None]) -> int | None:
    zone, name, half = parts["zone"], parts.get("name"), parts["half"]
    ahead = 0 if zone is None else _zone_seconds(zone)
    month = int(parts["month"] or 0) if name is None else _month(name)
    hour = int(parts["hour"] or 0)
    if ahead is None or month is None or (half and not 1 <= hour <= 12):
        return None
    if half:
        hour = hour % 12 + 12 * (half in "Pp")
    numbers = (int(parts[one] or 0) for one in ("minute", "second"))
    found = _moment(int(parts["year"] or 0), month, int(parts["day"] or 0), hour, *numbers)
    return None if found is None else _bounded(found - ahead)


def _month(name: str) -> int | None:
    full = next((one for one in _FULL_MONTHS if one.startswith(name[:3])), None)
    fits = full is not None and name in (full, full[:3], full[:4])  # Sept
    return _MONTHS[name[:3]] if fits else None


def _moment(
    year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0
) -> int | None:
    """Seconds of a moment in UTC; a leap second counts as the one before it."""
    try:
        moment = datetime(year, month, day, hour, minute, 59 if second == 60 else second)
    except ValueError:
        return None
    return calendar.timegm(moment.timetuple())


def _seconds(moment: datetime) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return calendar.timegm(moment.utctimetuple())


def _zone_seconds(zone: str) -> int | None:
    """How far a zone is ahead of UTC; None for an unknown name."""
    if zone[:3] in ("UTC", "GMT") and len(zone) > 3:
        sign, digits = zone[3], zone[4:].replace(":", "")
        digits = digits.zfill(2) + "00" if len(digits) < 3 else digits.zfill(4)
        zone = f"{sign}{digits}"
    if zone[0] not in "+-":
        hours = _ZONE_HOURS.get(zone)
        return None if hours is None else int(hours * 3600)
    seconds = int(zone[1:3]) * 3600 + int(zone[-2:]) * 60
    return seconds if zone[0] == "+" else -seconds


def _twitter_seconds(match: re.Match[str]) -> int | None:
    month, day, hour, minute, second, zone, year = match.groups()
    offset = _zone_seconds(zone)
    if month not in _MONTHS or offset is None:
        return None
    numbers = (int(one) for one in (hour, minute, second))
    found = _moment(int(year), _MONTHS[month], int(day), *numbers)
    return None if found is None else found - offset


def snowflake_seconds(tweet_id: int) -> int | None:
    """The time in a tweet id; None for ids older than November 2010, which hold none."""
    if not _FIRST_SNOWFLAKE < tweet_id < 1 << 63:
        return None
    return ((tweet_id >> 22) + _SNOWFLAKE_EPOCH_MS) // 1000
