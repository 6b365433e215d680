"""Objects of a bucket as paths, so that whoever reads files reads them too.

    path = as_path("s3://dumps/2026/11/01.jsonl.gz")   # an ObjectPath; of "a.csv" the plain Path
    path.open("rb"), path.name, path.parent, path.stat()
    path.pinned().open("rb")                           # the content that it has now, or an error
    objects_like(as_path("s3://dumps/2026/11/*.jsonl.gz"))

What stands before the last ``/`` of a key is a folder, which is there as long as an object is. The
state of an object (``stat``) says by its inode which content it has: the hash of its etag. An
object is seen only when it is whole, and never changed in place.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from enum import Enum
from fnmatch import translate
from glob import has_magic
from itertools import takewhile
from pathlib import Path, PosixPath
from typing import IO, Any, cast

from pipeline.errors import CorpusError
from pipeline.texts.readahead import ObjectFile, said_of
from store.disk import Meta, ObjectLocation, address_as_typed, is_url, locate

ANY_DEPTH = "**"
_ADDRESS = re.compile(r"\A([A-Za-z][A-Za-z0-9+.-]+:)/")
_OBJECT, _FOLDER = "object", "folder"
_UNLISTED = "https", "http"


class ObjectPath(PosixPath):
    """``s3://bucket/key`` as a path; it can be read and looked at, and no more."""

    _listed_as: str | None = None
    """What a listing has just said that it is, which spares a request."""
    _pinned: Meta | None = None
    """The state that it is read in, whatever it is by now."""

    def __str__(self) -> str:
        return _ADDRESS.sub(r"\1//", super().__str__())

    def __fspath__(self) -> str:
        return str(self)

    @property
    def key(self) -> str:
        """Of the object in its bucket."""
        return "/".join(self.parts[2:])

    @property
    def location(self) -> ObjectLocation:
        """The bucket.

        Raises:
            CorpusError: there is none in the path, or nothing that texts are read from.
        """
        root = "://".join((self.parts[0].rstrip(":"), *self.parts[1:2]))
        with said_of(str(self)):
            found = locate(root)
        if not isinstance(found, ObjectLocation):
            raise CorpusError(
                f"{self}: inputs are files of this machine or objects of s3://, gs://, az:// and"
                " https://; copy it here first"
            )
        return found

    def open(self, mode: str = "rb", *_: Any, **__: Any) -> IO[Any]:  # type: ignore[override]
        """The object for reading.

        Raises:
            FileNotFoundError: there is none.
            CorpusError: it cannot be read.
        """
        if mode != "rb":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        self._check_key()
        return cast(IO[bytes], ObjectFile(self.location, self.key, self._pinned))

    def pinned(self) -> ObjectPath:
        """The object as it is now: who opens this reads no other content, and asks for none.

        Raises:
            FileNotFoundError: there is none.
            CorpusError: it cannot be looked at.
        """
        found = type(self)(*self.parts)
        found._pinned = self._head()
        return found

    def read_bytes(self) -> bytes:
        """All of it."""
        with self.open() as file:
            return cast(bytes, file.read())

    def read_text(self, encoding: str | None = None, *_: Any, **__: Any) -> str:
        """All of it, decoded; line ends as in text files."""
        text = self.read_bytes().decode(encoding or "utf-8")
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def stat(self, **_: Any) -> os.stat_result:
        """Size and state; all but these, and the mode of a file, is 0."""
        return status(self._pinned or self._head())

    def exists(self, **_: Any) -> bool:
        """Whether it is an object or a folder."""
        return self.is_file() or self.is_dir()

    def is_file(self, **_: Any) -> bool:
        """Whether there is an object of this name."""
        if self._listed_as is not None:
            return self._listed_as == _OBJECT
        return bool(self.key) and _is_object(self)

    def is_dir(self, **_: Any) -> bool:
        """Whether there are objects below."""
        if self._listed_as is not None:
            return self._listed_as == _FOLDER
        if len(self.parts) < 2 or self.parts[0].rstrip(":") in _UNLISTED:
            return False
        return next(self.below(), None) is not None

    def is_symlink(self) -> bool:
        """Never."""
        return False

    def absolute(self) -> ObjectPath:
        """Itself."""
        return self

    def resolve(self, strict: bool = False) -> ObjectPath:
        """Itself."""
        return self

    def expanduser(self) -> ObjectPath:
        """Itself."""
        return self

    def iterdir(self) -> Iterator[ObjectPath]:  # type: ignore[override]
        """Files and folders in a folder, in order."""
        depth, last = len(self.parts), ""
        for below in without_markers(self.below()):
            if (name := below.parts[depth]) != last:
                found, last = self / name, name
                found._listed_as = _OBJECT if len(below.parts) == depth + 1 else _FOLDER
                yield found

    def below(self, *, after: str | None = None) -> Iterator[tuple[ObjectPath, Meta]]:
        """All objects of a folder, at any depth, in the order of their keys.

        Args:
            after: a key; those up to it are left out.
        """
        folder, location = self.key, self.location
        if self.parts[0].rstrip(":") in _UNLISTED:
            raise CorpusError(f"{self}: https:// does not say what there is; name each file")
        root = type(self)(*self.parts[:2])
        listing = location.list(folder, after=after)
        while True:
            with said_of(str(self)):
                meta = next(listing, None)
            if meta is None:
                return
            if meta.path != folder:  # what a console puts there for the folder itself
                found = root / meta.path
                found._listed_as = _OBJECT
                yield found, meta

    def _head(self) -> Meta:
        self._check_key()
        with said_of(str(self)):
            return self.location.head(self.key)

    def _check_key(self) -> None:
        if not self.key:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self))


