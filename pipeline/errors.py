"""Errors that a user can cause and mend; one line each: the thing, the value, the remedy."""

from collections.abc import Iterable
from difflib import get_close_matches

from store.errors import SalientError


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


COPY_AGAIN = "copy the head again, or run `salient consolidate` again"
"""What to do about a damaged file of a head's folder."""


def again(stage: str) -> str:
    """What to do about a damaged file of a run that a stage writes."""
    return f"delete it and run `salient {stage}` again"


def did_you_mean(wanted: str, choices: Iterable[str]) -> str:
    """``did you mean 'text'?`` with the closest of the choices; "" where none is close."""
    names = {name.lower(): name for name in choices}
    close = get_close_matches(wanted.lower(), names, n=1)
    return f"did you mean {names[close[0]]!r}?" if close else ""


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
