"""Text normalisation, the same in training and in scoring.

``normaliser(config)`` turns a ``NormaliseConfig`` into one function on a text. Each step is a row
of ``NORMALISERS``, applied in the table's order: entities first, so that an escaped URL is whole,
and URLs before users, so that the ``@`` of ``https://site.example/@name`` is part of its URL.

    clean = normaliser(NormaliseConfig())
    clean("@anna R&amp;D: https://t.co/abc")  # "@user R&D: http"
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from pipeline.config import NormaliseConfig

_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]*);")
# Printable ASCII only: Japanese and Chinese text often follows a link without a space.
_URL = re.compile(r"\bhttps?://[!-~]*")
_URL_TAIL = """)]}>"'.,;:!?"""
_USER = re.compile(r"(?<![\w@])@\w+")
_SURROGATE = re.compile("[\ud800-\udfff]")


def unescape_html(text: str) -> str:
    """``&amp;`` -> ``&``; only entities that end in a semicolon: ``R&Dnot`` stays as it is."""
    if "&" not in text:
        return text
    return _ENTITY.sub(lambda match: html.unescape(match.group()), text)


def mask_urls(text: str) -> str:
    """``https://…`` -> ``http``; closing brackets, quotes and punctuation after it stay."""
    if "http" not in text:
        return text
    return _URL.sub(_mask_url, text)


def _mask_url(match: re.Match[str]) -> str:
    url = match.group()
    return "http" + url[len(url.rstrip(_URL_TAIL)) :]


def mask_users(text: str) -> str:
    """``@name`` -> ``@user``; e-mail addresses stay."""
    if "@" not in text:
        return text
    return _USER.sub("@user", text)


NORMALISERS: dict[str, Callable[[str], str]] = {
    "html_unescape": unescape_html,
    "urls": mask_urls,
    "users": mask_users,
}
"""Field of ``NormaliseConfig`` -> function on one text, in the order of application."""


def normaliser(config: NormaliseConfig) -> Callable[[str], str]:
    """The function on one text that ``config`` asks for.

    Whatever the configuration, halves of surrogate pairs are joined, and replaced by U+FFFD where
    the other half is missing: they come from JSON escapes and cannot be written as UTF-8.
    """
    steps = [function for name, function in NORMALISERS.items() if getattr(config, name)]

    def normalise(text: str) -> str:
        for step in steps:
            text = step(text)
        return join_surrogates(text)

    return normalise


def join_surrogates(text: str) -> str:
    """``text`` with surrogate pairs joined and lone halves replaced by U+FFFD."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
