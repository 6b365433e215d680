"""How much work a regular expression is: a matcher that backtracks as Python's does, and counts.

steps(r"a+$", "aaab", "search")    # tests of single characters, whatever the machine
attacks(r"a+$")                    # strings, of any length, that may make much work of it

Python's own engine tells no number of steps, and time is no measure for a test.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice, product
from re import _constants as c  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

REPEATS = (c.MAX_REPEAT, c.MIN_REPEAT, c.POSSESSIVE_REPEAT)
ANCHORED = ("match", "fullmatch")
MOST = 20_000
"""Steps after which nobody counts on: of a hundred characters it is far more than linear."""
_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    c.CATEGORY_DIGIT: str.isdecimal,
    c.CATEGORY_SPACE: str.isspace,
    c.CATEGORY_WORD: lambda char: char.isalnum() or char == "_",
    c.CATEGORY_NOT_DIGIT: lambda char: not char.isdecimal(),
    c.CATEGORY_NOT_SPACE: lambda char: not char.isspace(),
    c.CATEGORY_NOT_WORD: lambda char: not (char.isalnum() or char == "_"),
}


def steps(pattern: str, text: str, usage: str) -> int:
    """Tests of characters until all matches are found (``search``), or the one at the start.

    At most ``MOST``.
    """
    counter = _Matcher(text)
    nodes = _parsed(pattern)
    try:
        if usage in ANCHORED:
            for end in counter.sequence(nodes, 0):
                if usage == "match" or end == len(text):
                    break
        else:
            at = 0
            while at <= len(text):
                counter.count += 1
                end = next(counter.sequence(nodes, at), None)
                at = max(at + 1, end or 0)
    except _Enough:
        pass
    return counter.count


class _Enough(Exception):
    pass


@cache
def _parsed(pattern: str) -> Any:
    return list(_parser.parse(pattern))


class _Matcher:
    def __init__(self, text: str) -> None:
        self.text = text
        self.count = 0

    def sequence(self, nodes: Any, at: int) -> Iterator[int]:
        """Places where these nodes end that begin at a place, the engine's first choice first."""
        if not nodes:
            yield at
            return
        stack = [self.node(nodes[0], at)]
        while stack:
            place = next(stack[-1], None)
            if place is None:
                stack.pop()
            elif len(stack) == len(nodes):
                yield place
            else:
                stack.append(self.node(nodes[len(stack)], place))

    def node(self, node: tuple[Any, Any], at: int) -> Iterator[int]:
        kind, value = node
        if kind in REPEATS:
            low, high, body = value
            found = self.repeat(low, high, list(body), at, lazy=kind is c.MIN_REPEAT)
            yield from islice(found, 1) if kind is c.POSSESSIVE_REPEAT else found
        elif kind is c.SUBPATTERN:
            yield from self.sequence(list(value[-1]), at)
        elif kind is c.ATOMIC_GROUP:
            yield from islice(self.sequence(list(value), at), 1)
        elif kind is c.BRANCH:
            for branch in value[1]:
                yield from self.sequence(list(branch), at)
        elif kind in (c.ASSERT, c.ASSERT_NOT):
            direction, body = value
            start = at if direction > 0 else at - body.getwidth()[0]
            held = start >= 0 and next(self.sequence(list(body), start), None) is not None
            if held == (kind is c.ASSERT):
                yield at
        elif kind is c.AT:
            if self.anchored(value, at):
                yield at
        else:
            self.count += 1
            if self.count > MOST:
                raise _Enough
            if at < len(self.text) and is_one(node, self.text[at]):
                yield at + 1

    def repeat(self, low: int, high: int, body: Any, at: int, *, lazy: bool) -> Iterator[int]:
        places, stack = [at], [self.sequence(body, at)]
        if lazy and low == 0:
            yield at
        while stack:
            end = None if len(stack) > high else next(stack[-1], None)
            if end is None:
                stack.pop()
                place = places.pop()
                if not lazy and len(places) >= low:
                    yield place
            elif end > places[-1]:
                places.append(end)
                stack.append(self.sequence(body, end))
                if lazy and len(places) > low:
                    yield end

    def anchored(self, kind: Any, at: int) -> bool:
        self.count += 1
        before, after = self.text[at - 1 : at] if at else "", self.text[at : at + 1]
        word = _CATEGORIES[c.CATEGORY_WORD]
        border = bool(before and word(before)) != bool(after and word(after))
        end = at == len(self.text)
        return {
            c.AT_BEGINNING: at == 0,
            c.AT_BEGINNING_STRING: at == 0,
            c.AT_END: end or self.text[at:] == "\n",
            c.AT_END_STRING: end,
            c.AT_BOUNDARY: border,
            c.AT_NON_BOUNDARY: not border,
        }[kind]


