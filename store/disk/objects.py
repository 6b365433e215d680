"""A bucket, or a folder in one, as a location: `s3://`, `gs://`, `az://`, `memory://`, `http(s)://`.

The client is obstore. It tries again by itself what a server or the network refused for the moment;
what is then still refused is tried anew here where that is safe. Writing on a condition is made
safe: where the answer may have been lost, the object is read back, and equal bytes are one's own.

A server that does not know conditions would let two writers win; `check_conditions` finds out.
"""

from __future__ import annotations

import bisect
import contextlib
import random
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from store.disk.checked import FROM_BACKUP, damaged
from store.disk.durable import step
from store.disk.storage import GCS, Options, bucket_of, objects_at, storage_options
from store.disk.verbs import Buffer, Meta, ObjectChanged
from store.errors import SalientError, StoreBusy, StoreInputError

Bytes = npt.NDArray[np.uint8]
T = TypeVar("T")
SINGLE_PUT_BYTES = 2**26
"""Up to this size an object goes in one request: nothing of it can be left half done."""
PART_BYTES = 2**24
NUM_TRIES = 4
DELETED_AT_ONCE = PAGE = 1000
_REFUSED = (
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
)
_STALLED = "RequestTimeout"
"""What S3 says, with status 400, of a connection that stalls."""
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_WORDS = re.compile(r"<Message>([^<]*)</Message>")
_BEGIN_ANEW = ("InvalidBlockList", "NoSuchUpload")
"""Of parts: the answer to putting them together was lost, and they are no longer there for it."""
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")


def new_writer() -> str:
    """A writer's id: what it puts into an object makes that object its own."""
    return uuid.uuid4().hex[:16]


