"""Paths, and addresses of buckets, as the configuration takes them; nothing secret is in either."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

CREDENTIALS = (
    "credentials come from the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,"
    " AWS_PROFILE; GOOGLE_APPLICATION_CREDENTIALS; AZURE_STORAGE_ACCOUNT_NAME and"
    " AZURE_STORAGE_ACCOUNT_KEY), a profile, or the machine's role"
)


def _folder_here(path: str) -> str:
    if "://" in path:
        raise ValueError(
            f"{without_login(path)!r} is no folder here; a run's own files lie in a folder of the"
            " machine that it is started on: name one (store.path, score.output and"
            " submission.folder may be in a bucket)"
        )
    return path


BUCKETS = ("s3", "gs", "az")
"""Schemes of the buckets that Salient writes to, as messages name them."""
_ALSO = ("s3a", "gcs", "azure", "abfs", "abfss", "memory")
"""Their other names, and buckets of this process."""
_HERE = ("file", "local")
"""Schemes of this machine's own files."""
_LOGIN = re.compile(
    r"(?<=://)(?:[^/?#]*:[^/?#]*@|(?<!az://)(?<!abfs://)(?<!abfss://)[^/?#]*@)|[?#].*$"
)


def without_login(address: str) -> str:
    """An address without what may be secret in it: user and password, and what follows a ``?``."""
    return _LOGIN.sub("", address) if "://" in address else address


def is_address(path: str) -> bool:
    """Whether a place that the configuration names is in a bucket, and no path of this machine."""
    scheme, colon, _ = path.partition("://")
    return bool(colon) and scheme.lower() not in _HERE


def _plain(path: str) -> tuple[str, bool]:
    """A path, or the address of a bucket without a slash at its end, and whether it is one."""
    if "://" not in path:
        return path, True
    scheme, _, place = path.partition("://")
    if scheme.lower() in _HERE:
        return place, True
    shown = without_login(path)
    if shown != path:
        raise ValueError(
            f"{shown!r} is given with a login, or with what follows a ? or #: leave that out of the"
            f" address; {CREDENTIALS}"
        )
    known = scheme.lower() in (*BUCKETS, *_ALSO)
    return path.rstrip("/"), known and bool(place.strip("/"))


def _input(path: str) -> str:
    place, known = _plain(path)
    if not known and not place.startswith(("https://", "http://")):
        raise ValueError(
            f"{path!r} is no file here, in a bucket (s3://, gs://, az://) or on a server (https://);"
            " fetch it and name the copy, or name a data set of the Hugging Face hub as"
            ' hub = "NAME"'
        )
    return place


def _folder_or_bucket(path: str) -> str:
    place, known = _plain(path)
    if not known:
        shown = without_login(path)
        raise ValueError(
            f"{shown!r} is no folder here and no bucket; name a folder, or a place in a bucket as"
            f" {', '.join(f'{one}://BUCKET/FOLDER' for one in BUCKETS)}"
        )
    return place


def _no_address(model: str) -> str:
    if "://" in model:
        name = "/".join(model.partition("://")[2].split("/")[1:3])
        raise ValueError(
            f"{without_login(model)!r} is an address; name a model folder here, or a model of the"
            f" Hugging Face hub by its name{name and f', as {name!r}'}"
        )
    return model


InputPath = Annotated[str, AfterValidator(_input)]
FolderPath = Annotated[str, AfterValidator(_folder_here)]
FolderOrBucket = Annotated[str, AfterValidator(_folder_or_bucket)]
ModelName = Annotated[str, AfterValidator(_no_address)]
