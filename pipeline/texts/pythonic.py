"""What Python writes of its objects, as JSON has it; nothing is evaluated.

    as_json(b"{'a': 'it\\\\'s', 'b': None}")    # b'{"a": "it\\'s", "b": null}'
    loads(b"{u'a': OrderedDict([('b', 7L)])}")    # {"a": {"b": 7}}

What ``repr`` writes of dicts, lists, tuples, strings, numbers, True, False and None, of Python 2
too, and what ``pprint`` writes over several lines, is turned into JSON token by token. Of shorter
lines the syntax is read as well, so that OrderedDict, datetime, ObjectId and data classes come out.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable
from datetime import datetime
from typing import Any

from pipeline.texts import values
from pipeline.texts.scanning import CutOff, read_object

PYTHONIC = "Python's repr of a dict"
"""What such a line is, in words."""
OBJECT = "Python's repr of an object"
_PART = re.compile(
    r"""((?:[^'"\\]++|'[^'"\\]*+')*+)('[^'\\]*+(?:\\.[^'\\]*+)*+'?|"[^"\\]*+(?:\\.[^"\\]*+)*+"?)?""",
    re.S,
)
"""Strings that are the same in JSON but for their quotes, with what is around them, and one that is
not."""
_ODD = re.compile(r"""\\(?:x[0-9a-fA-F]{2}|U[0-9a-fA-F]{8}|.)|"|[\x00-\x1f]""", re.S)
_WORDS = {
    "True": "true", "False": "false", "None": "null", "nan": "null", ",)": "]", "(": "[", ")": "]",
    "u\0": "\0",
}  # fmt: skip
_LONG = re.compile(r"(?<![\w.])(\d++)L\b")
_OVER_LINES = re.compile(r'"[ \t]*+\n\s*+"')
"""``pprint`` parts long strings."""
_STARTS = re.compile(
    rb"[\s\[(]*+\{\s*+(?:u?'[^'\\]{0,200}'\s*+:"
    rb"|\"[^\"\\]{0,200}\"\s*+:\s*+(?:u?'|True\b|False\b|None\b)"
    rb"|\d{1,20}\s*+:\s*+(?:\[\s*+)?(?:\{\s*+)?u?')"
)
_PAIR = re.compile(rb"\(\s*+(?:u?'[^'\\]{0,200}'|\d{1,40}+L?)\s*+,\s*+(?=\{\s*+u?['\"])")
_DICT_CALL = re.compile(
    rb"[\w.]{1,100}+\((?:<[^>]{0,100}>,\s*+|\w{1,40}+,\s*+)?(?:\[\s*+\(\s*+u?['\"]|\{\s*+u?')"
)
_OBJECT_CALL = re.compile(rb"[A-Za-z_][\w.]{0,100}+\([A-Za-z_]\w{0,100}+=")
_ARGUMENT = re.compile(rb",\s?[A-Za-z_]\w{0,100}+=")
_FIRST_BYTES = 2000
_OWN_JSON = re.compile(rb"[(\s]_json=(?=\{)")
"""Of tweepy's objects, what the site sent."""
_MOST_BYTES = 1 << 17
"""Of a line whose syntax is read: its tree is some hundred times as large."""


def pythonic_kind(line: bytes) -> str | None:
    """What a line is if it begins as Python writes dicts or objects, and JSON never does."""
    if _STARTS.match(line) or _PAIR.match(line):
        return PYTHONIC
    if line.rstrip().endswith(b")"):
        if _DICT_CALL.match(line):
            return PYTHONIC
        call = _OBJECT_CALL.match(line)
        if call and _ARGUMENT.search(line, call.end(), _FIRST_BYTES):
            return OBJECT
    return None


def is_pythonic(line: bytes) -> bool:
    """Whether a line begins as Python writes a dict or an object, and JSON never does."""
    return pythonic_kind(line) is not None


def loads(line: bytes) -> Any:
    """The value that Python wrote, as JSON has it; of a pair the value, of a key and a dict.

    Raises:
        ValueError: it has no form in JSON, or is too long to find out.
    """
    own = _OWN_JSON.search(line)
    if own is not None and _OBJECT_CALL.match(line):
        try:
            return read_object(as_json(line[own.end() :]).decode(), 0)[0]
        except CutOff:
            raise ValueError("not JSON: the line ends within a value") from None
    try:
        value = values.loads(as_json(line))
    except ValueError:
        if len(line) > _MOST_BYTES:
            raise
        value = _from_syntax(line.decode())
    if _PAIR.match(line) and isinstance(value, list) and len(value) == 2:
        return value[1]
    return value


def as_json(line: bytes) -> bytes:
    """A line of Python's as JSON.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    text = line.decode()
    is_plain = b'"' not in line and b"\\" not in line
    written = _requoted(text) if is_plain else _PART.sub(_part, text)
    return (_OVER_LINES.sub("", written) if b"\n" in line else written).encode()


def _part(found: re.Match[str]) -> str:
    same, odd = found.groups()
    return _requoted(same.removesuffix("u")) + _string(odd) if odd else _requoted(same)


def _requoted(same: str) -> str:
    parts = same.split("'")
    around = "\0".join(parts[::2])  # a zero byte is in no JSON, nor in what Python writes
    for word, other in _WORDS.items():
        around = around.replace(word, other)
    if "L" in around:
        around = _LONG.sub(r"\1", around)
    outside = around.split("\0")
    if len(outside) == len(parts[::2]):
        parts[::2] = outside
    return '"'.join(parts)


def _string(token: str) -> str:
    if len(token) == 1 or token[-1] != token[0]:
        return token  # never closed
    inside = token[1:-1]
    if "\\" in inside or '"' in inside:
        inside = _ODD.sub(_odd, inside)
    return f'"{inside}"'


def _odd(found: re.Match[str]) -> str:
    """What is written differently within a string of JSON."""
    part = found.group()
    if part == '"':
        return '\\"'
    if part.startswith("\\x") and len(part) == 4:
        return f"\\u00{part[2:]}"
    if part.startswith("\\U") and len(part) == 10:
        code = int(part[2:], 16)
        return chr(code) if 0xFFFF < code < 0x110000 else "\\?"  # no character: no JSON either
    if part == "\\'":
        return "'"
    return part


def _from_syntax(text: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of escapes that Python never writes
            return _plain(ast.parse(text.strip(), mode="eval").body)
    except (
        SyntaxError,
        TypeError,
        AttributeError,
        IndexError,
        RecursionError,
        MemoryError,
    ) as error:
        raise ValueError(f"no form in JSON: {type(error).__name__}") from None


def _plain(node: ast.expr) -> Any:
    """What an expression says, if it is one of literals and known names.

    Raises:
        ValueError: it is not.
    """
    match node:
        case ast.Constant(value=bytes(value)):
            return value.decode()
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return value
        case ast.Dict(keys=keys, values=items):
            return {_key(key): _plain(item) for key, item in zip(keys, items, strict=True)}
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            return [*map(_plain, items)]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Name(id="nan"):
            return None
        case ast.Call(func=func, args=args, keywords=keywords):
            name = ast.unparse(func).rpartition(".")[2]
            if (read := _CALLS.get(name)) is not None:
                return read(node)
            if keywords and not args:  # a data class
                return {one.arg: _plain(one.value) for one in keywords if one.arg}
    raise ValueError("no form in JSON")


def _key(node: ast.expr | None) -> str:
    key = None if node is None else _plain(node)
    if not isinstance(key, str | int | float):
        raise ValueError("no form in JSON")
    return str(key)


def _dict(node: ast.Call) -> Any:
    value = _plain(node.args[-1]) if node.args else {}
    return value if isinstance(value, dict) else {str(key): one for key, one in value}


def _only(node: ast.Call) -> Any:
    (value,) = node.args
    return _plain(value)


def _datetime(node: ast.Call) -> str:
    zones = {ast.unparse(one.value).lower() for one in node.keywords if one.arg == "tzinfo"}
    if zones - {"datetime.timezone.utc", "timezone.utc", "utc", "<utc>", "pytz.utc", "tzutc()"}:
        raise ValueError("no form in JSON")
    when = datetime(*[int(_plain(one)) for one in node.args])  # type: ignore[arg-type]
    return when.isoformat() + "+00:00" * bool(zones)


_CALLS: dict[str, Callable[[ast.Call], Any]] = {
    **dict.fromkeys(("OrderedDict", "defaultdict", "Counter", "dict", "mappingproxy"), _dict),
    **dict.fromkeys(("ObjectId", "Timestamp", "UUID", "Decimal", "Int64", "str"), _only),
    "datetime": _datetime,
}
"""Name -> how its call is read."""