class ObjectLocation:
    """A folder of a bucket; paths are relative to it.

    Args:
        address: such as ``s3://bucket/folder``.
        options: of `store.disk.storage`; default those of this process. They travel with the object
            to another process; credentials do not, they are looked up there.

    Raises:
        StoreInputError: no such address can be.
        MissingExtra: the extra `cloud` is not installed.
    """

    def __init__(self, address: str, options: Options | None = None) -> None:
        self.address = address.rstrip("/")
        self.options = dict(storage_options() if options is None else options)
        self._kind, self._bucket, self._prefix = bucket_of(self.address)
        self.objects  # noqa: B018  # what cannot be reached is said at once

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectLocation, (self.address, self.options)

    def __repr__(self) -> str:
        return f"ObjectLocation({self.address!r})"

    @property
    def objects(self) -> Any:
        """The obstore store of the whole bucket; `key` says what a path is there."""
        return objects_at(self._bucket, self.options)

    def key(self, path: str) -> str:
        """The object's key in its bucket."""
        if path and any(part in ("", ".", "..") for part in path.split("/")):
            raise StoreInputError(
                f"{self.address}: no object is read or written as {path!r}: parts of a key that are"
                " empty, . or .. are not taken; give it another name"
            )
        return f"{self._prefix}/{path}".strip("/")

    def explained(self, error: Exception, path: str) -> Exception:
        """What obstore raised about an object, as the error that says what to do."""
        return _explained(error, f"{self.address}/{path}", self._bucket)

    def child(self, path: str) -> ObjectLocation:
        """A folder below this one."""
        return ObjectLocation(f"{self.address}/{path}", self.options)

    # -- reading ----------------------------------------------------------------------------

    def head(self, path: str) -> Meta:
        """What is known of an object.

        Raises:
            FileNotFoundError: there is none.
        """
        import obstore

        return self._meta(self._tried(path, lambda key: obstore.head(self.objects, key)))

    def size(self, path: str) -> int:
        """See `Location.size`."""
        return self.head(path).size

    def get(
        self, path: str, *, max_bytes: int | None = None, remedy: str = FROM_BACKUP
    ) -> tuple[bytes, Meta]:
        """An object whole, and what is known of it; see `Location.read`."""
        import obstore

        def fetch(key: str) -> tuple[bytes, Meta]:
            found = obstore.get(self.objects, key)
            meta = self._meta(found.meta)
            if max_bytes is not None and meta.size > max_bytes:
                what = f"{meta.size:,} bytes, at most {max_bytes:,}"
                raise damaged(f"{self.address}/{path}", what, remedy)
            return bytes(found.bytes()), meta

        return self._tried(path, fetch)

    def read(self, path: str, *, max_bytes: int | None = None, remedy: str = FROM_BACKUP) -> bytes:
        """See `Location.read`."""
        return self.get(path, max_bytes=max_bytes, remedy=remedy)[0]

    def read_range(self, path: str, start: int, stop: int, *, etag: str | None = None) -> bytes:
        """Bytes `[start, stop)` of an object; fewer where it ends before.

        Args:
            path: of the object.
            start: first byte.
            stop: after the last.
            etag: of the object as it was begun to be read.

        Raises:
            FileNotFoundError: there is none.
            ObjectChanged: it has another etag now.
        """
        import obstore

        if stop <= start:
            return b""
        options: dict[str, Any] = {"range": (start, stop)}
        if etag is not None:
            options["if_match"] = etag

        def fetch(key: str) -> bytes:
            found = obstore.get(self.objects, key, options=options)
            if etag is not None and found.meta["e_tag"] not in (None, etag):
                raise self._changed(path)  # some servers do not look at If-Match of a GET
            return bytes(found.bytes())

        try:
            return self._tried(path, fetch)
        except _PastEnd:
            return b""

    def read_ranges(self, path: str, offsets: list[int], buffers: list[Bytes]) -> int:
        """See `Location.read_ranges`; ranges that touch are one request."""
        import obstore

        starts, stops = _merged(offsets, buffers)
        if not starts:
            return self.size(path)

        def fetch(key: str) -> tuple[int, list[Any]]:
            first = obstore.get(self.objects, key, options={"range": (starts[0], stops[0])})
            size, parts = int(first.meta["size"]), [first.bytes()]
            if len(starts) > 1 and max(stops) <= size:
                parts += obstore.get_ranges(
                    self.objects, key, starts=starts[1:], ends=stops[1:], coalesce=0
                )
            return size, parts

        try:
            size, parts = self._tried(path, fetch)
        except _PastEnd:
            return self.size(path)
        # Fewer parts than ranges where the object is too short for them all.
        contents = [np.frombuffer(part, np.uint8) for part in parts]
        contents += [np.empty(0, np.uint8)] * (len(starts) - len(contents))
        spans = list(zip(starts, stops, contents, strict=True))
        for offset, buffer in zip(offsets, buffers, strict=True):
            start, stop, content = spans[bisect.bisect_right(starts, offset) - 1]
            if offset + len(buffer) <= min(stop, start + len(content)):
                buffer[:] = content[offset - start : offset - start + len(buffer)]
        return size

    def peek(self, path: str, start: int, stop: int) -> tuple[bytes, int]:
        """Bytes `[start, stop)` of an object, fewer where it ends before, and its whole size.

        One request; arguments and errors as of `read_range`.
        """
        import obstore

        def ask(key: str) -> tuple[bytes, int]:
            found = obstore.get(self.objects, key, options={"range": (start, stop)})
            return bytes(found.bytes()), int(found.meta["size"])

        try:
            return self._tried(path, ask)
        except _PastEnd:
            return b"", self.size(path)

    def fetch(self, path: str, starts: Sequence[int], stops: Sequence[int]) -> list[Any]:
        """Ranges of an object as read-only buffers: a request each, all at once, and nothing else.

        Args:
            path: of the object.
            starts: first byte of each range.
            stops: after its last.

        Returns:
            A buffer for each; shorter, maybe empty, where the object ends before.

        Raises:
            FileNotFoundError: there is none.
        """
        import obstore

        def ask(key: str) -> list[Any]:
            found = obstore.get_ranges(self.objects, key, starts=starts, ends=stops, coalesce=0)
            return list(found)

        try:
            return self._tried(path, ask)
        except _PastEnd:
            return [b""] * len(starts)

    def fetch_all(self, path: str) -> Any:
        """An object whole, as a read-only buffer: one request, and no copy; errors as of `fetch`.

        A server that keeps objects compressed, or reads them whole for any part of them, answers
        this sooner than a request for all of its range.
        """
        import obstore

        return self._tried(path, lambda key: obstore.get(self.objects, key).bytes())

    def map(self, path: str, num_bytes: int) -> tuple[int, Bytes] | None:
        """See `Location.map`."""
        return None

    def names(self, folder: str) -> list[str]:
        """See `Location.names`."""
        import obstore

        prefix = self.key(folder)

        def fetch(key: str) -> Any:
            return obstore.list_with_delimiter(self.objects, key or None)

        found = self._tried(folder, fetch)
        paths = [*found["common_prefixes"], *(one["path"] for one in found["objects"])]
        return sorted(path[len(prefix) :].strip("/") for path in paths)

    def files(self) -> Iterator[str]:
        """See `Location.files`."""
        for found in self.list():
            yield found.path

    def list(self, folder: str = "", *, after: str | None = None) -> Iterator[Meta]:
        """See `Lists.list`; a thousand a request."""
        import obstore

        last = None if after is None else self.key(after)
        pages: Any = None

        def fetch(key: str) -> Any:
            nonlocal pages
            if pages is None:
                # Its own page has 50: each of them would be a request for a thousand.
                pages = obstore.list(self.objects, key or None, offset=last, chunk_size=PAGE)
            try:
                return next(pages, None)
            except BaseException:
                pages = None  # what is asked again begins behind what came
                raise

        while page := self._tried(folder, fetch):
            for found in sorted(page, key=lambda one: str(one["path"])):
                yield self._meta(found)
            last = max(str(found["path"]) for found in page)

    # -- writing ----------------------------------------------------------------------------

    def put(self, path: str, parts: Buffer | Sequence[Buffer]) -> Meta:
        """See `Puts.put`."""
        content = _joined(parts)
        done = self._written(path, content, "overwrite")
        return self._put_meta(path, content, done)

    def create(self, path: str, parts: Buffer | Sequence[Buffer]) -> bool:
        """See `Creates.create`."""
        return self._on_condition(path, _joined(parts), "create")

    def replace(self, path: str, parts: Buffer | Sequence[Buffer], found: Meta) -> bool:
        """See `Creates.replace`."""
        if found.version is None and self._kind == GCS:
            try:  # a listing does not say it
                now = self.head(path)
            except FileNotFoundError:
                return False
            if now.etag != found.etag:
                return False
            found = now
        mode = {"e_tag": found.etag}
        if found.version is not None:
            mode["version"] = found.version
        return self._on_condition(path, _joined(parts), mode)

    def copy(self, source: str, target: str) -> None:
        """Copy an object within the bucket, on the server, in place of what is there."""
        import obstore

        step("before copy")
        into = self.key(target)
        self._tried(source, lambda key: obstore.copy(self.objects, key, into, overwrite=True))
        step("after copy")

    def delete(self, paths: Iterable[str]) -> None:
        """See `Deletes.delete`."""
        import obstore

        keys = [self.key(path) for path in paths]
        for first in range(0, len(keys), DELETED_AT_ONCE):
            some = keys[first : first + DELETED_AT_ONCE]
            step("before delete")

            def remove(_: str, some: list[str] = some) -> None:
                with contextlib.suppress(FileNotFoundError):
                    obstore.delete(self.objects, some)
                    return
                for key in some:  # GCS stops at the first that is not there
                    with contextlib.suppress(FileNotFoundError):
                        obstore.delete(self.objects, key)

            self._tried("", remove)
            step("after delete")

    def _on_condition(self, path: str, content: Any, mode: Any) -> bool:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        for number in range(NUM_TRIES):
            try:
                self._written(path, content, mode, tries=1)
                return True
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                mine = self._is_mine(path, content)
                # S3 answers 409 to one of two writers at a time, who shall ask again.
                if mine is not None or mode != "create":
                    return bool(mine)
            except StoreBusy:  # it may be there all the same
                if self._is_mine(path, content):
                    return True
                if number + 1 == NUM_TRIES:
                    raise
            _pause(number)
        raise StoreBusy(
            f"{self.address}/{path}: others write it at the same time, each time; run it again"
        )

    def _is_mine(self, path: str, content: Any) -> bool | None:
        """Whether an object has this content; None if there is none."""
        try:
            return bool(self.get(path)[0] == content)
        except FileNotFoundError:
            return None

    def _written(self, path: str, content: Any, mode: Any, tries: int = NUM_TRIES) -> Any:
        import obstore

        size = len(content)
        if mode == "overwrite" and size > SINGLE_PUT_BYTES:
            how: dict[str, Any] = {"use_multipart": True, "chunk_size": PART_BYTES}
        else:
            how = {"use_multipart": False}
        step("before put")
        done = self._tried(
            path, lambda key: obstore.put(self.objects, key, content, mode=mode, **how), tries
        )
        step("after put")
        return done

    def _put_meta(self, path: str, content: Any, done: Any) -> Meta:
        etag, version = done.get("e_tag") or "", done.get("version")
        return Meta(path, len(content), etag, float("nan"), version)

    def _meta(self, found: Any) -> Meta:
        key = str(found["path"])
        path = key[len(self._prefix) :].lstrip("/") if self._prefix else key
        modified = found["last_modified"].timestamp()
        return Meta(path, int(found["size"]), found["e_tag"] or "", modified, found["version"])

    def _changed(self, path: str) -> ObjectChanged:
        return ObjectChanged(
            f"{self.address}/{path}: changed while it was read; what was read of it before does not"
            " count, read it again"
        )

    def _tried(self, path: str, ask: Callable[[str], T], tries: int = NUM_TRIES) -> T:
        """Ask, and ask again what was refused for the moment; errors are said in one line."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        where, key = f"{self.address}/{path}".rstrip("/"), self.key(path)
        for number in range(tries):
            try:
                return ask(key)
            except SalientError:
                raise
            except (AlreadyExistsError, PreconditionError) as error:
                if tries == 1:
                    raise
                if isinstance(error, AlreadyExistsError):  # 409 to a request without a condition
                    _pause(number)
                    continue
                raise self._changed(path) from None
            except Exception as error:
                told = _explained(error, where, self._bucket)
                if not isinstance(told, StoreBusy) or number + 1 == tries:
                    raise told from None
                _pause(number)
        raise StoreBusy(f"{where}: others write it at the same time, each time; run it again")


class _PastEnd(StoreInputError):
    """A range begins behind the object's end."""


