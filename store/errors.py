"""Errors that a user can act on: one line that names the thing, the value and the remedy."""

import errno
import json
import shlex
from importlib import metadata
from pathlib import Path
from urllib.request import url2pathname

DISTRIBUTION = "salient-neurons"
"""What `pip` knows this program as; the command and the module are called ``salient``."""


def _for_pip(extra: str) -> str:
    """What `pip install` is given for an extra: where this program was installed from.

    That is its checkout, with its pinned versions, the wheel's file, the address of a repository,
    or, if pip does not know (PEP 610), the name on an index.
    """
    for one in metadata.distributions(name=DISTRIBUTION):  # a checkout has two, one without origin
        origin = json.loads(one.read_text("direct_url.json") or "{}")
        url = str(origin.get("url", ""))
        if "vcs_info" in origin:
            vcs = origin["vcs_info"]
            return f"'{DISTRIBUTION}[{extra}] @ {vcs['vcs']}+{url}@{vcs['commit_id']}'"
        place = Path(url2pathname(url.removeprefix("file://")))
        if url.startswith("file://") and place.exists():
            return _of_folder(place, extra, editable=origin.get("dir_info", {}).get("editable"))
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "pyproject.toml").is_file():  # used where it lies
        return _of_folder(checkout, extra, editable=True)
    return f"'{DISTRIBUTION}[{extra}]'"


def _of_folder(place: Path, extra: str, *, editable: bool | None) -> str:
    lock = place / "requirements.lock"
    pinned = f"-c {shlex.quote(str(lock))} " if lock.is_file() else ""
    return f"{pinned}{'-e ' if editable else ''}{shlex.quote(f'{place}[{extra}]')}"


PASSES = (
    errno.ENOSPC, errno.EDQUOT, errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT, errno.ESTALE,
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENETDOWN, errno.ENETUNREACH,
    errno.EHOSTUNREACH, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
)  # fmt: skip
"""What the operating system refuses now and may grant later: a full disk once there is room."""
WRONG_PATH = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG,
)  # fmt: skip
"""What it refuses because another path, or other permissions, must be given."""


class SalientError(Exception):
    """Root of every error that Salient raises for a user's mistake or a damaged input."""


class InputError(SalientError):
    """What was asked for, configured or handed in is wrong; the same again will fail again.

    Found before a model loads wherever that can be; a command ends with 2.
    """


class TryAgain(SalientError):
    """What was asked for is right, and cannot be done now; a command ends with 75."""


class StoreError(SalientError):
    """The activation store cannot do what was asked; the message says why and what to do."""


class StoreInputError(StoreError, InputError):
    """A store is asked for what it cannot give, or there is none."""


class NoStoreError(StoreInputError):
    """There is no store at a place; it was looked at."""


class StoreBusy(TryAgain, StoreError):
    """Another process holds the store's lock, or its disk is full or does not answer."""


class DamagedShardError(StoreError):
    """Stored bytes are missing, cut short or differ from their checksums."""


class ChangedTextError(StoreInputError):
    """A known sample id arrives with another text."""


class MissingExtra(SalientError, ImportError):
    """A package that the base install leaves out is not here; the message names its extra."""


def missing_extra(package: str | None, extra: str, what: str) -> MissingExtra:
    """The error for a package that is not installed: one line with the command that brings it.

    Args:
        package: as it is imported; None: unknown, as ``ImportError.name`` may be.
        extra: of `pyproject.toml`, that brings it and all that ``what`` needs beside it.
        what: needs it; begins the message.
    """
    needed = f"the package {package}" if package else f"the extra {extra}"
    line = f"{what} needs {needed}: pip install {_for_pip(extra)}"
    return MissingExtra(line, name=package)
