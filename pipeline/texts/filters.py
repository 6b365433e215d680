"""Which rows are read: of dumps to score and of labelled sets.

A dump's tweets pass by language, time, and whether they are retweets:

    filters = Filters.of(languages=["en"], since="2026-11-23", retweets="drop")
    kept, left_out = filters.apply(rows)       # left_out: reason -> rows

A row is counted under the first reason that applies. A labelled set's rows pass by what their
columns hold (:func:`row_filter`).
"""

from __future__ import annotations

import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError
from pipeline.texts.labels import canonical
from pipeline.texts.timestamps import TIME_FORMATS, parse_time, time_trouble

LANGUAGES = {
    "arabic": "ar", "basque": "eu", "bengali": "bn", "bulgarian": "bg", "catalan": "ca",
    "chinese": "zh", "croatian": "hr", "czech": "cs", "danish": "da", "dutch": "nl",
    "english": "en", "estonian": "et", "finnish": "fi", "french": "fr", "german": "de",
    "greek": "el", "gujarati": "gu", "hebrew": "iw", "hindi": "hi", "hungarian": "hu",
    "icelandic": "is", "indonesian": "in", "italian": "it", "japanese": "ja", "korean": "ko",
    "latvian": "lv", "lithuanian": "lt", "malay": "ms", "marathi": "mr", "norwegian": "no",
    "persian": "fa", "polish": "pl", "portuguese": "pt", "romanian": "ro", "russian": "ru",
    "serbian": "sr", "slovak": "sk", "slovenian": "sl", "spanish": "es", "swedish": "sv",
    "tagalog": "tl", "tamil": "ta", "telugu": "te", "thai": "th", "turkish": "tr",
    "ukrainian": "uk", "urdu": "ur", "vietnamese": "vi", "welsh": "cy",
}  # fmt: skip
"""A language's English name -> its code in tweets."""
_ALSO = {"iw": "he", "in": "id", "ji": "yi"}
"""Codes that ISO 639 gave up -> those of today; tweets have the old ones."""
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
"""BCP 47; the codes of Twitter's own, as ``und`` and ``qme``, are such, too."""
RETWEETS = ("keep", "drop", "only")
_COMPARISON = re.compile(r"(>=|<=|>|<)\s*([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)")
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Filters:
    """What a row must be like to be scored; by default every row is."""

    languages: tuple[str, ...] = ()
    """Values of the tweet's ``lang``; none: every language."""
    since: int | None = None
    """Earliest time, seconds since 1970."""
    until: int | None = None
    """The first time that is too late."""
    retweets: str = "keep"

    @classmethod
    def of(
        cls,
        *,
        languages: Sequence[str] = (),
        since: str | None = None,
        until: str | None = None,
        retweets: str = "keep",
        any_language: bool = False,
    ) -> Filters:
        """Filters as a person writes them.

        Args:
            languages: codes as Twitter's, such as ``en``; in any case. Tables may have their
                English names, and regions: ``English``, ``en-GB``.
            since, until: times or dates (UTC); ``until`` itself is left out.
            retweets: one of ``RETWEETS``.
            any_language: languages may be called anything, as in a column of a table.

        Raises:
            ConfigError: a language that is no code, a time that is none, times in the wrong order,
                an unknown choice.
        """
        if retweets not in RETWEETS:
            raise ConfigError(f"retweets {retweets!r}: choose one of {', '.join(RETWEETS)}")
        start, end = _seconds("since", since), _seconds("until", until)
        if start is not None and end is not None and start >= end:
            raise ConfigError(f"since {since!r} is not before until {until!r}: nothing would pass")
        if not any_language:
            for language in languages:
                _check_language(language)
        return cls(tuple(sorted({one.lower() for one in languages})), start, end, retweets)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def apply(self, rows: pa.Table) -> tuple[pa.Table, Counter[str]]:
        """The rows that pass, and how many do not, by the first reason that applies.

        Args:
            rows: ``lang`` (string), ``created_at`` (int64 seconds), ``is_retweet`` (bool); all may
                be null. A row without the value that a filter asks for does not pass; one that is
                not known to be a retweet counts as none.
        """
        left_out: Counter[str] = Counter()
        for reason, fails in self._rules():
            bad = pc.fill_null(fails(rows), False)
            if count := int(pc.sum(bad).as_py() or 0):
                left_out[reason] += count
                rows = rows.filter(pc.invert(bad))
        return rows, left_out

    def _rules(self) -> Iterator[tuple[str, Any]]:
        """Reason -> function from rows to which of them fail, in the order of application."""
        if self.retweets != "keep":
            drop = self.retweets == "drop"
            yield (
                "retweet" if drop else "not a retweet",
                lambda rows: pc.equal(pc.fill_null(rows["is_retweet"], False), drop),
            )
        if self.languages:
            yield "language unknown", lambda rows: pc.equal(pc.fill_null(_languages(rows), ""), "")
            spellings = {one for language in self.languages for one in _spellings(language)}
            wanted = pa.array(sorted(spellings), pa.string())
            yield "language", lambda rows: pc.invert(_is_among(_languages(rows), wanted))
        if self.since is not None or self.until is not None:
            yield "time unknown", lambda rows: pc.is_null(rows["created_at"])
        if self.since is not None:
            yield "too early", lambda rows: pc.less(rows["created_at"], self.since)
        if self.until is not None:
            yield "too late", lambda rows: pc.greater_equal(rows["created_at"], self.until)


