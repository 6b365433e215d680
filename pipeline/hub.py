"""Labelled sets from the Hugging Face hub, through the ``datasets`` package (not required)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import pyarrow as pa

from pipeline.errors import CorpusError
from pipeline.rowformats import RowBlock, as_texts, missing_column


def hub_splits(
    name: str, *, config: str | None, revision: str | None
) -> list[tuple[str, Callable[[Sequence[str]], Iterator[RowBlock]]]]:
    """The splits of a hub data set under its own names, each with a reader of named columns.

    Class numbers come out as the set's class names, and its -1 as no label.

    Raises:
        CorpusError: ``datasets`` is not installed, or the set cannot be loaded.
    """
    try:
        datasets = import_module("datasets")
    except ImportError:
        raise CorpusError(
            f"{name}: reading a hub data set needs the package datasets; `pip install datasets`, "
            "or name a file as path"
        ) from None
    try:
        loaded = datasets.load_dataset(name, config, revision=revision)
    except Exception as error:  # the package raises many kinds, its own and those of its clients
        first_line = str(error).partition("\n")[0]
        raise CorpusError(f"{name}: cannot be loaded from the hub: {first_line}") from None
    return [(split, _reader(f"{name} [{split}]", loaded[split])) for split in loaded]


def _reader(where: str, split: Any) -> Callable[[Sequence[str]], Iterator[RowBlock]]:
    def read(columns: Sequence[str]) -> Iterator[RowBlock]:
        table: pa.Table = split.with_format("arrow")[:]
        for column in columns:
            if column not in table.column_names:
                raise missing_column(where, column, table.column_names)
        yield RowBlock(
            {name: _values(table.column(name), split.features[name]) for name in columns},
            list(range(1, table.num_rows + 1)),
        )

    return read


def _values(column: pa.ChunkedArray, feature: Any) -> list[str | None]:
    names: Sequence[str] | None = getattr(feature, "names", None)
    if names is None:
        return as_texts(column)
    return [None if one is None or one < 0 else names[one] for one in column.to_pylist()]
