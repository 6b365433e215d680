"""Objects of JSON hold what they must and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from store import StoreError
from store.disk.members import check_members

KINDS = {"id": str, "count": int, "parent": (str, None), "layers": [int], "time": float}
GOOD: dict[str, Any] = {"id": "a", "count": 1, "parent": None, "layers": [1, 2], "time": 0.5}


def check(data: Any) -> None:
    check_members(data, KINDS, where="f.json", remedy="mend it", of="part", optional=("time",))


def test_what_is_as_it_must_be() -> None:
    check(GOOD)
    check({**GOOD, "parent": "b", "layers": []})
    check({name: value for name, value in GOOD.items() if name != "time"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": True}, "'count' is True, not int"),
        ({"count": 1.0}, "'count' is 1.0, not int"),
        ({"count": 2**64}, "'count' is 18446744073709551616"),
        ({"count": -(2**64)}, "'count' is -18446744073709551616"),
        ({"time": float("nan")}, "'time' is nan, not float"),
        ({"id": None}, "'id' is None, not str"),
        ({"id": "\ud800"}, "'id' is"),
        ({"id": "a\0"}, "'id' is"),
        ({"parent": 3}, "'parent' is 3, not str or null"),
        ({"layers": [1, True]}, "'layers' is .* a list of int"),
        ({"layers": [2**70]}, "'layers' is"),
        ({"layers": {"0": 1}}, "'layers' is"),
        ({"more": 1}, "unknown member 'more'"),
    ],
)
def test_what_is_not(change: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreError, match=rf"f\.json: damaged \(part: .*{message}.*; mend it"):
        check({**GOOD, **change})


def test_what_is_missing_or_no_object() -> None:
    with pytest.raises(StoreError, match="no member 'id'"):
        check({name: value for name, value in GOOD.items() if name != "id"})
    with pytest.raises(StoreError, match="where an object should be"):
        check([GOOD])
