"""JSON values cut out of a text that does not say where they end: printed, arrays, glued ones.

:class:`Scanner` reads a stream of UTF-8 and gives its objects one by one, whatever stands between
them: blanks, commas, the brackets of arrays, and, of a map, the keys (``{"17": {…}, "18": {…}}``).
Behind a damaged object it goes on at the next one that begins as that did: indented alike, or,
where several stand on a line, with a key that records here begin with. Memory holds one value at a
time.
"""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections.abc import Callable, Container, Iterator
from typing import Any

import orjson

from pipeline.texts.containers import StreamBreak
from pipeline.texts.values import EXCERPT_CHARS, Unreadable, Value, excerpt, too_long

_FILL_CHARS = 1 << 20
_NEAR_END = 16  # characters in which a literal, number or escape may be cut
_MAX_INDENT = 1000
_AHEAD_CHARS = 1 << 12  # a key, or the beginning of an assignment, with what is around it
_ALIKE_CHARS = 1 << 18  # of a record that is looked for the beginning of the next, and no more
_ALIKE_TIMES = 64  # than so many times as far as the last one went
_MOST_KEYS = 32
_NEAR_CHARS = 1 << 7  # in which the next object is looked for at first
_LOOKS = 4  # at a character, for where a damaged object ends
_KEPT_CHARS = 1 << 13  # before the present place, behind damage: errors count their lines anew
_parse = json.JSONDecoder().raw_decode
_NOT_BLANK = re.compile(r"[^ \t]")
_SCALAR = re.compile(r"[^,\[\]{}\n]*")
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_SEPARATORS = re.compile(r"[\s,\[\]\x1e\ufeff]*")
_IN_A_MAP = re.compile(r"[\s,\[\]}\x1e\ufeff]*")
_IN_A_SCRIPT = re.compile(
    r"(?:[\s,\[\]\x1e\ufeff;()}']|/\*[^*]{0,200}\*/|while\(1\);|for\(;;\);)*+"
)
_KEY = re.compile(r'"([^"\\\n]{0,1000})"\s*:\s*(?=([{\[]))')
_OPENING = re.compile(r'\{\s*+(?="([^"\\\n]{0,1000})"\s*+:\s*+(?:\[\s*+)?\{)')
_FIRST_KEY = re.compile(r'\{\s*"([^"\\\n]{0,200})"')
_NEXT_KEY = re.compile(r'[}\]][\s,]*(\{\s*"([^"\\\n]{0,200})"\s*:)')
_NEXT_ENTRY = re.compile(r'[{,]\s*("([^"\\\n]{0,400})"\s*:\s*[{\[])')
_STRUCTURE = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[{}]', re.S)
_FOLLOWED = re.compile(r'[\s,]*+(?:\{\s*+"|"[^"\\\n]{0,400}"\s*+:\s*+[{\[]|[\]}][\s;)]*+\Z)')
LIST_IN_OBJECT = (
    r'(?:\{(?:\s*+"[^"\\\n]{0,200}"\s*+:\s*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\w.+-]{1,40}'
    r"|\{[^{}]{0,2000}\}|\[[^\[\]{}]{0,2000}\])\s*+,)*+"
    r'\s*+"[^"\\\n]{0,200}"\s*+:\s*+){1,4}\[\s*+(?=\{)'
)
"""An object with a list of objects behind small members, or in its last ones."""
_LIST_IN_OBJECT = re.compile(LIST_IN_OBJECT, re.S)
_ASSIGNMENT = re.compile(
    r"(?:(?:var|let|const|export|default|return)\s+)*"
    r"[A-Za-z_$][\w$.\[\]'\"]{0,300}\s*[=(]\s*(?=[\[{(])"
)
_ID = re.compile(
    r"\d{1,40}+|[A-Za-z]{1,20}+[-_:/.]\d{6,40}+|(?:at|https?|tag|urn|did|acct|id):\S++"
)
_MADE_UP = re.compile(r"[\w:-]{16,200}")
_WORLDWIDE = re.compile(r"\d{8,40}|(?:at|https?|tag|urn):\S+")


def is_id(key: str) -> bool:
    """Whether a key of an object has the form of an id, rather than of a field's name.

    Numbers, ``at://…`` and other URIs, ``tweet-1234567``, UUIDs and what databases make up.
    """
    if _MADE_UP.fullmatch(key) and any(map(str.isdigit, key)):
        return True
    return _ID.fullmatch(key) is not None