def _explained(error: Exception, where: str, bucket: str) -> Exception:
    """What obstore raises, as the error that says what to do; FileNotFoundError stays."""
    from obstore import exceptions as raised

    text = str(error)
    if any(sign in text for sign in _NO_BUCKET):
        return StoreInputError(f"{where}: there is no bucket {bucket}; make it, or mend the name")
    anew = any(sign in text for sign in _BEGIN_ANEW)
    if isinstance(error, FileNotFoundError) and not anew:
        return FileNotFoundError(f"{where}: there is no such object")
    said = _brief(text)
    where = "".join(one if one.isprintable() else repr(one)[1:-1] for one in where)
    if "Encountered object with invalid path" in text:
        return StoreInputError(
            f"{where}: holds an object whose key can neither be read nor passed over ({said});"
            " rename or delete it, or name what is meant one by one"
        )
    found = _STATUS.search(text)
    status = int(found[1]) if found else 0
    if "non-partial response" in text:
        return StoreInputError(
            f"{where}: the server answers with the whole object where a part was asked for; use"
            " another server"
        )
    if status == 416 or "Invalid range" in text:
        return _PastEnd(f"{where}: ends before what was asked of it")
    denied = (PermissionError, raised.PermissionDeniedError, raised.UnauthenticatedError)
    refused = status in (401, 403) or any(sign in text for sign in _REFUSED)
    if isinstance(error, denied) or refused:
        return StoreInputError(
            f"{where}: access refused ({said}); check the credentials (environment, profile or role"
            " of this machine) and what they allow"
        )
    if isinstance(error, (raised.NotSupportedError, NotImplementedError)) or status == 501:
        return StoreInputError(f"{where}: the server cannot do this ({said}); use another")
    if isinstance(error, (raised.InvalidPathError, ValueError, TypeError)):
        return StoreInputError(f"{where}: no object can have this name ({said})")
    if "URL scheme is not allowed" in text or "BadScheme" in text:
        return StoreInputError(
            f"{where}: the endpoint is http://; set allow_http = true in [storage] if that is meant"
        )
    if 300 <= status < 400 or "redirect" in text.lower():
        return StoreInputError(
            f"{where}: the server leads elsewhere ({said}); set the bucket's region, as region"
            " under [storage] or AWS_REGION"
        )
    passes = anew or _found(text, _CODE) == _STALLED or status in (408, 409, 425, 429)
    if 400 <= status < 500 and not passes:
        return StoreInputError(f"{where}: the server refuses it ({said})")
    return StoreBusy(
        f"{where}: cannot be reached now ({said}); check the network and the endpoint (endpoint"
        " under [storage], or AWS_ENDPOINT_URL and the like), then run it again"
    )


