"""A Dask preload that makes a worker of a test see nothing of the client's folder.

The folder is named in `SALIENT_NOT_SHARED`. All that Python opens, lists or changes is looked at.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_LOOKED_AT = (
    *("open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.rmdir"),
    *("os.chdir", "os.link", "os.symlink", "shutil.rmtree"),
)


def dask_setup(_worker: Any) -> None:
    """Called by Dask in the worker's process."""
    hidden = os.environ["SALIENT_NOT_SHARED"]

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _LOOKED_AT:
            for place in arguments[:2]:
                if isinstance(place, str | bytes | os.PathLike) and (
                    os.path.abspath(os.fsdecode(place)) + "/"
                ).startswith(hidden + "/"):
                    raise PermissionError(f"{event} {place!r}: is the client's alone")

    sys.addaudithook(look)
