"""Where a corpus entry's rows come from: its files, or its splits on the hub."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import CorpusSource
from pipeline.errors import CorpusError, listed, missing
from pipeline.progress import counted
from pipeline.texts.blocks import Layout, RowBlock, as_text, as_texts, missing_column
from pipeline.texts.formats import FOLDERS, detect_format, file_stem
from pipeline.texts.objects import Fit, ObjectPath, as_path, objects_like, without_markers
from pipeline.texts.published import TEXTS_ENDING, is_visible
from pipeline.texts.rows import check_encoding, read_rows
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
_NUMBERED = re.compile(r"(\d+)[\s:,]+(\S.*)")


@dataclass(frozen=True)
class SourceFile:
    """One file (or hub split) of a source.

    Attributes:
        source: its corpus entry.
        where: names it in messages.
        whole: the same for all parts of one table.
        name: in ids that are made.
        split: that it gives, if any.
        read: its rows, of some columns.
    """

    source: CorpusSource
    where: str
    whole: str
    name: str
    split: str | None
    read: Callable[[Sequence[str]], Iterator[RowBlock]]


@dataclass(frozen=True)
class _Place:
    """A file of a source, and the path that names it, alone or as one of several."""

    source: CorpusSource
    given: str
    path: Path
    split: str | None


def source_files(
    sources: Sequence[CorpusSource], *, notes: list[str] | None = None
) -> list[SourceFile]:
    """The files of all entries, and the hub splits whose names are in ``SPLIT_NAMES``.

    Args:
        sources: the corpus entries.
        notes: takes a line for each folder or pattern: how many files, which were left out.

    Raises:
        CorpusError: a file is missing, its format cannot be told, or the parts of one table have
            different ones.
    """
    said: list[str] = [] if notes is None else notes
    files: list[SourceFile] = []
    places = [place for source in sources for place in _places(source, said)]
    names = short_names([place.path for place in places])
    formats: dict[str, tuple[Path, str]] = {}
    for place in places:
        source, path = place.source, place.path
        layout = Layout(source.encoding, source.columns, source.delimiter)
        format: str = source.format
        if format == "auto":
            format = detect_format(path, layout=layout)
        first, known = formats.setdefault(place.given, (path, format))
        if format != known:
            raise CorpusError(
                f"{place.given}: {first.name} is {known}, {path.name} is {format}; the parts of one"
                " table have one format: name them by a pattern, as in folder/*.csv"
            )
        check_encoding(path, layout.encoding, format)

        def read(
            columns: Sequence[str], path: Path = path, format: str = format, layout: Layout = layout
        ) -> Iterator[RowBlock]:
            return read_rows(path, columns, format=format, layout=layout)

        files.append(SourceFile(source, str(path), place.given, names[path], place.split, read))
    for source in sources:
        if source.hub is not None:
            for name, read_split in hub_splits(
                source.hub, config=source.hub_config, revision=source.revision
            ):
                if (split := SPLIT_NAMES.get(name)) is not None:
                    where, own = f"{source.hub} [{name}]", f"{source.hub}/{name}"
                    files.append(SourceFile(source, where, where, own, split, read_split))
    return files


def _places(source: CorpusSource, notes: list[str]) -> list[_Place]:
    """The files of a source with the splits that they give."""
    given = [
        (source.path, None),
        (source.train, "train"),
        (source.val, "val"),
        (source.test, "test"),
    ]
    places: list[_Place] = []
    for path, split in given:
        if path is None:
            continue
        folder = as_path(path)
        layout = {one: folder / f"{one}{TEXTS_ENDING}" for one in SPLITS}
        if split is None and layout["train"].exists():
            places += [
                _Place(source, str(file), file, one)
                for one, file in layout.items()
                if file.exists()
            ]
        elif source.format == FOLDERS or not (folder.is_dir() or _is_pattern(folder)):
            places.append(_Place(source, path, folder, split))
        else:
            places += [_Place(source, path, file, split) for file in _parts(folder, notes)]
    return places


def _is_pattern(path: Path) -> bool:
    return any(sign in str(path) for sign in "*?[") and not path.exists()


def _parts(given: Path, notes: list[str]) -> list[Path]:
    """The files of a folder or pattern that are parts of its table, in the order of their names.

    Raises:
        CorpusError: there is none.
    """
    every, files = _found(given)
    files = [path for path in files if is_visible(path)]
    if not files:
        folders = [path.name for path in every if path.is_dir() and is_visible(path)]
        if not given.is_dir():
            raise CorpusError(f"{given}: no file has such a name; check the pattern")
        if not folders:
            raise CorpusError(f"{given}: the folder holds no files; check the path")
        raise CorpusError(
            f"{given}: the folder holds no files, but the folders {listed(folders)}; if these are"
            ' classes, set format = "folders" and labels = { TASK = "folder" }, else name the files'
            ' by a pattern, as in "folder/*/*.csv"'
        )
    left_out = [path.name for path in every if path not in set(files)]
    rest = f"; left out: {listed(left_out)}" if left_out else ""
    notes.append(f"{given}: {counted(len(files), 'file')}, in the order of their names{rest}")
    return files


def _found(given: Path) -> tuple[list[Path], list[Path]]:
    """What is in a folder, or fits a pattern, in order; the files among it."""
    if not isinstance(given, ObjectPath):
        found = given.iterdir() if given.is_dir() else map(Path, glob(str(given), recursive=True))
        every = sorted(found)
        return every, [path for path in every if path.is_file()]
    if has_magic(str(given)):
        fitting = [(path, meta) for path, meta, fit in objects_like(given) if fit is Fit.NAME]
        files: list[Path] = [*without_markers(fitting)]
        return files, files
    below, depth = without_markers(given.below()), len(given.parts) + 1
    folders = {type(path)(*path.parts[:depth]) for path in below}
    files = [path for path in below if len(path.parts) == depth]
    return sorted({*folders, *files}), files


def label_names(source: CorpusSource, task: str) -> dict[str, str] | None:
    """What stands in a source's label cells -> the label that it means; None: they are names.

    Raises:
        CorpusError: the file of names cannot be read, or has no names.
    """
    given = source.label_names.get(task)
    if given is None or isinstance(given, dict):
        return given or None
    path = as_path(given)
    columns = ("text",)
    names = [
        (line, name.strip())
        for block in read_rows(path, columns, format="text", layout=Layout(source.encoding))
        for line, name in zip(block.lines, block.columns["text"], strict=True)
        if name is not None and name.strip()
    ]
    pairs = [_NUMBERED.fullmatch(name) for _, name in names]
    if all(pairs):
        found = {pair.group(1): pair.group(2) for pair in pairs if pair}
    else:
        found = {str(line - 1): name for line, name in names}
    if len(set(found.values())) != len(names):
        raise CorpusError(f"{path}: needs a name in each line, each another one")
    return found


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
        raise missing("datasets", f"{name}: reading a hub data set") from None
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
