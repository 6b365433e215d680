"""The language of a text that does not say it, by the optional package ``py3langid``.

find = language_detector()      # the extra `languages`
find("Endlich ein Zug")         # "de", by ISO 639; the same for the same text, always
find("@user http 😒")           # None: no word to go by
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib import import_module

from pipeline.errors import require

MAX_CHARS = 1000
"""Of a text that are looked at."""
_NO_WORDS = re.compile(r"@\w+|#\w+|https?\S*|[\W\d_]+")
"""What says nothing of a language: names, tags, links, numbers, signs."""


def check_language_detector() -> None:
    """Refuse to begin where the package is not there.

    Raises:
        MissingExtra: one line that names the extra.
    """
    require("py3langid")


@cache
def language_detector() -> Callable[[str], str | None]:
    """What finds a text's language; it is loaded once.

    Raises:
        MissingExtra: the package is not there.
    """
    check_language_detector()
    classify = import_module("py3langid").classify

    def find(text: str) -> str | None:
        words = _NO_WORDS.sub(" ", text[:MAX_CHARS]).strip()
        return str(classify(words)[0]) if words else None

    return find