def _opening(text: str, at: int) -> re.Match[str] | None:
    """The ``{`` of a map, if one is here."""
    found = _OPENING.match(text, at)
    return found if found and is_id(found.group(1)) else None


class CutOff(Exception):
    """The text ends within a value."""


def read_object(text: str, at: int) -> tuple[Any, int]:
    """The object that starts at a place of a text, and where it ends.

    ``read_object('[{"a": 1}, 2]', 1)`` is ``({"a": 1}, 9)``.

    Raises:
        CutOff: the text ends first; more of it may make the object whole.
        ValueError: it is damaged; with a short reason.
    """
    try:
        return _parse(text, at)
    except json.JSONDecodeError as error:
        # {"a": "b                the string began anywhere
        # {"a": 1, "b": tr        the parser stumbles where the literal begins
        if error.msg.startswith("Unterminated string") or error.pos >= len(text) - _NEAR_END:
            raise CutOff from None
        # {"a": "b" c", "d": 1}   well before the end
        raise ValueError(f"not JSON: {error.msg}") from None
    except ValueError as error:  # {"a": 999…}  with thousands of digits
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:  # {"a": [[[…
        raise ValueError("not JSON: nested too deeply") from None


def indent_after(separators: str) -> int | None:
    """How far a value is indented that follows these; None within a line.

    Tabs and blanks count, commas and brackets do not: ``",\\n  "`` is 2, ``"\\n, "`` is 1, and
    ``", "`` is None.
    """
    _, newline, indent = separators.rpartition("\n")
    return len(_NOT_BLANK.sub("", indent)) if newline else None


def next_start(text: str, at: int, indent: int, end: int = sys.maxsize) -> int | None:
    """Where to go on behind a damaged object: at a ``{`` that starts a line as that object did.

    An object inside the damaged one is indented further, and a ``{`` inside a string stands in the
    middle of a line, so that neither is taken for the next.

    Args:
        text: with the damaged object.
        at: begin to look here, behind the object's own ``{``.
        indent: of the damaged object.
        end: look no further.

    Returns:
        Place of the ``{``; None if there is none yet.
    """
    match = re.compile(_start_pattern(indent)).search(text, at, end)
    return match.end() - 1 if match else None


def _start_pattern(indent: int) -> str:
    blanks = rf"[ \t]{{{indent}}}"
    # [
    #   {
    #     "id": 1 "user": {     damaged, and this one is further in
    #       "id": 9
    #     }
    #   },
    #   {"id": 2}               the next; with commas first:   ,{"id": 2}
    # ]
    own_line = rf"{blanks}[\[,]?"
    # [ {"id": 1 "lang": "en"}  damaged, one blank in
    # , {"id": 2}               the next, one blank behind its comma
    # ]
    comma_first = rf"[\[,]{blanks}"
    return rf"\n(?:{own_line}|{comma_first}){{"


def closed(text: str, at: int, end: int) -> int | None:
    """Where a damaged object ends, if its braces and quotes are whole and another one follows.

    ``{"id" 1, "a": {"b": 2}}, {"id": 2}``: only a colon is missing. Nothing from ``end`` on is
    looked at for its braces.
    """
    depth = 0
    for token in _STRUCTURE.finditer(text, at, end):
        match token.group():
            case "{":
                depth += 1
            case "}":
                depth -= 1
        if depth == 0:
            return token.end() if _FOLLOWED.match(text, token.end()) else None
    return None


