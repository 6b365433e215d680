"""Keys of one session: whoever has none connects to no part of its cluster.

    with credentials(KINDS[cluster.kind].keys, folders) as security:
        started = start_cluster(cluster, security)

A Dask scheduler runs what any client sends it, and so does a worker: an open port is the user's
account, on a cluster's network or, at the loopback interface, for every user of the machine. So
what is started here talks TLS with a certificate made for the session, and refuses whoever does not
show that same certificate.

Processes of this machine inherit the keys in memory. Workers elsewhere read them from a folder that
only its owner can enter, gone with the session; those of a killed client go with the next session
that keeps its keys in the same place.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import ConfigError, missing

Keys = Literal["memory", "files"]
"""How the parts of a cluster come to their keys."""
FOLDER = ".salient-tls-"
"""Of the folders' names; the client's machine follows."""
KEY_FILE = "key.pem"
"""Locked by the client while it lives."""
EXPIRED_AFTER_S = 366 * 86400.0
"""Dask's temporary certificates are good for 365 days."""
OPT_OUT = 'security = "none" in [cluster] goes without keys'


@contextmanager
def credentials(
    keys: Keys | None, folders: Sequence[Path] = (), *, extra: str = "cluster"
) -> Iterator[Any | None]:
    """New keys for a cluster, good until the end of the block.

    Args:
        keys: where they are kept; None: there are none, and whoever reaches a port may connect.
        folders: what workers share; files lie in the first, else in the current folder.
        extra: named where a package is missing; brings that and what the kind of cluster needs.

    Yields:
        Dask's Security, or None.

    Raises:
        ConfigError: a package of the extra is missing, or the folder cannot keep a secret.
    """
    if keys is None:
        yield None
        return
    try:
        security_class = import_module("distributed.security").Security
        import_module("cryptography")
    except ImportError as error:
        raise missing(error.name, "a cluster with its keys", extra=extra) from None
    made = security_class.temporary()
    if keys == "memory":
        yield made
        return
    folder = _secret_folder(Path(folders[0] if folders else Path.cwd()).absolute())
    held = None
    try:
        held = _write_private(folder / KEY_FILE, made.tls_client_key)
        with suppress(OSError):  # a file system without locks: the next session leaves it alone
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(_write_private(folder / "cert.pem", made.tls_client_cert))
        cert, key = str(folder / "cert.pem"), str(folder / KEY_FILE)
        roles = ("client", "scheduler", "worker")
        yield security_class(
            require_encryption=True,
            tls_ca_file=cert,
            **{f"tls_{role}_cert": cert for role in roles},
            **{f"tls_{role}_key": key for role in roles},
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def _write_private(path: Path, text: str) -> int:
    """A new file for its owner's eyes; the descriptor, still open."""
    file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.write(file, text.encode())
    except OSError:
        os.close(file)
        raise
    return file


def as_settings(security: Any) -> dict[str, Any]:
    """Keys in files as a dictionary that can be sent as JSON: it holds their paths alone."""
    names = [name for name in type(security).__slots__ if name.startswith("tls_")]
    found = {name: getattr(security, name) for name in names}
    paths = {name: value for name, value in found.items() if isinstance(value, str)}
    return {"require_encryption": True, **paths}


def _left_over(folder: Path) -> bool:
    """Whether keys are those of a client of this machine that was killed, or nobody's any more.

    Other machines' locks may not be seen here, so their keys stay until they are expired.
    """
    host, _, _ = folder.name.removeprefix(FOLDER).rpartition("-")
    try:
        if folder.lstat().st_mtime < time.time() - EXPIRED_AFTER_S:
            return True
        if host != platform.node():
            return False
        key = os.open(folder / KEY_FILE, os.O_WRONLY | os.O_NOFOLLOW)
    except OSError:  # gone meanwhile, or just being made
        return False
    try:
        fcntl.flock(key, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # its client lives, or there are no locks here
        return False
    finally:
        os.close(key)
    return True


def _secret_folder(parent: Path) -> Path:
    """A new folder that nobody else can enter.

    Raises:
        ConfigError: it cannot be made, others can enter it, or job scripts cannot name it.
    """
    if shlex.quote(str(parent)) != str(parent):
        raise ConfigError(
            f"{parent}: Dask's job scripts cannot name the cluster's keys there, for the path has"
            f" spaces or signs that a shell reads; choose another folder, or {OPT_OUT}"
        )
    try:
        for old in parent.glob(f"{FOLDER}*"):
            if not old.is_symlink() and _left_over(old):
                shutil.rmtree(old, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{platform.node()}-", dir=parent))
    except OSError as error:
        raise ConfigError(
            f"{parent}: cannot be written ({error.strerror}), and the cluster's keys go there;"
            f" choose another folder, or {OPT_OUT}"
        ) from None
    if folder.stat().st_mode & 0o077:
        folder.rmdir()
        raise ConfigError(
            f"{parent}: its file system keeps no permissions, so everybody could read the cluster's"
            f" keys there; choose another folder, or {OPT_OUT}"
        )
    return folder
