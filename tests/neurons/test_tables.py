"""Tables of importance as arrays."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.neurons.tables import importance_cube

pytest.importorskip("holoviews", reason="needs the extra: salient-neurons[report]")


def test_importance_cube_puts_rows_in_their_places() -> None:
    rows = [
        {"layer": i, "pooling": p, "neuron": n, "importance": 100 * i + 10 * (p == "max") + n}
        for i in range(2)
        for p in ("mean", "max")
        for n in range(3)
    ]
    cube, poolings = importance_cube(pa.Table.from_pylist(rows[::-1]))
    assert poolings == ("max", "mean") and cube.shape == (2, 2, 3)
    assert cube[1, 0, 2] == 112 and cube[0, 1, 1] == 1
