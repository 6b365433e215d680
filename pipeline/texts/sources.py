"""Where a corpus entry's rows come from: its files, or its splits on the hub."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import CorpusSource
from pipeline.errors import CorpusError
from pipeline.texts.formats import (
    RowBlock,
    as_text,
    as_texts,
    detect_format,
    file_stem,
    missing_column,
)
from pipeline.texts.rows import read_rows
from pipeline.texts.splits import SPLITS

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "development": "val",
    "test": "test",
    "testing": "test",
}
"""How splits are called in columns and on the hub -> our names."""


@dataclass(frozen=True)
class SourceFile:
    """One file (or hub split) of a source; ``where`` names it in messages, ``name`` in made ids."""

    source: CorpusSource
    where: str
    name: str
    split: str | None
    read: Callable[[Sequence[str]], Iterator[RowBlock]]


def source_files(sources: Sequence[CorpusSource]) -> list[SourceFile]:
    """The files of all entries, and the hub splits whose names are in ``SPLIT_NAMES``.

    Raises:
        CorpusError: a file is missing or its format cannot be told.
    """
    files: list[SourceFile] = []
    paths = [(source, *place) for source in sources for place in _paths(source)]
    names = short_names([path for _, path, _ in paths])
    for source, path, split in paths:
        format: str = source.format
        if format == "auto":
            format = detect_format(path)

        def read(
            columns: Sequence[str], path: Path = path, format: str = format
        ) -> Iterator[RowBlock]:
            return read_rows(path, columns, format=format)

        files.append(SourceFile(source, str(path), names[path], split, read))
    for source in sources:
        if source.hub is not None:
            for name, read_split in hub_splits(
                source.hub, config=source.hub_config, revision=source.revision
            ):
                if (split := SPLIT_NAMES.get(name)) is not None:
                    where = f"{source.hub} [{name}]"
                    files.append(
                        SourceFile(source, where, f"{source.hub}/{name}", split, read_split)
                    )
    return files


def _paths(source: CorpusSource) -> list[tuple[Path, str | None]]:
    """The files of a source with the splits that they give."""
    if source.path is None:
        given = [(source.train, "train"), (source.val, "val"), (source.test, "test")]
        return [(Path(path), split) for path, split in given if path is not None]
    path = Path(source.path)
    if not path.is_dir():
        return [(path, None)]
    layout = [(path / f"{split}_text.txt", split) for split in SPLITS]
    if not layout[0][0].exists():
        raise CorpusError(
            f"{path}: a folder needs the TweetEval layout, but has no train_text.txt; "
            "name a file, or one file each as train, val and test"
        )
    return [(file, split) for file, split in layout if file.exists()]


def short_names(paths: Sequence[Path]) -> dict[Path, str]:
    """The shortest names ``folder/stem`` (with as many folders as needed, at least one) that tell
    ``paths`` apart."""
    distinct = list(dict.fromkeys(paths))
    parts = {path: [*path.absolute().parts[1:-1], file_stem(path)] for path in distinct}
    depth = {path: 2 for path in distinct}
    while True:
        names = {path: "/".join(parts[path][-depth[path] :]) for path in distinct}
        counts = Counter(names.values())
        clashing = [path for path in distinct if counts[names[path]] > 1]
        deeper = [path for path in clashing if depth[path] < len(parts[path])]
        if not deeper:
            return {path: names[path] if path not in clashing else path.name for path in distinct}
        for path in deeper:
            depth[path] += 1


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
    if names is not None:
        return [None if one is None or one < 0 else names[one] for one in column.to_pylist()]
    names = getattr(getattr(feature, "feature", None), "names", None)  # of a list of classes
    if names is not None:
        lists = column.to_pylist()
        return [as_text(own and [names[one] for one in own]) for own in lists]
    return as_texts(column)
