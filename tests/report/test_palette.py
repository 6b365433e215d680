"""Colours that everybody tells apart, and text that can be read on every ground."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.report.palette import (
    BLACK,
    DARK,
    GREY,
    LIGHT,
    MATPLOTLIB_MARKS,
    STYLES,
    TEXT_ON,
    css,
    style_of,
)

VISIONS = {
    "all colours": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""Of linear RGB; Machado, Oliveira and Fernandes, IEEE TVCG 15(6), 2009, severity 1."""
TO_CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
TO_LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]
"""Oklab, as CSS Color 4 has it; two colours 0.02 apart there are just told apart."""
JUST_SEEN = 0.02


def linear(colour: str) -> NDArray[np.float64]:
    parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def seen(colour: str, vision: str) -> NDArray[np.float64]:
    found = np.clip(np.array(VISIONS[vision]) @ linear(colour), 0, 1)
    return np.array(TO_LAB) @ np.cbrt(np.array(TO_CONES) @ found)


def contrast(one: str, other: str) -> float:
    """WCAG 2's ratio of two colours."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("vision", VISIONS)
def test_lines_are_told_apart_by_every_kind_of_vision(vision: str) -> None:
    for one, other in combinations(STYLES, 2):
        apart = np.linalg.norm(seen(one.colour, vision) - seen(other.colour, vision))
        assert apart > 3.5 * JUST_SEEN, (one, other)


def test_no_two_lines_share_a_dash_or_a_mark() -> None:
    assert len({style.dash for style in STYLES}) == len(STYLES)
    assert {style.mark for style in STYLES} < set(MATPLOTLIB_MARKS)
    assert len(set(MATPLOTLIB_MARKS.values())) == len(MATPLOTLIB_MARKS)
    many = [style_of(number) for number in range(len(STYLES) ** 2)]
    assert len(set(many)) == len(many) and tuple(many[: len(STYLES)]) == STYLES


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_marks_have_the_contrast_that_wcag_asks(theme: dict[str, str]) -> None:
    for text, grounds in TEXT_ON.items():
        for ground in grounds:
            assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
    for mark in (GREY, theme["peak"]):
        assert contrast(mark, theme["card"]) >= 3
    assert LIGHT["ink"] == BLACK


def test_a_page_is_dark_where_its_reader_has_it_so() -> None:
    light, dark = css().split("@media (prefers-color-scheme: dark)")
    assert LIGHT["ink"] in light and DARK["ink"] in dark
    assert "--bk-grid-line-color: var(--line)" in light
