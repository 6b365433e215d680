"""A stand-in for Google Cloud Storage: its XML API as object stores' clients use it, in memory.

The emulators in the registries speak the JSON API only. This one holds to generations: a write on
`x-goog-if-generation-match` succeeds only where the object is that one (0: where there is none).

    with serve_gcs() as server:
        os.environ.update(server.environment())
        url = server.new_bucket()               # gs://NAME/data

    python -m tests.builders.gcs 9001           # a server to try commands against
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from tests.builders.buckets import (
    LOCAL,
    BucketServer,
    needs_packages,
    set_environment,
    spawned,
)

MOST_LISTED = 1000
XML = "application/xml; charset=UTF-8"


class GcsServer(BucketServer):
    """The stand-in; it asks for no credentials."""

    scheme = "gs"

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """See `BucketServer.environment`; the key of a service account that names the server."""
        account = {"gcs_base_url": endpoint or self.endpoint, "disable_oauth": True}
        account |= {"client_email": "", "private_key": "", "private_key_id": ""}
        return LOCAL | {
            "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account),
            "GOOGLE_ALLOW_HTTP": "true",
        }


@contextmanager
def serve_gcs() -> Iterator[GcsServer]:
    """The stand-in in a process of its own, for as long as the context is open."""
    with spawned("tests.builders.gcs") as endpoint:
        yield GcsServer(endpoint)


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GcsServer]:
    """One stand-in for all tests of a session."""
    needs_packages("obstore")
    with serve_gcs() as server:
        yield server


@pytest.fixture
def gcs_bucket(gcs_server: GcsServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The `gs://` URL of an empty folder; the environment leads to the stand-in."""
    set_environment(monkeypatch, gcs_server.environment())
    return gcs_server.new_bucket()


class _Object(NamedTuple):
    content: bytes
    generation: int
    at: float

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.content, usedforsecurity=False).hexdigest()}"'


class _Refused(Exception):
    """An answer that is no success: status, code, what is said."""


