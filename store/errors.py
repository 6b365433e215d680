"""Errors that a user can act on: one line that names the thing, the value and the remedy."""

import json
from importlib import metadata
from urllib.request import url2pathname

DISTRIBUTION = "salient-neurons"
"""What `pip` knows this program as; the command and the module are called ``salient``."""


def _for_pip(extra: str) -> str:
    """What `pip install` is given for an extra: of a checkout its folder."""
    for one in metadata.distributions(name=DISTRIBUTION):  # a checkout has two, one without origin
        origin = json.loads(one.read_text("direct_url.json") or "{}")  # PEP 610
        if origin.get("dir_info", {}).get("editable"):
            return f"-e '{url2pathname(origin['url'].removeprefix('file://'))}[{extra}]'"
    return f"'{DISTRIBUTION}[{extra}]'"


class SalientError(Exception):
    """Root of every error that Salient raises for a user's mistake or a damaged input."""


class StoreError(SalientError):
    """The activation store cannot do what was asked; the message says why and what to do."""


class DamagedShardError(StoreError):
    """Stored bytes are missing, cut short or differ from their checksums."""


class ChangedTextError(StoreError):
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
