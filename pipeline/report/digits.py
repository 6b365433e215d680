"""How tables and sentences write numbers: few digits, no zero before the point."""

from __future__ import annotations

import math
import re


def trimmed(text: str) -> str:
    """The number without the zero before its point: ``0.5`` is ``.5``, ``-0.5`` is ``-.5``."""
    return re.sub(r"(?<!\d)0\.(?=\d)", ".", text)


def four(value: float) -> str:
    """To four digits, such as ``.7245``, ``.01464`` or ``231.4``."""
    return trimmed(f"{value:#.4g}" if abs(value) < 1000 else f"{value:,.0f}")


def span(low: float, high: float) -> str:
    """An interval to three digits after the point, such as ``.648-.690``."""
    return ("-" if low >= 0 else " to ").join(trimmed(f"{end:.3f}") for end in (low, high))


def with_span(value: float, low: float, high: float, *, signed: bool = False) -> str:
    """A value with its interval: ``.710 (.679-.738)``; a difference has its sign written."""
    return f"{trimmed(f'{value:+.3f}' if signed else f'{value:.3f}')} ({span(low, high)})"


def plus_minus(value: float, error: float, *, signed: bool = True) -> str:
    """A value with its standard error, to the first digit of the error: ``+.06 ± .02``."""
    size = float(f"{error:.0e}") or abs(value) / 100
    places = max(0, -math.floor(math.log10(size))) if size else 3
    sign = "+" if signed else ""
    return f"{trimmed(f'{value:{sign}.{places}f}')} ± {trimmed(f'{error:.{places}f}')}"
