"""How tables and sentences write numbers: few digits, and intervals as ``0.710 [0.679, 0.738]``."""

from __future__ import annotations

import math

NONE = "—"
"""Where there is no number, or no interval of it."""
SHOUTED = {
    "f1": "F1",
    "auc": "AUC",
    "mae": "MAE",
    "rmse": "RMSE",
    "lrap": "LRAP",
    "r2": "R²",
    "pearson": "Pearson's r",
    "spearman": "Spearman's rho",
}
"""Words of metrics' names that are written otherwise."""


def three(value: float | None) -> str:
    """A score, to three digits after the point."""
    return NONE if value is None else f"{value:.3f}"


def two(value: float) -> str:
    """To two digits, such as ``0.72`` or ``0.015``; whole from 100."""
    return f"{value:.2g}" if abs(value) < 99.5 else f"{value:,.0f}"


def four(value: float) -> str:
    """To four digits, such as ``0.7245``, ``0.01464`` or ``231.4``."""
    return f"{value:#.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def span(low: float | None, high: float | None) -> str:
    """An interval, such as ``[0.648, 0.690]``; a dash where too few rows give none."""
    return NONE if low is None or high is None else f"[{low:.3f}, {high:.3f}]"


def with_span(value: float, low: float | None, high: float | None, *, signed: bool = False) -> str:
    """A value with its interval: ``0.710 [0.679, 0.738]``; a difference has its sign written."""
    return f"{value:{'+' if signed else ''}.3f} {span(low, high)}"


def plus_minus(value: float, error: float, *, signed: bool = True) -> str:
    """A value with its standard error, to the first digit of the error: ``+0.06 ± 0.02``."""
    size = float(f"{error:.0e}") or abs(value) / 100
    places = max(0, -math.floor(math.log10(size))) if size else 3
    return f"{value:{'+' if signed else ''}.{places}f} ± {error:.{places}f}"


def blocks_read(count: int, all_blocks: int) -> str:
    """``4 of 6 blocks``."""
    return f"{count} of {all_blocks} block{'s' * (all_blocks != 1)}"


def metric_words(name: str) -> str:
    """A metric's name as people read it: ``macro F1`` of ``macro_f1``."""
    words = name.split("_")
    return " ".join(SHOUTED.get(word, word) for word in words)
