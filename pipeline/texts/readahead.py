"""An object of a bucket as a binary file: ranges are fetched ahead of who reads.

    with ObjectFile(locate("s3://dumps"), "2026/11/01.jsonl.gz") as file:
        file.read(1 << 16)
        file.seek(-8, os.SEEK_END)       # for those who must: zip, Parquet

Threads fetch up to ``AHEAD`` pieces beyond the one that is read, so that unpacking does not wait
for the network; memory is bounded by their size, ``PIECE_BYTES``. Whoever only looks at a beginning
has only that fetched: pieces grow, and so does their number, while a file is read without a leap.

A request that fails is made again from the byte that was reached. All requests ask for the very
object that was opened, by its etag: of one that is replaced meanwhile no byte is taken. How the
objects that were read last begin is remembered, for a small one is looked at several times.
"""

from __future__ import annotations

import errno
import io
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from pipeline.errors import CorpusError
from store.disk import Meta, ObjectChanged
from store.errors import StoreError, TryAgain

FIRST_BYTES, PIECE_BYTES = 1 << 18, 1 << 22
AHEAD = 4
NUM_BEGINS = 8
DELAYS_S = (1.0, 5.0)
"""Pauses before a request is made again that the location itself has tried in vain; they begin anew
whenever a byte has come."""


class InputChanged(CorpusError):
    """An input is another object than the one that was begun to be read."""


class InputUnreached(TryAgain, CorpusError):
    """The server of an input does not answer now."""


class Ranges(Protocol):
    """What is needed of a location."""

    address: str

    def head(self, path: str) -> Meta:
        """What is known of an object; FileNotFoundError if there is none."""

    def read_range(self, path: str, start: int, stop: int, *, etag: str | None = None) -> bytes:
        """Bytes of an object; ObjectChanged if it has another etag."""


