"""A stand-in for a hub of models: the HTTP calls that ``huggingface_hub`` makes, over memory.

    with StandIn() as hub, Client(hub, home) as client:
        code, out, err = client.salient("push", run, "hub:alice/moods")
        hub.repositories["alice/moods"].files("main")

It knows create, information, tree, preupload, LFS (batch and PUT, no xet), commit, and resolve with
etags, redirects and ranges. No real hub is asked anything. The client is another process, because
``huggingface_hub`` reads its address and its home when it is imported.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.builders.paths import ROOT

TOKEN = "hf_SecretOfThisTestOnly0123456789"
OWNER = "alice"
"""Who is known by the token, and may write to her own repositories."""


@dataclass
class Repository:
    """Commits, oldest first, each with all files; `lfs` says which are kept elsewhere."""

    private: bool = False
    gated: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def add(self, files: dict[str, bytes], message: str) -> str:
        said = f"{len(self.commits)}{message}" + "".join(sorted(files))
        commit = hashlib.sha1(said.encode()).hexdigest()
        self.commits.append((commit, files))
        self.messages.append(message)
        return commit

    def files(self, revision: str) -> dict[str, bytes] | None:
        if revision == "main":
            return self.commits[-1][1]
        return dict(self.commits).get(revision)

    def commit(self, revision: str) -> str:
        return self.commits[-1][0] if revision == "main" else revision


class StandIn:
    """The server, in a thread; `fail` maps the beginning of a path to a status to answer with."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.fail: dict[tuple[str, str], int] = {}
        self.sizes: dict[str, int] = {}
        self.seen: list[tuple[str, str]] = []
        self.said: list[bytes] = []
        outer = self

        class Handler(_Handler):
            hub = outer

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.elsewhere = f"http://localhost:{self.server.server_address[1]}"

    def __enter__(self) -> StandIn:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def is_large(name: str) -> bool:
    """Whether the real hub would keep it in LFS."""
    return name.endswith(".safetensors")


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    # -- answers ----------------------------------------------------------------------------------

    def answer(
        self, status: int, content: bytes | dict[str, Any] | list[Any], **headers: Any
    ) -> None:
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        sent = {"Content-Length": len(content), "Content-Type": "application/json"}
        for name, value in (sent | {k.replace("_", "-"): v for k, v in headers.items()}).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str, said: str = "no") -> None:
        self.answer(status, {"error": said}, X_Error_Code=code, X_Error_Message=said)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    @property
    def known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def readable(self, name: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self.known):
            self.refuse(404 if self.known else 401, "RepoNotFound")
            return None
        if found.gated and not self.known:
            self.refuse(403, "GatedRepo")
            return None
        return found

    # -- calls ------------------------------------------------------------------------------------

    def handle_call(self) -> None:
        path, sent = unquote(urlsplit(self.path).path), self.body()
        self.hub.seen.append((self.command, path))
        self.hub.said.append(sent)
        for (method, start), status in self.hub.fail.items():
            if self.command == method and path.startswith(start):
                if status == 0:  # goes away in the middle
                    self.close_connection = True
                    self.connection.close()
                    return
                return self.answer(status, {"error": f"told to fail, {TOKEN}"})
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            return self.create(json.loads(sent))
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if parts[0] == "lfs":
            return self.large(parts[1], sent)
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.batch(json.loads(sent))
        if parts[:2] == ["api", "models"]:
            name, what = "/".join(parts[2:4]), parts[4:] or ["revision", "main"]
            if what[0] in ("preupload", "commit") and not (self.known and parts[2] == OWNER):
                return self.refuse(403 if self.known else 401, "", "you may not write here")
            if (found := self.readable(name)) is None:
                return None
            call = getattr(self, f"on_{what[0]}")
            return call(name, found, "/".join(what[1:]), sent)  # type: ignore[no-any-return]
        if len(parts) > 4 and parts[2] == "resolve":
            return self.on_resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return self.refuse(404, "", f"no such call: {path}")

    do_GET = do_POST = do_PUT = do_HEAD = handle_call

    def create(self, said: dict[str, Any]) -> None:
        name = f"{said['organization']}/{said['name']}"
        if not self.known or said["organization"] != OWNER:
            return self.refuse(403 if self.known else 401, "", "you may not make that")
        if name in self.hub.repositories:
            return self.answer(409, {"error": "exists", "url": f"{self.hub.url}/{name}"})
        made = self.hub.repositories[name] = Repository(said.get("visibility") == "private")
        made.add({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        return self.answer(200, {"url": f"{self.hub.url}/{name}", "name": name})

    def on_revision(self, name: str, found: Repository, revision: str, _: bytes) -> None:
        files = found.files(revision)
        if files is None:
            return self.refuse(404, "RevisionNotFound")
        siblings = [
            {
                "rfilename": path,
                "size": self.hub.sizes.get(path, len(content)),
                "blobId": oid(content),
            }
            for path, content in files.items()
        ]
        about = {"id": name, "modelId": name, "private": found.private, "gated": found.gated}
        about |= {"sha": found.commit(revision), "tags": [], "downloads": 0, "likes": 0}
        return self.answer(200, about | {"siblings": siblings})

    def on_tree(self, _: str, found: Repository, revision: str, __: bytes) -> None:
        files = found.files(revision)
        if files is None:
            return self.refuse(404, "RevisionNotFound")
        tree = []
        for path, content in files.items():
            one: dict[str, Any] = {"type": "file", "path": path, "oid": oid(content)}
            one["size"] = len(content)
            if is_large(path):
                large = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
                one["lfs"] = large
            tree.append(one)
        return self.answer(200, tree)

    def on_preupload(self, _: str, found: Repository, revision: str, sent: bytes) -> None:
        files = found.files(revision) or {}
        answers = []
        for one in json.loads(sent)["files"]:
            path, before = one["path"], files.get(one["path"])
            large = is_large(path)
            known = None if before is None else sha256(before) if large else oid(before)
            mode = "lfs" if large else "regular"
            lines = files.get(".gitignore", b"").splitlines()
            ignored = path.rpartition("/")[2].encode() in lines
            answers.append(
                {"path": path, "uploadMode": mode, "shouldIgnore": ignored, "oid": known}
            )
        return self.answer(200, {"files": answers})

    def batch(self, said: dict[str, Any]) -> None:
        if not self.known:
            return self.refuse(401, "")
        assert said["operation"] == "upload" and "basic" in said["transfers"]
        objects = []
        for one in said["objects"]:
            if one["oid"] not in self.hub.blobs:
                one = one | {
                    "actions": {"upload": {"href": f"{self.hub.elsewhere}/lfs/{one['oid']}"}}
                }
            objects.append(one)
        return self.answer(200, {"transfer": "basic", "objects": objects})

    def large(self, name: str, sent: bytes) -> None:
        """Where large files lie, another host: put and got there, with ranges and no token."""
        assert "Authorization" not in self.headers
        if self.command == "PUT":
            assert sha256(sent) == name
            self.hub.blobs[name] = sent
            return self.answer(200, b"")
        return self.content(self.hub.blobs[name], ETag=f'"{name}"')

    def content(self, content: bytes, **headers: Any) -> None:
        wanted = self.headers.get("Range")
        if not wanted:
            return self.answer(200, content, Accept_Ranges="bytes", **headers)
        start, _, end = wanted.removeprefix("bytes=").partition("-")
        last = min(int(end) if end else len(content) - 1, len(content) - 1)
        span = f"bytes {int(start)}-{last}/{len(content)}"
        return self.answer(206, content[int(start) : last + 1], Content_Range=span, **headers)

    def on_commit(self, name: str, found: Repository, _: str, sent: bytes) -> None:
        lines = [json.loads(line) for line in sent.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, found.commits[-1][0]):
            return self.refuse(412, "", "A commit has happened since")
        files = dict(found.commits[-1][1])
        for line in lines[1:]:
            one = line["value"]
            if line["key"] == "file":
                files[one["path"]] = base64.b64decode(one["content"])
            elif line["key"] == "lfsFile":
                files[one["path"]] = self.hub.blobs[one["oid"]]
            elif line["key"] == "deletedFile":
                del files[one["path"]]
        commit = found.add(files, header["summary"])
        url = f"{self.hub.url}/{name}/commit/{commit}"
        return self.answer(200, {"success": True, "commitOid": commit, "commitUrl": url})

    def on_resolve(self, name: str, revision: str, path: str) -> None:
        if (found := self.readable(name)) is None:
            return None
        files = found.files(revision)
        if files is None:
            return self.refuse(404, "RevisionNotFound")
        if path not in files:
            return self.refuse(404, "EntryNotFound")
        content, commit = files[path], found.commit(revision)
        if not is_large(path):
            return self.content(content, ETag=f'"{oid(content)}"', X_Repo_Commit=commit)
        digest = sha256(content)
        self.hub.blobs[digest] = content
        return self.answer(
            302,
            b"",
            Location=f"{self.hub.elsewhere}/lfs/{digest}",
            X_Repo_Commit=commit,
            X_Linked_Etag=f'"{digest}"',
            X_Linked_Size=len(content),
        )


def oid(content: bytes) -> str:
    """As git names a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    """As LFS names it."""
    return hashlib.sha256(content).hexdigest()


_LOOP = """
import contextlib, io, json, os, sys
from pathlib import Path
from pipeline.commands.line import run_command
import pipeline.commands.printing as printing
wire = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    asked = json.loads(line)
    for name, value in asked["environment"].items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
    out, err = io.StringIO(), io.StringIO()
    printing.out.file = out
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        if "code" in asked:
            found = {}
            try:
                exec(asked["code"], found)
                code = found.get("result")
            except Exception as error:
                code = f"{type(error).__name__}: {error}"
        else:
            code = run_command(asked["words"])
    print(json.dumps([code, out.getvalue(), err.getvalue()]), file=wire, flush=True)
"""


class Client:
    """A process that runs command lines of ``salient`` against a stand-in."""

    def __init__(self, hub: StandIn, home: Path, **environment: str) -> None:
        hidden = ("HF_", "HUGGING", "TRANSFORMERS_OFFLINE")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        kept |= {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",  # the stand-in knows no xet
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
            "NO_PROXY": "127.0.0.1",
            "SALIENT_CACHE": str(home / "salient"),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOOP],
            cwd=ROOT,
            env=kept | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def salient(self, *words: object, token: str | None = TOKEN) -> tuple[Any, str, str]:
        """Exit code, standard output and standard error of a command line."""
        return self._ask({"words": [str(word) for word in words]}, token)

    def python(self, code: str, token: str | None = TOKEN) -> tuple[Any, str, str]:
        """What some code leaves as ``result``, or the error that it raises; and what it printed."""
        return self._ask({"code": code}, token)

    def _ask(self, asked: dict[str, Any], token: str | None) -> tuple[Any, str, str]:
        assert self._process.stdin is not None and self._process.stdout is not None
        line = json.dumps(asked | {"environment": {"HF_TOKEN": token}})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self._process.communicate()[1]
        code, out, err = json.loads(answer)
        return code, out, err