def is_one(node: tuple[Any, Any], char: str) -> bool:
    """Whether a node of a single character takes this one."""
    kind, value = node
    if kind is c.LITERAL:
        return ord(char) == value
    if kind is c.NOT_LITERAL:
        return ord(char) != value
    if kind is c.ANY:
        return char != "\n"
    if kind is c.RANGE:
        return bool(value[0] <= ord(char) <= value[1])
    if kind is c.CATEGORY:
        return _CATEGORIES[value](char)
    assert kind is c.IN, f"{kind}: not counted so far; give it a row here"
    negated = value[0][0] is c.NEGATE
    return any(is_one(one, char) for one in value[negated:]) != negated


# ------------------------------------------------------------------ strings to try


CANDIDATES = "a1 \t\n.@:/;&\"'=-,[{#)é今\u0301\0~"


def attacks(pattern: str) -> Iterator[Callable[[int], str]]:
    """Functions from a size to a string: a start, something repeated, an end that spoils it."""
    nodes = _parsed(pattern)
    pieces = dict.fromkeys(["", *_examples(nodes)])
    chars = [*list(dict.fromkeys("".join(pieces)))[:5], "\0"]
    pumps = dict.fromkeys(
        [
            *pieces,
            *map("".join, product(chars, repeat=1)),
            *map("".join, product(chars, repeat=2)),
            *(one + two for one, two in product(pieces, repeat=2)),
        ]
    )
    for start in pieces:  # blanks may stand anywhere
        for end in ("", "\0"):
            yield lambda size, start=start, end=end: start + " " * size + end  # type: ignore[misc]
    for pump in filter(None, pumps):
        for start in ("", max(pieces, key=len)):
            for end in ("", "\0"):
                yield lambda size, start=start, pump=pump, end=end: (  # type: ignore[misc]
                    start + pump * (size // len(pump)) + end
                )


def _examples(nodes: Any) -> Iterator[str]:
    """Beginnings of what matches, up to each of its repeats, and what each repeats."""
    text = ""
    for node in nodes:
        kind, value = node
        if kind in REPEATS:
            yield text
            yield from _examples(list(value[2]))
        elif kind is c.SUBPATTERN:
            yield from _examples(list(value[-1]))
        elif kind is c.BRANCH:
            for branch in value[1]:
                yield from _examples(list(branch))
        text += _example(node)
    yield text


def _example(node: tuple[Any, Any]) -> str:
    kind, value = node
    if kind in REPEATS:
        return "".join(map(_example, value[2])) * max(1, value[0])
    if kind is c.SUBPATTERN:
        return "".join(map(_example, value[-1]))
    if kind is c.BRANCH:
        return "".join(map(_example, value[1][0]))
    if kind in (c.ASSERT, c.ASSERT_NOT, c.AT):
        return ""
    if kind is c.LITERAL:
        return chr(value)
    known = [one[1][0] if one[0] is c.RANGE else one[1] for one in (value if kind is c.IN else [])]
    others = [chr(code) for code in known if isinstance(code, int)]
    return next((char for char in [*CANDIDATES, *others] if is_one(node, char)), "")


def worst_growth(pattern: str, usage: str, *, size: int = 48) -> tuple[float, str]:
    """The largest ratio of steps at twice the size, and the string that makes it.

    Infinite where the steps are too many to count.
    """
    worst = (0.0, "")
    for attack in attacks(pattern):
        many = steps(pattern, attack(2 * size), usage)
        if many >= MOST:
            return float("inf"), attack(size)
        if many > 4 * size:  # less is next to nothing
            worst = max(worst, (many / steps(pattern, attack(size), usage), attack(size)))
    return worst


def as_text(pattern: str | bytes | re.Pattern[Any]) -> str:
    """Patterns of bytes and compiled ones as the text they are parsed from."""
    plain = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
    return plain.decode("latin-1") if isinstance(plain, bytes) else plain
