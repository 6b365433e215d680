"""Texts that a caller hands over in Python: a list, an array, a Series, a column of a data set.

    texts = given_texts(frame["text"])           # list[str]; anything else is refused, by its row
    ids = given_ids(frame["id"], len(texts))     # list[str], each once

A row is named as Python counts it, from 0, and by its label where a Series has one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import count, islice
from typing import Any, TypeVar

import numpy as np

from pipeline.errors import CorpusError

Item = TypeVar("Item")
NOT_ITSELF = (float, np.floating, np.datetime64, np.timedelta64)
"""What may be none though it is a value: it then differs from itself."""
_SURROGATE = re.compile("[\ud800-\udfff]")
DROP = "leave it out, or give '' for a text without words"


def given_texts(texts: Iterable[Any]) -> list[str]:
    """The texts ``(n,)`` as strings.

    Raises:
        CorpusError: a single text, a table, or a row that is no text; names the row.
    """
    values = _as_list(texts, "texts")
    return [_text(value, row, texts) for row, value in enumerate(values)]


def given_or_missing(texts: Iterable[Any]) -> list[str | None]:
    """The same ``(n,)`` where a text may be missing: None, NaN and NA are None.

    Raises:
        CorpusError: as of :func:`given_texts`.
    """
    values = _as_list(texts, "texts")
    return [
        None if is_missing(value) else _text(value, row, texts) for row, value in enumerate(values)
    ]


def given_ids(ids: Iterable[Any] | None, num_texts: int) -> list[str]:
    """The ids ``(n,)`` of so many texts as strings; "0", "1", … if there are none.

    Raises:
        CorpusError: another number than there are texts, one that is there twice, or no id.
    """
    if ids is None:
        return [str(number) for number in range(num_texts)]
    values = _as_list(ids, "ids")
    if len(values) != num_texts:
        raise CorpusError(f"ids: {len(values)} for {num_texts} texts; give one for each text")
    found = [_id(value, row) for row, value in enumerate(values)]
    first: dict[str, int] = {}
    for row, name in enumerate(found):
        if (before := first.setdefault(name, row)) != row:
            raise CorpusError(f"ids: {name!r} is there twice, in rows {before} and {row}")
    return found


def given_pairs(items: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Ids and texts of a stream of texts, or of pairs of an id and a text; numbered if without.

    Raises:
        CorpusError: no texts at all, or an item that is neither, when it is reached.
    """
    odd = isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable)
    if odd or hasattr(items, "columns"):
        _as_list(items, "texts")  # refuses it
    return _pairs(items)


def _pairs(items: Iterable[Any]) -> Iterator[tuple[str, str]]:
    pairs: bool | None = None
    for row, item in zip(count(), items):
        pair = isinstance(item, tuple | list) and len(item) == 2
        if pairs is None:
            pairs = pair
        if pair != pairs:
            raise CorpusError(
                f"texts: row {row} is {_shown(item)}, and those before were"
                f" {'pairs of an id and a text' if pairs else 'texts'}; give all alike"
            )
        yield (_id(item[0], row), _text(item[1], row)) if pair else (str(row), _text(item, row))


def in_blocks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of so many items, the last one shorter; no more is drawn than is handed out."""
    drawn = iter(items)
    while block := list(islice(drawn, size)):
        yield block


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: None, NaN, NaT, NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, NOT_ITSELF) and bool(value != value)


def _as_list(values: Any, what: str) -> list[Any]:
    """The values as a list, or why they are none."""
    if isinstance(values, str | bytes):
        raise CorpusError(f"{what}: {_shown(values)} is a single one; give a list: [{what[:-1]}]")
    if isinstance(values, Mapping) or hasattr(values, "columns"):
        raise CorpusError(
            f"{what}: a {type(values).__name__} is a table; give one column of it, as in"
            f" table[{'text' if what == 'texts' else 'id'!r}]"
        )
    if isinstance(values, Set):
        raise CorpusError(f"{what}: a {type(values).__name__} has no order; give a list")
    if hasattr(values, "to_pylist"):  # Arrow's
        return list(values.to_pylist())
    try:
        return list(values)
    except TypeError:
        raise CorpusError(
            f"{what}: {_shown(values)} is no list of {what}; give a list, an array or a Series"
        ) from None


def _text(value: Any, row: int, texts: Any = None) -> str:
    if isinstance(value, str):
        return str(value)  # of numpy's too
    place = f"row {row}"
    if (labels := getattr(texts, "index", None)) is not None and not callable(labels):
        place += f" (index {labels[row]})"
    if is_missing(value):
        raise CorpusError(f"texts: {place} has no text ({value!r}); {DROP}")
    remedy = 'give the column of texts, as in data["text"]' if isinstance(value, Mapping) else DROP
    raise CorpusError(f"texts: {place} is {_shown(value)}, not a text; {remedy}")


def _id(value: Any, row: int) -> str:
    if isinstance(value, str) and value and not _SURROGATE.search(value):
        return str(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(value))
    raise CorpusError(
        f"ids: row {row} is {_shown(value)}; give strings that are not empty (nor half of a"
        " character, a lone surrogate), or whole numbers"
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:40] + '…'} ({type(value).__name__})"
