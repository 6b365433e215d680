"""Which files are meant, and whether they can be read as asked: before a model loads.

    paths = find_inputs([Path("dumps"), Path("new.csv"), Path("old/*.gz")], say=say)
    check_inputs(paths, options, filters)

A folder stands for all files in it and below, a pattern for all files that it fits, in the order of
their names. Left out, and said, is what no archive of dumps means: hidden and unfinished files,
notes and checksums, and folders that Salient itself writes, whose tables of scores are no texts.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.errors import ConfigError, CorpusError, DumpError, listed
from pipeline.progress import Say, counted, silent
from pipeline.scoring.ledger import LEDGER
from pipeline.scoring.place import SCORE_CARD, WrongPlace
from pipeline.texts import (
    TWEETS,
    Filters,
    Fit,
    InputOptions,
    MissingColumn,
    ObjectPath,
    as_path,
    check_input,
    detect,
    fixed_folder,
    is_no_data,
    is_visible,
    objects_like,
    settled,
    split_place,
    without_markers,
)
from store.errors import TryAgain

_OURS = {
    SCORE_CARD: "scores",
    LEDGER: "scores",
    "zarr.json": "a store",
    "run.json": "a run",
    "head.json": "a head",
}
"""A file -> what a folder is that holds it."""
STORE_FOLDER = ".salient"
_SIGNS = {**_OURS, STORE_FOLDER: "a store"}
"""The same in a bucket, where a store has no file of its own."""
NO_NAMES: Mapping[Path, str] = {}
_UNFINISHED = re.compile(r".*(~|\.(tmp|temp|part|partial|filepart|crdownload|download|swp))", re.I)


def find_inputs(given: Sequence[Path], *, say: Say = silent) -> list[Path]:
    """The files that are meant, in the given order; a folder stands for all that are in it.

    Args:
        given: files, files in zip archives, folders, or patterns (``*``, ``?``, ``[…]``, ``**``
            for folders in any depth), here or in a bucket (``s3://dumps/2026/*.jsonl.gz``). What
            is there by that very name is no pattern.
        say: told of every folder and pattern, how many files that is and what is left out.

    Raises:
        ConfigError: nothing is there, a folder without files or one of Salient's own, or a pattern
            that fits no file.
        CorpusError: a bucket that cannot be looked at, or does not answer.
    """
    found: list[Path] = []
    for path in map(as_path, given):
        if isinstance(path, ObjectPath) and split_place(path)[0].is_file():
            found.append(path)  # what begins with its name and a slash is no part of it
        elif path.is_dir():
            found += _files_in(path, say)
        elif split_place(path)[0].is_file():
            found.append(path)
        elif glob.has_magic(str(path)):
            found += _files_like(path, say)
        else:
            raise ConfigError(f"{path}: no such input file")
    return found


def check_apart(given: Sequence[Path], target: Path | str) -> None:
    """Refuse to write scores among the dumps, where the next run would take them for its own.

    Args:
        given: files and folders, as for :func:`find_inputs`.
        target: the folder of scores; it may lie in a folder of dumps, not around it.

    Raises:
        WrongPlace: it is one of these folders, or holds one.
    """
    target = as_path(target)
    for folder in map(as_path, given):
        if type(folder) is not type(target):
            continue
        if folder.is_dir() and folder.resolve().is_relative_to(target.resolve()):
            raise WrongPlace(
                f"{target}: {'is' if target.resolve() == folder.resolve() else 'holds'} the folder"
                f" of files to score{'' if target == folder else f' {folder}'}; give scores one of"
                f" their own, as {folder / 'scores'}"
            )


def check_folder(folder: Path) -> None:
    """Refuse what is no folder of files to score.

    Raises:
        ConfigError: no such folder, or one that Salient has written.
    """
    folder = as_path(folder)
    if not folder.is_dir():
        what = "is a file; name it as an INPUT" if folder.exists() else "no such folder"
        raise ConfigError(f"{folder}: {what}")
    within = any((above / SCORE_CARD).is_file() for above in folder.resolve().parents)
    if (what := _own(folder) or ("scores" if within else "")) != "":
        raise ConfigError(f"{folder}: holds {what}, no texts to score; name a folder of dumps")


def _files_in(folder: Path, say: Say) -> list[Path]:
    """The files of an archive of dumps."""
    check_folder(folder)
    files, left_out = list[Path](), list[str]()
    for path, is_meant in walk_files(folder, say=say):
        if is_meant:
            files.append(path)
        else:
            left_out.append(str(path.relative_to(folder)))
    rest = f"; left out: {listed(left_out)}" if left_out else ""
    if not files:
        raise ConfigError(f"{folder}: holds no files to score{rest}")
    say(f"{folder}: {counted(len(files), 'file')}, in the order of their names{rest}")
    return files


def _files_like(pattern: Path, say: Say) -> list[Path]:
    """The files that a pattern fits, and those of the folders that it fits."""
    if isinstance(pattern, ObjectPath):
        return _said_files(pattern, *_objects_like(pattern), say)
    files, left_out, own = dict[Path, None](), list[str](), dict[Path, bool]()
    names = glob.glob(os.path.expanduser(pattern), recursive=True)
    for path in map(Path, sorted(names, key=os.fsencode)):
        if path.is_dir():
            # Of ``**`` the files below are named themselves.
            if "**" not in pattern.parts and _is_open(path, say) and _own(path) is None:
                below = walk_files(path, say=say)
                files |= dict.fromkeys(one for one, is_meant in below if is_meant)
        elif not path.is_file() or not _fits(path, pattern, own):
            left_out.append(str(path))
        else:
            files[path] = None
    return _said_files(pattern, list(files), left_out, say)


def _objects_like(pattern: ObjectPath) -> tuple[list[Path], list[str]]:
    """The same in a bucket, and what is left out; whose the folders are, the listing says."""
    fixed, own = fixed_folder(pattern), set[Path]()
    depth, listing = len(fixed.parts), list(objects_like(pattern))
    for path, _, _ in listing:
        own |= {
            type(path)(*path.parts[:place])
            for place, name in enumerate(path.parts)
            if place > depth and name in _SIGNS
        }
    fits = {path: fit for path, _, fit in listing if fit is not None}
    files_alone = without_markers((path, meta) for path, meta, _ in listing)
    named = {
        path: path if fits[path] is Fit.NAME else type(path)(*path.parts[: len(pattern.parts)])
        for path in files_alone
        if path in fits
    }
    found = sorted(named.items(), key=lambda one: (str(one[1]), _in_folder(one[0])))
    if found:
        around = (fixed, *fixed.parents)
        own |= {above for above in around if (above / SCORE_CARD).is_file()}
    files, left_out = list[Path](), list[str]()
    for path, as_named in found:
        if path == as_named:
            is_meant = _is_asked(path, pattern)
        else:
            within = [one for one in path.parents if len(one.parts) > len(as_named.parts)]
            is_meant = is_data(path) and all(map(is_visible, within))
        if is_meant and own.isdisjoint(path.parents):
            files.append(path)
        elif path == as_named:
            left_out.append(str(path))
    return files, left_out


def _in_folder(path: Path) -> list[tuple[bool, str]]:
    """Sorts files before the folders beside them, each by their names."""
    return [*((True, name) for name in path.parts[:-1]), (False, path.name)]


def _said_files(pattern: Path, files: list[Path], left_out: list[str], say: Say) -> list[Path]:
    """The files that a pattern fits, told to who asked.

    Raises:
        ConfigError: there are none.
    """
    rest = f"; left out: {listed(left_out)}" if left_out else ""
    if not files:
        what = (
            "fits no file to score"
            if left_out
            else "no such input file; no name matches the pattern"
        )
        raise ConfigError(f"{pattern}: {what}{rest}")
    say(f"{pattern}: {counted(len(files), 'file')}, in the order of their names{rest}")
    return files


def _fits(path: Path, pattern: Path, own: dict[Path, bool]) -> bool:
    """Whether a file that a pattern fits is one that is meant: a note is, if the pattern ends as
    it does; ``own`` remembers which folders are Salient's."""
    for above in path.parents:
        if above not in own:
            fixed = not glob.has_magic(str(above)) and above in pattern.parents
            signs = {SCORE_CARD: "scores"} if fixed else _OURS
            own[above] = any((above / sign).is_file() for sign in signs)
    return not any(own[above] for above in path.parents) and _is_asked(path, pattern)


def _is_asked(path: Path, pattern: Path) -> bool:
    """The same by its name alone."""
    asked = bool(path.suffix) and path.suffix == pattern.suffix
    is_seen = is_visible(path) or path.name[0] == pattern.name[0]
    return is_seen and not _UNFINISHED.fullmatch(path.name) and (asked or not is_no_data(path.name))


def _own(folder: Path) -> str | None:
    """What a folder is that Salient has written; None of any other."""
    if isinstance(folder, ObjectPath) and (folder / STORE_FOLDER).is_dir():
        return _SIGNS[STORE_FOLDER]
    return next((what for sign, what in _OURS.items() if (folder / sign).is_file()), None)


def walk_files(folder: Path, *, say: Say = silent) -> Iterator[tuple[Path, bool]]:
    """Files in a folder and below, and whether they are meant; folders that are not.

    Args:
        folder: where to look.
        say: told of folders below that this user may not look into; they are left out.

    Raises:
        OSError: the folder cannot be listed, or one below for another reason.
    """
    if isinstance(folder, ObjectPath):
        return walk_objects(folder, without_markers(folder.below()))
    return _walk(folder, {os.path.realpath(folder)}, say)


def walk_objects(folder: Path, found: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """The same of a bucket, of the objects that are known to be below a folder, in order."""
    return _walk_objects(folder, [path.parts[len(folder.parts) :] for path in found])


def _walk_objects(folder: Path, below: Sequence[tuple[str, ...]]) -> Iterator[tuple[Path, bool]]:
    """The same, by the names between the folder and each object."""
    folders: dict[str, list[tuple[str, ...]]] = {}
    for names in below:
        if len(names) == 1:
            yield folder / names[0], is_data(folder / names[0])
        else:
            folders.setdefault(names[0], []).append(names[1:])
    for name, inside in sorted(folders.items()):
        path = folder / name
        if is_visible(path) and not any(names[0] in _SIGNS for names in inside):
            yield from _walk_objects(path, inside)
        else:
            yield path, False


def _walk(folder: Path, entered: set[str], say: Say) -> Iterator[tuple[Path, bool]]:
    """The same, but for folders that have been entered.

    Names are in order, the files of a folder before those of its folders; a folder is entered once,
    so links in a circle end.
    """
    folders = []
    for name in sorted(os.listdir(folder), key=os.fsencode):
        path = folder / name
        if path.is_dir():
            folders.append(path)
        elif path.is_file():
            yield path, is_data(path)
        else:  # a link to nowhere, a pipe
            yield path, False
    for path in folders:
        real = os.path.realpath(path)
        is_meant = is_visible(path) and real not in entered and _is_open(path, say)
        if not is_meant or _own(path) is not None:
            yield path, False
        else:
            entered.add(real)
            yield from _walk(path, entered, say)


def _is_open(folder: Path, say: Say) -> bool:
    """Whether this user may look into a folder; into a disk's ``lost+found`` few may."""
    if os.access(folder, os.R_OK | os.X_OK):
        return True
    say(f"{folder}: left out, this user may not look into it")
    return False


def is_data(path: Path) -> bool:
    """Whether a file is meant by its folder: neither hidden nor unfinished, no note and no sum."""
    return is_visible(path) and not _UNFINISHED.fullmatch(path.name) and not is_no_data(path.name)


def check_inputs(
    paths: Sequence[Path],
    options: InputOptions,
    filters: Filters,
    *,
    names: Mapping[Path, str] = NO_NAMES,
) -> None:
    """Refuse files none of which can be read as asked; where one can, the others are reported.

    Args:
        paths: from :func:`find_inputs`.
        options: how they are read.
        filters: what is to be known of their rows.
        names: paths -> what the user calls them, where that is something else.

    Raises:
        ConfigError: why the first of them cannot be read, or lacks what the filters ask for.
        TryAgain: one of them cannot be reached now, and none before it can be read.
    """
    first: str | None = None
    for path in paths:
        try:
            _check(path, options, filters)
            return
        except (CorpusError, DumpError, ConfigError) as error:
            if isinstance(error, TryAgain):
                raise
            first = first or said_by_name(error, path, names)
    if first is not None:
        more = f" (and {counted(len(paths) - 1, 'more file')})" if len(paths) > 1 else ""
        raise ConfigError(f"{first}{more}")


def said_by_name(error: Exception, path: Path, names: Mapping[Path, str]) -> str:
    """What an error says of a file, by the name that the user knows."""
    return str(error).replace(str(path), names[path]) if path in names else str(error)


def _check(path: Path, options: InputOptions, filters: Filters) -> None:
    kind = detect(path, options)
    own = settled(path, kind, options)
    wanted = {
        "lang": bool(filters.languages) and not options.detect_language,
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
_NAMED_BY = {
    "lang": "--lang-column, let it be detected with --detect-language (extra: languages)",
    "time": "--time",
}