def as_path(path: str | Path) -> Path:
    """A path of this machine, or of a bucket where it is an address, be it one that has become the
    path ``s3:/bucket/key``.

    Raises:
        CorpusError: it has a query, which may be a secret.
    """
    if isinstance(path, ObjectPath):
        return path
    typed = address_as_typed(path)
    if "?" in typed and typed.partition("://")[0] in _UNLISTED:
        raise CorpusError(
            f"{typed.partition('?')[0]}: addresses with a query, such as presigned ones, are not"
            " read; download it, or give it as s3://, gs:// or az:// with credentials"
        )
    if is_url(typed):
        return ObjectPath(typed)
    return Path(typed.partition("://")[2] if typed != str(path) or "://" in typed else path)


def without_markers(found: Iterable[tuple[ObjectPath, Meta]]) -> list[ObjectPath]:
    """The objects but for empty ones with the name of a folder, which some programs put there.

    Where nothing lies below, such a name ends with a ``/`` that listings leave out: no object has
    the name that they give.
    """
    every = [(path, meta.size) for path, meta in found]
    folders = {path.parent for path, _ in every}
    folders |= {above for folder in folders for above in folder.parents}
    return [path for path, size in every if size or (path not in folders and _is_object(path))]


def _is_object(path: ObjectPath) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def status(meta: Meta) -> os.stat_result:
    """What is known of an object, as of a file; without an etag its time tells its states apart."""
    state = hashlib.sha256(f"{meta.etag} {meta.version} {meta.modified}".encode()).digest()
    changed_ns = 0 if meta.etag else int(meta.modified * 1e9)
    mode = stat.S_IFREG | stat.S_IRUSR
    whole = (mode, int.from_bytes(state[:8], "big"), 0, 1, 0, 0, meta.size, 0, 0, 0)
    times = {"st_mtime_ns": changed_ns, "st_ctime_ns": changed_ns}
    return os.stat_result(whole, times)


def fixed_folder(pattern: Path) -> ObjectPath:
    """The folder of a pattern: all before the first part with a sign of one."""
    assert isinstance(pattern, ObjectPath)
    return type(pattern)(*takewhile(lambda part: not has_magic(part), pattern.parts))


class Fit(Enum):
    """What of an object a pattern fits: the whole name, or that of a folder around it."""

    NAME, FOLDER = "name", "folder"


def objects_like(pattern: Path) -> Iterator[tuple[ObjectPath, Meta, Fit | None]]:
    """Objects that a pattern may fit, in the order of their keys, and how it fits them.

    ``*``, ``?`` and ``[…]`` are of one name and fit no hidden one, ``**`` is any number of folders,
    as for files of a disk.

    Returns:
        The objects that are looked at, for what lies beside it says what a folder is.
    """
    folder = fixed_folder(pattern)
    parts = pattern.parts[len(folder.parts) :]
    fits = [_fit(part) for part in parts]
    begins = "".join(takewhile(lambda sign: sign not in "*?[", parts[0]))
    prefix = f"{folder.key}/{begins}".lstrip("/")
    # Names before those that begin as asked are not even listed.
    after = prefix[:-1] if begins.strip(".")[1:] else None
    for path, meta in folder.below(after=after):
        if not meta.path.startswith(prefix):
            if meta.path > prefix:
                return
            continue
        names = path.parts[len(folder.parts) :]
        if _match(names, fits):
            yield path, meta, Fit.NAME
        elif ANY_DEPTH not in parts and _match(names[: len(parts)], fits):
            yield path, meta, Fit.FOLDER
        else:
            yield path, meta, None


def _fit(part: str) -> re.Pattern[str] | None:
    """What a part of a pattern fits; None of ``**``."""
    if part == ANY_DEPTH:
        return None
    hidden = "" if part.startswith(".") else r"(?!\.)"
    return re.compile(hidden + translate(part))


def _match(names: tuple[str, ...], fits: list[re.Pattern[str] | None]) -> bool:
    """Whether names fit parts of a pattern, each its own."""
    if not fits:
        return not names
    first, rest = fits[0], fits[1:]
    if first is not None:
        return bool(names) and first.match(names[0]) is not None and _match(names[1:], rest)
    if not rest:  # as the last it stands for files too
        return all(not name.startswith(".") for name in names)
    return any(
        _match(names[number:], rest)
        for number in range(len(names))
        if all(not name.startswith(".") for name in names[:number])
    )