class _Buckets:
    """All that the server holds; each change is whole."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.objects: dict[str, dict[str, _Object]] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self._generations = itertools.count(1_700_000_000_000_000)

    def bucket(self, name: str) -> dict[str, _Object]:
        if name not in self.objects:
            raise _Refused(404, "NoSuchBucket", "The specified bucket does not exist.")
        return self.objects[name]

    def get(self, bucket: str, key: str) -> _Object:
        found = self.bucket(bucket).get(key)
        if found is None:
            raise _Refused(404, "NoSuchKey", "The specified key does not exist.")
        return found

    def put(self, bucket: str, key: str, content: bytes, wanted: str | None) -> _Object:
        with self.lock:
            objects = self.bucket(bucket)
            there = objects[key].generation if key in objects else 0
            if wanted is not None and int(wanted) != there:
                raise _Refused(412, "PreconditionFailed", "At least one condition did not hold.")
            objects[key] = _Object(content, next(self._generations), time.time())
            return objects[key]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 2**18
    buckets: _Buckets

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = urlsplit(self.path)
        bucket, _, key = parts.path.lstrip("/").partition("/")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        try:
            with self.buckets.lock:
                self._act(unquote(bucket), unquote(key), query, body)
        except _Refused as refused:
            status, code, said = refused.args
            error = f"<Error><Code>{code}</Code><Message>{said}</Message></Error>"
            self._answer(status, error.encode())

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def _act(self, bucket: str, key: str, query: dict[str, str], body: bytes) -> None:
        upload = query.get("uploadId")
        if self.command == "PUT" and not key:
            self.buckets.objects.setdefault(bucket, {})
            self._answer(200)
        elif self.command == "PUT" and upload is not None:
            self._parts(upload)[int(query["partNumber"])] = body
            self._answer(200, ETag=_Object(body, 0, 0).etag)
        elif self.command == "PUT":
            self._written(self.buckets.put(bucket, key, self._source(body), self._wanted))
        elif self.command == "POST" and "uploads" in query:
            upload = base64.urlsafe_b64encode(f"{time.time_ns()} {key}".encode()).decode()
            self.buckets.uploads[upload] = {}
            told = f"<UploadId>{upload}</UploadId>"
            text = f"<InitiateMultipartUploadResult>{told}</InitiateMultipartUploadResult>"
            self._answer(200, text.encode())
        elif self.command == "POST" and upload is not None:
            numbers = [int(one) for one in re.findall(rb"<PartNumber>(\d+)<", body)]
            content = b"".join(self._parts(upload)[number] for number in numbers)
            found = self.buckets.put(bucket, key, content, self._wanted)
            del self.buckets.uploads[upload]
            tag = f"<ETag>{escape(found.etag)}</ETag>"
            text = f"<CompleteMultipartUploadResult>{tag}</CompleteMultipartUploadResult>"
            self._written(found, text.encode())
        elif self.command == "DELETE" and upload is not None:
            self._parts(upload)
            del self.buckets.uploads[upload]
            self._answer(204)
        elif self.command == "DELETE":
            self.buckets.get(bucket, key)
            del self.buckets.bucket(bucket)[key]
            self._answer(204)
        elif key:
            self._read(self.buckets.get(bucket, key))
        else:
            self._list(self.buckets.bucket(bucket), query)

    @property
    def _wanted(self) -> str | None:
        return self.headers.get("x-goog-if-generation-match")

    def _parts(self, upload: str) -> dict[int, bytes]:
        if upload not in self.buckets.uploads:
            raise _Refused(404, "NoSuchUpload", "The requested upload was not found.")
        return self.buckets.uploads[upload]

    def _source(self, body: bytes) -> bytes:
        source = self.headers.get("x-goog-copy-source")
        if source is None:
            return body
        bucket, _, key = unquote(source).lstrip("/").partition("/")
        return self.buckets.get(bucket, key).content

    def _read(self, found: _Object) -> None:
        if self.headers.get("if-match", found.etag) not in (found.etag, "*"):
            raise _Refused(412, "PreconditionFailed", "The entity tag is another.")
        headers = {
            "ETag": found.etag,
            "Last-Modified": formatdate(found.at, usegmt=True),
            "x-goog-generation": str(found.generation),
        }
        size, asked = len(found.content), self.headers.get("range", "")
        bounds = re.fullmatch(r"bytes=(\d*)-(\d*)", asked)
        if bounds is None:
            self._answer(200, found.content, **headers)
            return
        first = int(bounds[1]) if bounds[1] else max(0, size - int(bounds[2]))
        last = min(size - 1, int(bounds[2])) if bounds[1] and bounds[2] else size - 1
        if first > last:
            raise _Refused(416, "InvalidRange", "The requested range cannot be satisfied.")
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        self._answer(206, found.content[first : last + 1], **headers)

    def _list(self, objects: dict[str, _Object], query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = max(query.get("start-after", ""), query.get("continuation-token", ""))
        found: list[str] = []
        folders: list[str] = []
        last, more = "", False
        for key in sorted(one for one in objects if one.startswith(prefix) and one > after):
            rest, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            folder = f"{prefix}{rest}{cut}"
            if cut and (folder in folders or after.startswith(folder)):
                last = key
                continue
            if len(found) + len(folders) == int(query.get("max-keys", MOST_LISTED)):
                more = True
                break
            last = key
            if cut:
                folders.append(folder)
            else:
                found.append(key)
        text = "".join(_contents(key, objects[key]) for key in found)
        for folder in folders:
            text += f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
        if more:
            text += f"<NextContinuationToken>{escape(last)}</NextContinuationToken>"
        text += f"<IsTruncated>{str(more).lower()}</IsTruncated>"
        self._answer(200, f"<ListBucketResult>{text}</ListBucketResult>".encode())

    def _written(self, found: _Object, body: bytes = b"") -> None:
        generation = {"x-goog-generation": str(found.generation)}
        if self.headers.get("x-goog-copy-source") is not None:
            body = b"<CopyObjectResult/>"
        self._answer(200, body, ETag=found.etag, **generation)

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response_only(status)
        for name, value in ({"Content-Type": XML} | headers).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(body)


def _contents(key: str, found: _Object) -> str:
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(found.at))
    return (
        f"<Contents><Key>{escape(key)}</Key><Size>{len(found.content)}</Size>"
        f"<LastModified>{at}.{int(found.at % 1 * 1000):03d}Z</LastModified>"
        f"<ETag>{escape(found.etag)}</ETag><Generation>{found.generation}</Generation></Contents>"
    )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        pass  # whoever was killed leaves in the midst of a request


def main(port: int) -> None:
    """Serve until standard input ends."""
    server = _Server(("127.0.0.1", port), type("Bound", (_Handler,), {"buckets": _Buckets()}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
