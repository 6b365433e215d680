"""What columns are for, by the names that tools give them.

    fitting("text", ["id", "Tweet_Text"], USUAL)     # ["Tweet_Text"]: its columns, likeliest first

A name is compared as it is written, then without case, blanks, ``_``, ``-``, ``.`` and byte order
mark: ``Tweet ID``, ``tweetId`` and ``tweet.id`` are all ``tweet_id``. Of two columns that fit, the
one goes first whose name stands further up in the table. Nothing else is guessed: links are no ids,
and a user's language is not the post's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pipeline.errors import CorpusError

USUAL: Mapping[str, tuple[str, ...]] = {
    "text": (
        "text", "full_text", "rawContent", "tweet", "content", "tweet_text", "body", "message",
        "post", "post_text", "status_text", "message_text", "content_text", "tweet_content",
        "post_content", "comment", "review", "sentence", "caption", "raw_text", "tweet_full_text",
        "text_clean", "clean_text", "renderedContent",
    ),
    "id": (
        "id", "id_str", "tweet_id", "tweet_id_str", "status_id", "post_id", "message_id",
        "comment_id", "uuid", "uri",
    ),
    "time": (
        "created_at", "tweet_created_at", "tweet_created", "timestamp", "datetime",
        "time", "date", "created", "created_utc", "created_time", "posted_at", "posted_time",
        "published_at", "published", "publish_date", "post_created", "post_date", "tweet_date",
        "tweet_time", "date_created", "created_date", "creation_date", "timestamp_ms", "utc_time",
    ),
    "lang": (
        "lang", "language", "tweet_lang", "tweet_language", "post_lang", "post_language",
        "lang_code", "language_code", "iso_language_code", "text_lang",
    ),
    "author": (
        "author_id", "user_id", "user_id_str", "author", "user", "username", "user_username",
        "author_username", "screen_name", "user_screen_name", "handle", "user_handle", "from_user",
    ),
}  # fmt: skip
"""What is read of a table -> how tools call its column, the likelier first."""
DATES = ("date", "tweet_date", "post_date", "created_date")
CLOCKS = ("time", "tweet_time", "post_time", "created_time", "hour")
ZONES = ("timezone", "time_zone", "tz", "utc_offset")
"""A day, a time of day, and how far it is from UTC, in columns of their own."""
AND = " + "
"""Between columns that are read as one."""
_IGNORED = re.compile(r"[\s_.\-\ufeff]")


def plain(name: str) -> str:
    """A column's name as it is compared: ``Tweet ID`` -> ``tweetid``."""
    return _IGNORED.sub("", name).casefold()


def fitting(use: str, names: Sequence[str], usual: Mapping[str, Sequence[str]]) -> list[str]:
    """Those of a file's columns that fit a use, the likeliest first; of a time also ``a + b``.

    Args:
        use: a key of ``usual``.
        names: the file's columns.
        usual: use -> names, the likelier first, such as ``USUAL``.

    Raises:
        CorpusError: two of them differ in case or signs only, and neither is as the table has it.
    """
    found: dict[str, None] = {}
    for wanted in usual[use]:
        if wanted in names:
            found[wanted] = None
            continue
        like = [name for name in names if plain(name) == plain(wanted) and name not in found]
        if len(like) > 1:
            raise CorpusError(
                f"columns {' and '.join(map(repr, like))} may both be meant by {wanted!r}; name one"
                f" of them with {OPTIONS[use]}"
            )
        found.update(dict.fromkeys(like))
    if use == "time" and (apart := _apart(names, found)):
        place = min(list(found).index(name) for name in apart if name in found)
        others = [name for name in found if name not in apart]
        return [*others[:place], AND.join(apart), *others[place:]]
    return list(found)


OPTIONS = {
    "text": "--text", "id": "--id", "time": "--time", "lang": "--lang-column", "author": "--author",
}  # fmt: skip
"""Use -> the option that names its column."""


def _apart(names: Sequence[str], found: Mapping[str, None]) -> list[str]:
    """The columns of a day, of its time and perhaps of its zone; none where they are not apart."""
    day, clock, zone = (_first(names, some) for some in (DATES, CLOCKS, ZONES))
    if day is None or clock is None or (day not in found and clock not in found):
        return []
    return [day, clock, *([] if zone is None else [zone])]


def _first(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    by_plain = {plain(name): name for name in reversed(names)}
    return next((by_plain[one] for one in map(plain, wanted) if one in by_plain), None)