class Scanner:
    """Cuts objects out of a stream, with the standard library's parser.

    Args:
        chunks: UTF-8.
        max_chars: of a longer object only the beginning is looked at; it is unreadable.
        line: number of the first.
        keyed: the objects are entries of maps, behind keys that have the form of ids.
        scripted: assignments or calls of JavaScript may stand before the values.
    """

    def __init__(
        self,
        chunks: Iterator[bytes],
        max_chars: int,
        *,
        line: int = 1,
        keyed: bool = False,
        scripted: bool = False,
    ) -> None:
        self._chunks = chunks
        self._max_chars = max_chars
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._text = ""
        self._at = 0
        self._line = line
        self._started = False
        self._indent: int | None = 0
        self._keyed, self._scripted = keyed, scripted
        self._separators = _IN_A_MAP if keyed else _IN_A_SCRIPT if scripted else _SEPARATORS
        self._maps = keyed
        self._key: str | None = None
        self._first_keys: dict[str, None] = {}
        self._between = ""
        self._size = _AHEAD_CHARS
        self._credit = _FILL_CHARS
        self._open: int | None = 0  # brackets of arrays; None where damage hides how many
        self._ended = False
        self._broken: StreamBreak | None = None

    def values(self) -> Iterator[Value | Unreadable]:
        """The objects in order, and in their places what is none."""
        while self._skip_separators():
            if self._keyed and self._skip_key():
                continue
            if self._text[self._at] == "{":
                item = self._next_object()
            elif self._scripted and self._skip(_ASSIGNMENT.match):
                continue
            else:
                item = self._next_scalar()
            if item is not None:
                yield item
        if self._broken is not None:
            yield Unreadable(self._line, str(self._broken), "", breaks=True)
        elif self._open is not None and self._open > 0:
            yield Unreadable(self._line, "not JSON: the file ends within an array", "")

    def _fill(self, num_chars: int = _FILL_CHARS) -> bool:
        """Read on; False at the end of the stream."""
        if self._ended:
            return False
        parts = [self._text[self._at :]]
        self._at = 0
        try:
            while num_chars > 0:
                data = next(self._chunks)
                parts.append(self._decoded(data))
                num_chars -= len(data)
        except StopIteration:
            self._ended = True
        except StreamBreak as error:
            self._ended, self._broken = True, error
        if self._ended:
            parts.append(self._decoded(b"", final=True))
        self._text = "".join(parts)
        return True

    def _decoded(self, data: bytes, *, final: bool = False) -> str:
        try:
            return self._decoder.decode(data, final)
        except UnicodeDecodeError:
            self._decoder.errors = "surrogateescape"  # from here on objects are searched for them
            return self._decoder.decode(data, final)

    def _advance(self, to: int) -> None:
        self._line += self._text.count("\n", self._at, to)
        self._at = to

    def _skip(self, pattern: Callable[[str, int], re.Match[str] | None]) -> re.Match[str] | None:
        """Go behind what a pattern finds here."""
        if len(self._text) - self._at < _AHEAD_CHARS:
            self._fill()
        if found := pattern(self._text, self._at):
            self._advance(found.end())
        return found

    def _skip_separators(self) -> bool:
        """Go to the next value and note its indentation, None within a line; False at the end."""
        passed, self._started = "" if self._started else "\n", True
        while True:
            match = self._separators.match(self._text, self._at)
            assert match is not None
            between = match.group()
            if self._open is not None:
                self._open += between.count("[") - between.count("]")
            passed = (passed + between)[-_MAX_INDENT:]
            self._advance(match.end())
            if self._at < len(self._text):
                break
            if not self._fill():
                return False
        self._indent = indent_after(passed)
        if self._between or self._keyed or not self._first_keys:
            return True
        if own := _FIRST_KEY.match(self._text, self._at):
            self._between = f"}}{passed}{own.group()}"
        return True

    def _skip_key(self) -> bool:
        """Go behind the ``{`` of a map, or a key in it."""
        if self._text[self._at] == '"':
            found = self._skip(_KEY.match)
            # {"17": {…}}     the record is 17's
            # {"17": [{…}]}   17 is its author, or a day
            self._open = None
            self._key = (found.group(1) if found.group(2) == "{" else "") if found else None
            return found is not None
        if self._key is not None:
            return False
        return self._skip(_opening) is not None

    def _next_alike(self) -> Value | None:
        """The object up to where the next one begins as this did, if that is JSON: faster."""
        if not self._between:
            return None
        reach = min(_ALIKE_CHARS, _AHEAD_CHARS + _ALIKE_TIMES * self._size)
        end = self._text.find(self._between, self._at, self._at + reach)
        try:
            value = orjson.loads(self._text[self._at : end + 1] if end > 0 else b"")
        except ValueError:
            self._between = ""  # others follow; it is looked for anew
            return None
        item, self._size = Value(self._line, value), end + 1 - self._at
        self._advance(end + 1)
        return item

    def _next_object(self) -> Value | Unreadable | None:
        if (alike := self._next_alike()) is not None:
            return alike
        wanted = _FILL_CHARS
        while True:
            try:
                value, end = read_object(self._text, self._at)
                break
            except CutOff:
                if len(self._text) - self._at > self._max_chars:
                    if self._enter():
                        return None
                    return self._give_up(too_long(self._max_chars))
                if not self._fill(wanted):
                    reason = str(self._broken or "not JSON: the file ends within a value")
                    self._broken = None
                    return self._give_up(reason)
                wanted *= 2  # a long value is parsed a few times only
            except ValueError as error:
                return self._give_up(str(error))
        item: Value | Unreadable = Value(self._line, self._named(value))
        if self._decoder.errors != "strict" and (
            bad := _ESCAPED_BYTE.search(self._text, self._at, end)
        ):
            item = self._unreadable(f"not UTF-8: byte 0x{ord(bad.group()) - 0xDC00:02X}")
        if len(self._first_keys) < _MOST_KEYS:
            self._first_keys.update(dict.fromkeys([*value][:1]))
        self._size = end - self._at
        self._advance(end)
        return item

    def _named(self, value: dict[str, Any]) -> dict[str, Any]:
        """An entry of a map with its key as ``id``, if it has a text, and no id itself."""
        key, self._key = self._key, None
        if key is None or "id" in value or "id_str" in value:
            return value
        has_text = "text" in value or "full_text" in value
        return {"id": key, **value} if has_text and _WORLDWIDE.fullmatch(key) else value

    def _enter(self) -> bool:
        """Go into an object that is too long to be one value: on to the list of objects in it."""
        if self._keyed or not self._skip(_LIST_IN_OBJECT.match):
            return False
        self._keyed, self._separators, self._open = True, _IN_A_MAP, None
        self._key = ""  # the next object is no map
        return True

    def _unreadable(self, reason: str) -> Unreadable:
        """The value at the present place as one that cannot be read."""
        beginning = self._text[self._at : self._at + EXCERPT_CHARS]
        return Unreadable(self._line, reason, excerpt(beginning))

    def _next_scalar(self) -> Unreadable | None:
        """What stands where an object belongs; None for ``null``, which stands for nothing."""
        line, beginning = self._line, ""
        self._open = self._open if self._text.startswith("null", self._at) else None
        while True:
            match = _SCALAR.match(self._text, self._at)
            assert match is not None
            beginning = (beginning + match.group())[:EXCERPT_CHARS]
            self._advance(match.end())
            if self._at < len(self._text) or not self._fill():
                break
        if self._at < len(self._text) and self._text[self._at] == "}":
            beginning += "}"
            self._advance(self._at + 1)
        if beginning.strip() == "null":
            return None
        return Unreadable(line, "not a JSON object", excerpt(beginning))

    def _give_up(self, reason: str) -> Unreadable:
        """Leave a damaged object for the next one that begins as it did."""
        self._open = None
        if self._at > _KEPT_CHARS:
            self._text, self._at = self._text[self._at :], 0
        item, start, keys = self._unreadable(reason), self._at + 1, dict(self._first_keys)
        if (end := self._closed()) is not None:
            self._key = None
            self._advance(end)
            return item
        if own := _FIRST_KEY.match(self._text, self._at):
            keys[own.group(1)] = None
        self._key = None
        while (found := self._next_start(start, keys)) is None:
            self._advance(max(start, len(self._text) - _MAX_INDENT))
            if not self._fill():
                self._advance(len(self._text))
                return item
            start = 0
        self._advance(found)
        return item

    def _closed(self) -> int | None:
        """Where the damaged object here ends, if that can be told.

        All that is looked at in vain is at most some times what there is, however many objects are
        damaged.
        """
        until = min(self._at + self._credit, len(self._text))
        end = closed(self._text, self._at, until)
        if end is None:
            self._credit = max(self._credit - (until - self._at), 0)
        elif next_start(self._text, self._at + 1, self._indent or 0, end) is not None:
            self._credit = max(self._credit - (end - self._at), 0)
            return None
        return end

    def _next_start(self, start: int, keys: Container[str]) -> int | None:
        """Where the next object begins, or its key in a map: first near, then further off, so that
        the work is in proportion to how far it is."""
        reach = _NEAR_CHARS
        while True:
            end = min(start + reach, len(self._text))
            found = self._start_before(end, start, keys)
            if found is not None or end == len(self._text):
                self._credit += _LOOKS * ((found or end) - self._at)
                return found
            reach *= 4

    def _start_before(self, end: int, start: int, keys: Container[str]) -> int | None:
        if self._maps:
            entries = _NEXT_ENTRY.finditer(self._text, start, end)
            return next((one.start(1) for one in entries if is_id(one.group(2))), None)
        own_line = next_start(self._text, start, self._indent or 0, end)
        if self._indent:  # nothing is at this depth but records
            return own_line
        end = end if own_line is None else own_line
        on_this = _NEXT_KEY.finditer(self._text, start, end)
        return next((one.start(1) for one in on_this if one.group(2) in keys), own_line)
