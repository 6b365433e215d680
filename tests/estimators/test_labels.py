"""What `y` may be, and what is said of what it may not be."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import sparse

from pipeline.estimators.inputs import InputError, read_texts, read_weights
from pipeline.estimators.labels import Labels, check_classes, class_name, task_name


@pytest.mark.parametrize(
    ("y", "names"),
    [
        (["b", "a", "b"], ("a", "b")),
        (np.array([2, 1, 10]), ("1", "2", "10")),
        ([True, False, True], ("false", "true")),
        ([0.0, 1.0, 1.0], ("0", "1")),
        (pd.Series(["x", "y", "x"], dtype="category"), ("x", "y")),
        (pa.array(["x", "y", "x"]), ("x", "y")),
        (pd.array([1, 2, 1], dtype="Int64"), ("1", "2")),
    ],
)
def test_classes(y: Any, names: tuple[str, ...]) -> None:
    labels = Labels.of(y)
    assert labels.kind == "classification" and labels.names == names
    assert [labels.classes.tolist()[names.index(one)] for one in labels.rows] == list(
        np.asarray(y).tolist() if not isinstance(y, pa.Array) else y.to_pylist()
    )


@pytest.mark.parametrize(
    "y",
    [
        [["a", "b"], [], ["b"]],
        [("a", "b"), (), ("b",)],
        [{"a", "b"}, set(), {"b"}],
        pd.Series([["a", "b"], [], ["b"]]),
        pa.array([["a", "b"], [], ["b"]]),
        pd.DataFrame({"a": [1, 0, 0], "b": [True, False, True]}).astype(int),
    ],
)
def test_label_sets(y: Any) -> None:
    labels = Labels.of(y)
    assert labels.kind == "multilabel" and labels.names == ("a", "b")
    assert labels.rows == [("a", "b"), (), ("b",)]
    assert labels.lists != isinstance(y, pd.DataFrame)
    assert labels.shares().tolist() == [1 / 3, 2 / 3]


def test_columns_of_polars() -> None:
    polars = pytest.importorskip("polars", reason="needs the extra: salient-neurons[dev]")
    labels = Labels.of(polars.Series([["a", "b"], [], ["b"]]))
    assert labels.lists and labels.rows == [("a", "b"), (), ("b",)]
    assert Labels.of(polars.Series(["b", "a"])).rows == ["b", "a"]
    with pytest.raises(InputError, match="row 1 has no label"):
        Labels.of(polars.Series(["b", None]))


def test_indicators_have_numbers_for_labels() -> None:
    for y in ([[1, 0], [0, 1]], np.eye(2), sparse.csr_array(np.eye(2)), np.eye(2, dtype=bool)):
        labels = Labels.of(y)
        assert labels.classes.tolist() == [0, 1] and labels.rows == [("0",), ("1",)]
        assert not labels.lists
    assert Labels.of([[1, 2], [2, 3]]).lists  # labels, not flags


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (None, "requires y to be passed, but the target y is None"),
        (["a", None], "row 1 has no label"),
        ([1.0, float("nan")], "Input y contains NaN"),
        ([["a"], "b"], "row 1 is 'b', where others are lists"),
        ([["a"], [None]], "missing label"),
        (np.array([[1, 2], [2, 0]]), "holds 0 and 1 only"),
        (np.zeros((2, 2, 2)), "1d array"),
        (np.array(["a", 1], object), "several types"),
        (np.array([1j, 2]), "Complex data not supported"),
        (["a", float("nan"), "b"], "row 1 has no label"),  # numpy would call it 'nan'
        (["a", 7], "several types: number, str"),
        ([True, 7], "several types: bool, number"),
        ([[True, 5], [5, 3]], "several types: bool, number"),
        ([[["a"]], [["b"]]], "type list"),
        (np.array([Decimal(1), Decimal(2)]), "type Decimal|type number"),
        (np.array([[1, -1], [-1, 1]]), "holds 0 and 1 only"),
        (np.array([[2, 0], [0, 2]]), "holds 0 and 1 only"),
        (np.array([["a", "b"], ["b", "a"]]), "holds 0 and 1 only"),
        (np.array([["a", 0], ["b", 1]], object), "holds 0 and 1 only"),
        (pd.DataFrame(np.eye(2, dtype=int), columns=["a", "a"]), "both be called 'a'"),
        (pd.DataFrame(np.eye(2, dtype=int), columns=[1, "a"]), "several types"),
    ],
)
def test_what_is_no_label(y: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        Labels.of(y) if not isinstance(y, list) or y != ["a", 1] else Labels.of(np.array(y, object))


@pytest.mark.parametrize("y", [[10, 9, 10], [True, False, True], ["b", "a", "b"], [0.5, 1, 0.5]])
def test_objects_get_their_plain_type(y: Any) -> None:
    if 0.5 in y:
        with pytest.raises(ValueError, match="continuous"):
            Labels.of(np.array(y, object))
        return
    for own in (np.array(y, object), pd.Series(y, dtype=object)):
        assert Labels.of(own).classes.dtype == np.array(y).dtype


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (["a"], "only one class"),
        ([[], []], "found none"),
        (["['a', 'b']", "['b']"], r"row 0: .* is a list; give a list of labels for each text"),
        (["a", "b", "a", "a;b", "b"], r"row 3: 'a;b' looks like several labels; give a list"),
        (["x", "\ud800"], "half a character"),
        ([["x"], ["\ud800"]], "half a character"),
    ],
)
def test_what_cannot_be_learnt(y: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        check_classes(Labels.of(y))


def test_rows_can_be_taken() -> None:
    labels = Labels.of(["a", "b", "c", "a"]).taken(np.array([0, 2]))
    assert labels.names == ("a", "c") and labels.rows == ["a", "c"]


def test_names() -> None:
    assert [class_name(one) for one in (True, 2, 2.0, 2.5, "x")] == ["true", "2", "2", "2.5", "x"]
    assert task_name(pd.Series([1], name="mood"), "label") == "mood"
    for name in ("two words", "text_hash", "date", 3, None):
        assert task_name(pd.Series([1], name=name), "label") == "label"


@pytest.mark.parametrize(
    ("X", "match"),
    [
        (None, "give a list"),
        ({"text": "a"}, "give one column of it"),
        (pd.DataFrame({"a": ["b"], "c": ["d"]}), "give one column of it"),
        (np.zeros((2, 3)), r"shape \(2, 3\)"),
        ([], "0 sample"),
        (["a", float("nan")], "row 1 has no text"),
        (pd.Series(["a", pd.NA], dtype="string"), "row 1 .index 1. has no text"),
        ([b"a"], "row 0 is b'a' .bytes., not a text"),
        (3, "give a list"),
    ],
)
def test_what_is_no_text(X: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        read_texts(X)


@pytest.mark.parametrize(
    ("weight", "match"),
    [
        ([1], "X has 2, sample_weight has 1"),
        ([[1], [2]], "1D"),
        ([1, -1], "row 1 is -1"),
        ([1, np.inf], "row 1 is inf"),
        (["a", "b"], "than numbers"),
        ([0, 0], "non-zero"),
    ],
)
def test_what_is_no_weight(weight: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        read_weights(weight, ["a", "b"])
    assert read_weights(None, ["a"]) is None
    found = read_weights(2, ["a", "b"])
    assert found is not None and found.tolist() == [2, 2]