class _Begins:
    """How the objects begin that were read last: name and state -> bytes."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[str, Meta], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, Meta]) -> bytes | None:
        """What is known; None if nothing is."""
        with self._lock:
            return self._found.get(key)

    def keep(self, key: tuple[str, Meta], begin: bytes) -> bytes:
        """Remember, in place of the oldest."""
        with self._lock:
            self._found[key] = begin
            self._found.move_to_end(key)
            while len(self._found) > NUM_BEGINS:
                self._found.popitem(last=False)
        return begin


_begins = _Begins()


class _Piece(NamedTuple):
    start: int
    stop: int
    data: Future[bytes]


class ObjectFile(io.BufferedIOBase):
    """A seekable file for reading, of an object as it is when it is opened.

    Args:
        location: where it is.
        path: of the object in it.
        meta: what is known of it; it is read as that says, or not at all. Default: it is asked for.
        delays_s: see ``DELAYS_S``.

    Raises:
        FileNotFoundError: there is none.
        InputUnreached: the server does not answer now.
        CorpusError: it may not be read.
    """

    def __init__(
        self,
        location: Ranges,
        path: str,
        meta: Meta | None = None,
        *,
        delays_s: tuple[float, ...] = DELAYS_S,
    ) -> None:
        self._location, self._path = location, path
        self.name = f"{location.address}/{path}"
        self._delays_s = delays_s
        with said_of(self.name):
            self.meta = location.head(path) if meta is None else meta
        self.size = self.meta.size
        self._at = 0
        self._pieces: deque[_Piece] = deque()
        self._next = 0  # where the piece begins that is asked for next
        self._length, self._run = FIRST_BYTES, 0
        self._closing = threading.Event()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; nothing is fetched."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        if origin + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self.name)
        self._at = origin + offset
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """So many bytes, fewer only at the end; by default all that are left."""
        if self.closed:
            raise ValueError("read of closed file")
        everything = size is None or size < 0
        end = self.size if everything else min(self._at + (size or 0), self.size)
        parts: list[bytes] = []
        while self._at < end:
            piece = self._piece(end)
            parts.append(piece.data.result()[self._at - piece.start : end - piece.start])
            self._at += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read1(self, size: int = -1, /) -> bytes:
        """Like :meth:`read`."""
        return self.read(size)

    def close(self) -> None:
        """Fetch no more."""
        if not self.closed:
            self._closing.set()
            self._pieces.clear()
        super().close()

    def _piece(self, end: int) -> _Piece:
        """The piece that holds the next byte; those behind it are on their way."""
        while self._pieces and self._pieces[0].stop <= self._at:
            self._pieces.popleft()
            self._run += 1
        first = self._pieces[0].start if self._pieces else self._next
        if self._at < first or (not self._pieces and self._at > first):
            self._leap()
        while len(self._pieces) <= self._wanted(end) and self._next < self.size:
            length = PIECE_BYTES if end - self._next > PIECE_BYTES else self._length
            stop = min(self._next + length, self.size)
            self._pieces.append(_Piece(self._next, stop, self._asked(self._next, stop)))
            self._next, self._length = stop, min(2 * self._length, PIECE_BYTES)
        return self._pieces[0]

    def _wanted(self, end: int) -> int:
        """How many pieces to ask for beyond the first: all that a read needs, or some on trust."""
        return AHEAD if self._next < end else min(self._run, AHEAD)

    def _leap(self) -> None:
        """Begin anew where the next byte is."""
        self._pieces.clear()
        self._next, self._length, self._run = self._at, FIRST_BYTES, 0

    def _asked(self, start: int, stop: int) -> Future[bytes]:
        found: Future[bytes] = Future()

        def fetch() -> None:
            try:
                found.set_result(self._fetched(start, stop))
            except BaseException as error:  # is raised where the piece is read
                found.set_exception(error)

        # The interpreter does not wait for it: a server that hangs must not keep who gives up.
        threading.Thread(target=fetch, name="read-ahead", daemon=True).start()
        return found

    def _fetched(self, start: int, stop: int) -> bytes:
        """Bytes of the object, whatever number of requests that takes."""
        if start > 0 or stop > FIRST_BYTES or not self.meta.etag:
            return self._from_server(start, stop)
        key = (self.name, self.meta)
        begin = _begins.get(key)
        if begin is None or len(begin) < stop:
            begin = _begins.keep(key, self._from_server(start, stop))
        return begin[:stop]

    def _from_server(self, start: int, stop: int) -> bytes:
        parts: list[bytes] = []
        delays = iter(self._delays_s)
        while start < stop:
            try:
                with said_of(self.name):
                    part = self._range(start, stop)
            except InputUnreached:
                delay = next(delays, None)
                if delay is None or self._closing.wait(delay):
                    raise
                continue
            parts.append(part)
            start, delays = start + len(part), iter(self._delays_s)
        return b"".join(parts)

    def _range(self, start: int, stop: int) -> bytes:
        etag = self.meta.etag or None
        try:
            found = self._location.read_range(self._path, start, stop, etag=etag)
        except FileNotFoundError:
            raise InputChanged(f"{self.name}: was removed while it was read") from None
        if not found:  # the file was as long as this when it was opened
            if etag is None and self._location.head(self._path)[:4] != self.meta[:4]:
                raise _changed(self.name)
            raise InputUnreached(f"{self.name}: nothing comes of bytes {start} to {stop}")
        return found[: stop - start]


@contextmanager
def said_of(where: str) -> Iterator[None]:
    """Within, errors of a location are those of an input.

    Args:
        where: the address of the object or folder.
    """
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where) from None
    except ObjectChanged:
        raise _changed(where) from None
    except CorpusError:
        raise
    except TryAgain as error:
        raise InputUnreached(str(error)) from None
    except StoreError as error:
        raise CorpusError(str(error)) from None


def _changed(where: str) -> InputChanged:
    return InputChanged(
        f"{where}: changed while it was read, and what comes next is not of the same object; the"
        " next run reads it anew"
    )