def _brief(text: str) -> str:
    """What a client says, without what it adds for its own debugging: a server's code and words."""
    status, code, words = (_found(text, one) for one in (_STATUS, _CODE, _WORDS))
    if status or code:
        said = " ".join(one for one in (status, code) if one)
        return f"{said}: {words}" if words else said
    line = text.strip().partition("\n")[0].partition("Debug source")[0]
    return line.strip().rstrip(":,")[:300] or "no message"


def _found(text: str, pattern: re.Pattern[str]) -> str:
    found = pattern.search(text)
    return found[1].strip()[:200] if found else ""


def _pause(number: int) -> None:
    time.sleep(min(5.0, 0.1 * 2**number) * (0.5 + random.random()))


def _joined(parts: Any) -> Any:
    """One flat buffer of bytes."""
    if not isinstance(parts, (list, tuple)):  # a pyarrow.Buffer is a sequence of numbers, too
        return _flat(parts)
    some = list(parts)
    return _flat(some[0]) if len(some) == 1 else b"".join(map(_flat, some))


def _flat(part: Any) -> Any:
    if isinstance(part, np.ndarray):
        part = part.reshape(-1).view(np.uint8)
    return part if isinstance(part, bytes) else memoryview(part).cast("B")


def _merged(offsets: list[int], buffers: list[Bytes]) -> tuple[list[int], list[int]]:
    """Ranges that touch or overlap, as one each: where they start and stop."""
    wanted = sorted((at, at + len(part)) for at, part in zip(offsets, buffers, strict=True))
    starts: list[int] = []
    stops: list[int] = []
    for start, stop in wanted:
        if stop == start:
            continue
        if stops and start <= stops[-1]:
            stops[-1] = max(stops[-1], stop)
        else:
            starts.append(start)
            stops.append(stop)
    return starts, stops


def check_conditions(location: ObjectLocation) -> None:
    """Find out whether the server holds to conditions, by an object that is then removed.

    Raises:
        StoreInputError: it lets two writers create one object, or replace what has changed.
    """
    writer = new_writer()
    path = f".salient-probe-{writer}"
    remedy = (
        "nothing can be written there safely; use S3, GCS, Azure, MinIO or another server with"
        " conditional writes (If-None-Match, If-Match), of a version that has them"
    )
    try:
        if not location.create(path, f"{writer} 1".encode()):
            raise StoreInputError(f"{location.address}: does not let an object be made; {remedy}")
        if location.create(path, f"{writer} 2".encode()):
            raise StoreInputError(
                f"{location.address}: the server ignores conditions: it let an object be created"
                f" twice; {remedy}"
            )
        first = location.head(path)
        location.put(path, f"{writer} 3".encode())
        if location.replace(path, f"{writer} 4".encode(), first):
            raise StoreInputError(
                f"{location.address}: the server ignores conditions: it let an object be replaced"
                f" that had changed; {remedy}"
            )
    finally:
        with contextlib.suppress(SalientError):
            location.delete([path])
