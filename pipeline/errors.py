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


def did_you_mean(wanted: str, choices: Iterable[str]) -> str:
    """``did you mean 'text'?`` with the closest of the choices; "" where none is close."""
    names = {name.lower(): name for name in choices}
    close = get_close_matches(wanted.lower(), names, n=1)
    return f"did you mean {names[close[0]]!r}?" if close else ""