def _languages(rows: pa.Table) -> pa.ChunkedArray:
    """The languages of rows as they are compared; an empty cell says no more than a null."""
    return pc.utf8_lower(pc.utf8_trim_whitespace(rows["lang"]))


def _is_among(languages: pa.ChunkedArray, wanted: pa.Array) -> pa.ChunkedArray:
    """Whether languages are wanted ones, or of a region: ``en-GB`` is English."""
    general = pc.replace_substring_regex(languages, pattern="[-_].*", replacement="")
    return pc.or_(pc.is_in(languages, value_set=wanted), pc.is_in(general, value_set=wanted))


def _spellings(language: str) -> set[str]:
    """How a language may be written: ``he``, ``iw`` and ``hebrew`` are one."""
    code = LANGUAGES.get(language, language)
    same = [pair for pair in _ALSO.items() if code in pair]
    codes = {language, code, *(one for pair in same for one in pair)}
    return codes | {name for name, one in LANGUAGES.items() if one in codes}


def _check_language(language: str) -> None:
    """Refuse what no tweet says of its language.

    Raises:
        ConfigError: it is no code; with the one that is meant, if its English name is known.
    """
    if _LANGUAGE.fullmatch(language):
        return
    code = LANGUAGES.get(language.strip().lower())
    meant = f"did you mean {code!r}?" if code else "write one as 'en' (ISO 639)."
    raise ConfigError(
        f"language {language!r} is no code as tweets have it: {meant} Where a table calls languages"
        " otherwise, name its column with --lang-column"
    )


def _seconds(name: str, value: str | None) -> int | None:
    if value is None:
        return None
    seconds = parse_time(value)
    if seconds is None:
        why = time_trouble(value) or f"is no time; write a date as 2026-11-23, or {TIME_FORMATS}"
        raise ConfigError(f"{name} {value!r} {why}")
    return seconds


def row_filter(column: str, wanted: str | Sequence[str]) -> Callable[[str | None], bool]:
    """Whether a value of a column is the wanted one, one of several, or a number as in ``>= 0.6``.

    A list of one is a text even where it reads like a comparison.

    Raises:
        ConfigError: a comparison among others in a list; what is returned raises it at a value that
            is the comparison itself.
    """
    if isinstance(wanted, str) and (match := _COMPARISON.fullmatch(wanted.strip())):
        compare, bound = _COMPARISONS[match.group(1)], float(match.group(2))

        def keeps(value: str | None) -> bool:
            try:
                return value is not None and compare(float(value), bound)
            except ValueError:
                if canonical(value) != canonical(wanted):
                    return False
            raise ConfigError(
                f"where: {column} = {wanted!r} compares numbers, and a row has it as its text; for"
                f" these rows write [{json.dumps(wanted)}]"
            )

        return keeps
    several = [wanted] if isinstance(wanted, str) else wanted
    compared = [one for one in several if len(several) > 1 and _COMPARISON.fullmatch(one.strip())]
    if compared:
        raise ConfigError(
            f"where: {column} has the comparison {compared[0]!r} in a list; give it alone, or"
            " values only"
        )
    kept = {canonical(one) for one in several}
    return lambda value: canonical(value) in kept
