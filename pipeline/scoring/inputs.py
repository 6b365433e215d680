"""Which files are meant, and whether they can be read as asked: before a model loads.

    paths = find_inputs([Path("dumps"), Path("new.csv")], say=say)
    check_inputs(paths, options, filters)

A folder stands for all files in it and below, in the order of their names. Left out, and said, is
what no archive of dumps means: hidden and unfinished files, notes and checksums, and folders that
Salient itself writes, whose tables of scores are no texts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.errors import ConfigError, CorpusError, DumpError, listed
from pipeline.progress import Say, counted, silent
from pipeline.scoring.ledger import LEDGER
from pipeline.scoring.place import SCORE_CARD, WrongPlace
from pipeline.texts import (
    TWEETS,
    Filters,
    InputOptions,
    MissingColumn,
    check_input,
    detect,
    is_visible,
    settled,
    split_place,
)
from store.disk import address_as_typed, address_kind

_OURS = {
    SCORE_CARD: "scores",
    LEDGER: "scores",
    "zarr.json": "a store",
    "run.json": "a run",
    "head.json": "a head",
}
"""A file -> what a folder is that holds it."""
_UNFINISHED = re.compile(r".*(~|\.(tmp|temp|part|partial|filepart|crdownload|download|swp))", re.I)
_NO_DATA = re.compile(
    r"(readme|licen[cs]e|(md5|sha\d+)sums?|checksums?|manifest)(\.\w+)?"
    r"|.*\.(md|md5|sha\d+|asc|sig|log|pdf|html?|png|jpe?g|py|toml|ya?ml)",
    re.I,
)


def find_inputs(given: Sequence[Path], *, say: Say = silent) -> list[Path]:
    """The files that are meant, in the given order; a folder stands for all that are in it.

    Args:
        given: files, files in zip archives, or folders.
        say: told of every folder, how many files it holds and what is left out.

    Raises:
        ConfigError: nothing is there, a folder without files or one of Salient's own, or an address
            such as ``s3://bucket/x``.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            found += _files_in(path, say)
        elif split_place(path)[0].is_file():
            found.append(path)
        elif address_kind(path) is not None:
            raise ConfigError(
                f"{address_as_typed(path)}: inputs are files of this machine; copy it here first"
            )
        elif any(sign in path.name for sign in "*?["):
            raise ConfigError(f"{path}: no such input file; no name matches the pattern")
        else:
            raise ConfigError(f"{path}: no such input file")
    return found


def check_apart(given: Sequence[Path], target: Path) -> None:
    """Refuse to write scores among the dumps, where the next run would take them for its own.

    Args:
        given: files and folders, as for :func:`find_inputs`.
        target: the folder of scores; it may lie in a folder of dumps, not around it.

    Raises:
        WrongPlace: it is one of these folders, or holds one.
    """
    for folder in given:
        if folder.is_dir() and folder.resolve().is_relative_to(target.resolve()):
            raise WrongPlace(
                f"{target}: {'is' if target.resolve() == folder.resolve() else 'holds'} the folder"
                f" of files to score{'' if target == folder else f' {folder}'}; give scores one of"
                f" their own, as {folder / 'scores'}"
            )


def _files_in(folder: Path, say: Say) -> list[Path]:
    """The files of an archive of dumps."""
    within = any((above / SCORE_CARD).is_file() for above in folder.resolve().parents)
    if (what := _own(folder) or ("scores" if within else None)) is not None:
        raise ConfigError(f"{folder}: holds {what}, no texts to score; name a folder of dumps")
    files, left_out = list[Path](), list[str]()
    for path, is_meant in _walk(folder, {os.path.realpath(folder)}):
        if is_meant:
            files.append(path)
        else:
            left_out.append(str(path.relative_to(folder)))
    rest = f"; left out: {listed(left_out)}" if left_out else ""
    if not files:
        raise ConfigError(f"{folder}: holds no files to score{rest}")
    say(f"{folder}: {counted(len(files), 'file')}, in the order of their names{rest}")
    return files


def _own(folder: Path) -> str | None:
    """What a folder is that Salient has written; None of any other."""
    return next((what for sign, what in _OURS.items() if (folder / sign).is_file()), None)


def _walk(folder: Path, entered: set[str]) -> Iterator[tuple[Path, bool]]:
    """Files in a folder and below, and whether they are meant; folders that are not.

    Names are in order, the files of a folder before those of its folders; a folder is entered once,
    so links in a circle end.
    """
    folders = []
    for name in sorted(os.listdir(folder), key=os.fsencode):
        path = folder / name
        if path.is_dir():
            folders.append(path)
        elif path.is_file():
            yield path, is_visible(path) and not _is_no_data(name)
        else:  # a link to nowhere, a pipe
            yield path, False
    for path in folders:
        real = os.path.realpath(path)
        if not is_visible(path) or real in entered or _own(path) is not None:
            yield path, False
        else:
            entered.add(real)
            yield from _walk(path, entered)


def _is_no_data(name: str) -> bool:
    return bool(_UNFINISHED.fullmatch(name) or _NO_DATA.fullmatch(name))


def check_inputs(paths: Sequence[Path], options: InputOptions, filters: Filters) -> None:
    """Refuse files none of which can be read as asked; where one can, the others are reported.

    Args:
        paths: from :func:`find_inputs`.
        options: how they are read.
        filters: what is to be known of their rows.

    Raises:
        ConfigError: why the first of them cannot be read, or lacks what the filters ask for.
    """
    first: Exception | None = None
    for path in paths:
        try:
            _check(path, options, filters)
            return
        except (CorpusError, DumpError, ConfigError) as error:
            first = first or error
    if first is not None:
        more = f" (and {counted(len(paths) - 1, 'more file')})" if len(paths) > 1 else ""
        raise ConfigError(f"{first}{more}")


def _check(path: Path, options: InputOptions, filters: Filters) -> None:
    kind = detect(path, options)
    own = settled(path, kind, options)
    wanted = {
        "lang": bool(filters.languages),
        "time": (filters.since, filters.until) != (None, None),
    }
    # A column that a filter goes by must be there, be it one of the usual names.
    needed = {
        name: options.usual[name][0]
        for name, is_wanted in wanted.items()
        if is_wanted and kind != TWEETS and own.read[name] is None
    }
    try:
        check_input(path, kind, replace(own, **needed))  # type: ignore[arg-type]
    except MissingColumn as error:
        if (name := next((n for n in needed if needed[n] == error.column), None)) is not None:
            raise ConfigError(
                f"{error}; without it every row would be left out, its {_WORDS[name]} unknown: name"
                f" the column with {_NAMED_BY[name]}, or do not ask for a {_WORDS[name]}"
            ) from None
        if error.column == own.text and options.text is None:
            raise ConfigError(f"{error}; name the column of the text with --text") from None
        raise


_WORDS = {"lang": "language", "time": "time"}
_NAMED_BY = {"lang": "--lang-column", "time": "--time"}
