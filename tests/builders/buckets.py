"""Buckets of a real S3 server that the tests start.

The server is moto's, in a process of its own that ends with the one that started it, so that it
shares no interpreter with what is measured or killed.

    def test_something(bucket: str) -> None:      # s3://NAME/data, with AWS_* in the environment

    with serve_buckets() as server:               # for benchmarks, and for a proxy in front of it
        os.environ.update(server.environment())
        url = server.new_bucket()

    python -m tests.builders.buckets 9000         # a server to try commands against
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.util
import itertools
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

KEY_ID, SECRET = "AKIDTESTS", "not-so-secret-of-the-tests"
REGION = "us-east-1"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens addresses here even where the environment names a proxy."""
LOCAL = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
_number = itertools.count()


@dataclass(frozen=True)
class BucketServer:
    """An S3 server that takes any key.

    Attributes:
        endpoint: `http://127.0.0.1:PORT`.
    """

    endpoint: str
    scheme = "s3"

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """What whoever uses it finds in the environment; by another endpoint, such as a proxy's."""
        return LOCAL | {
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_REGION": REGION,
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def new_bucket(self) -> str:
        """Make an empty bucket.

        Returns:
            `s3://NAME/data`; the bucket's name is new in this process and its children.
        """
        name = f"tests-{os.getpid()}-{next(_number)}"
        self.make_bucket(name)
        return f"{self.scheme}://{name}/data"

    def make_bucket(self, name: str) -> None:
        """Make a bucket of a given name."""
        DIRECT.open(urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")).close()


class AzureServer(BucketServer):
    """Azurite, Microsoft's for tests: `npm install azurite`, with its `.bin` folder in PATH."""

    scheme = "az"
    account = "devstoreaccount1"
    # Not a secret: the same in every Azurite.
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """See `BucketServer.environment`."""
        return LOCAL | {
            "AZURE_STORAGE_ACCOUNT_NAME": self.account,
            "AZURE_STORAGE_ACCOUNT_KEY": self.key,
            "AZURE_STORAGE_ENDPOINT": f"{endpoint or self.endpoint}/{self.account}",
        }

    def make_bucket(self, name: str) -> None:
        """See `BucketServer.make_bucket`; a container, by a request signed with the shared key."""
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        said = "".join(f"{key}:{value}\n" for key, value in headers.items())
        resource = f"/{self.account}/{self.account}/{name}\nrestype:container"
        text = f"PUT{chr(10) * 12}{said}{resource}"
        signed = hmac.new(base64.b64decode(self.key), text.encode(), hashlib.sha256).digest()
        headers["Authorization"] = f"SharedKey {self.account}:{base64.b64encode(signed).decode()}"
        address = f"{self.endpoint}/{self.account}/{name}?restype=container"
        DIRECT.open(urllib.request.Request(address, method="PUT", headers=headers)).close()


@contextmanager
def serve_azure() -> Iterator[AzureServer]:
    """Azurite in a process of its own; in memory."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = ["azurite-blob", "--inMemoryPersistence", "--skipApiVersionCheck"]
    command += ["--blobPort", str(port), "--disableTelemetry"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        while b"listens on" not in (line := process.stdout.readline()):
            assert line, "azurite-blob did not start"
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        yield AzureServer(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()
        drain.join()
        process.stdout.close()


@contextmanager
def serve_buckets() -> Iterator[BucketServer]:
    """Moto in a process of its own, for as long as the context is open."""
    with spawned("tests.builders.buckets") as endpoint:
        yield BucketServer(endpoint)


@contextmanager
def spawned(module: str) -> Iterator[str]:
    """Run a module that serves until its input ends; its first line is the address."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", module, "0"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        endpoint = process.stdout.readline().strip()
        assert endpoint, f"{module} did not start"
        yield endpoint
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()


def needs_packages(*packages: str) -> None:
    """Skip the test where one is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"buckets need {package}: pip install 'salient-neurons[dev]'")


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[BucketServer]:
    """One server for all tests of a session."""
    needs_packages("moto", "obstore")
    with serve_buckets() as server:
        yield server


@pytest.fixture
def bucket(bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty folder in a bucket of its own; the environment names the server."""
    set_environment(monkeypatch, bucket_server.environment())
    return bucket_server.new_bucket()


@pytest.fixture
def memory_bucket() -> str:
    """The URL of an empty folder in a bucket within this process."""
    needs_packages("obstore")
    return f"memory://tests-{os.getpid()}-{next(_number)}/data"


def set_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Nothing of this machine's own credentials counts, but what is given."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    nowhere = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    for name, value in (nowhere | environment).items():
        monkeypatch.setenv(name, value)


def main(port: int) -> None:
    """Serve until standard input ends, or forever on a terminal."""
    import logging

    from moto.moto_server.threaded_moto_server import ThreadedMotoServer
    from moto.s3.responses import S3Response

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    changing = threading.RLock()

    def whole(method: Any) -> Any:
        """Moto looks and acts in two steps, between which another thread of it may act."""

        def one_at_a_time(*args: Any, **kwargs: Any) -> Any:
            with changing:
                return method(*args, **kwargs)

        return one_at_a_time

    for name in ("put_object", "copy_object", "delete_object", "_key_response_post"):
        setattr(S3Response, name, whole(getattr(S3Response, name)))
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
