"""How far two ways to compute the same layers are apart, and what of that is rounding.

    relative(found, expected)                         # of one layer
    Comparison({Source("ffn", 3): 2e-7}, TOLERANCE[torch.float32]).trouble

A difference is relative to the layer's largest value, and undefined numbers differ without end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from store.layout import Source

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest difference that rounding may make, relative to the layer's largest value."""
NOTHING = 1e-20
"""A layer whose values are all below is one of zeros; differences are relative to this then."""


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value that is expected; never NaN.

    Args:
        found, expected: of one shape, any floating type, not empty.
    """
    return ratio(float((found - expected).abs().max()), float(expected.abs().max()))


def ratio(difference: float, scale: float) -> float:
    """A difference, relative to the largest value; infinite if it is NaN."""
    found = difference / max(scale, NOTHING)
    return found if found == found else float("inf")


@dataclass(frozen=True)
class Comparison:
    """How far two ways to compute the same layers are apart.

    Attributes:
        differences: source -> largest difference of any text, relative to its largest value.
        tolerance: up to where that is rounding.
        missing: what was to be compared, and could not be.
    """

    differences: Mapping[Source, float]
    tolerance: float
    missing: tuple[Source, ...] = ()

    @property
    def worst(self) -> Source:
        """The source that is furthest apart, if there is any."""
        return max(self.differences, key=lambda source: self.differences[source])

    @property
    def largest(self) -> float:
        """The difference there; 0 if nothing was compared."""
        return max(self.differences.values(), default=0.0)

    @property
    def agrees(self) -> bool:
        """Whether all differences are rounding; not where none of what was wanted was compared."""
        return bool(self.differences or not self.missing) and self.largest <= self.tolerance

    @property
    def left_out(self) -> str:
        """What is missing, in words; "" if nothing is."""
        layers: dict[str, list[str]] = {}
        for source in self.missing:
            layers.setdefault(source.site, []).append(str(source.layer))
        found = (f"{site} {', '.join(numbers)}" for site, numbers in layers.items())
        return f"not compared: {'; '.join(found)}" if layers else ""

    @property
    def trouble(self) -> str | None:
        """Where it is most, in words; None if all agrees."""
        if self.agrees:
            return None
        if not self.differences:
            return self.left_out
        beside = f"; {self.left_out}" if self.missing else ""
        name = f"FFN {self.worst.label}" if self.worst.site == "ffn" else self.worst.label
        return (
            f"{name} differs by {self.largest:.1e} of its largest value"
            f" (tolerance {self.tolerance:.0e}){beside}"
        )
