"""Texts with labels in memory, which even a random encoder can learn."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from tests.builders.runs import GLAD, SAD, topics_of


@dataclass(frozen=True)
class Moods:
    """Labelled texts: ``mood`` of two classes, ``level`` from 0 to 1, ``topics`` as label sets."""

    texts: list[str]
    mood: np.ndarray
    level: np.ndarray
    topics: list[list[str]]

    def part(self, start: int, stop: int) -> Moods:
        """Some of the rows."""
        rows = slice(start, stop)
        return Moods(self.texts[rows], self.mood[rows], self.level[rows], self.topics[rows])


def make_moods(count: int = 120, *, seed: int = 0) -> Moods:
    """Texts of glad and sad words."""
    draw = random.Random(seed)
    texts, glads, topics = [], [], []
    for number in range(count):
        glad = draw.randrange(6)
        words = [draw.choice(GLAD) for _ in range(glad)]
        words += [draw.choice(SAD) for _ in range(5 - glad)]
        draw.shuffle(words)
        texts.append(f"it was {' '.join(words)} {number}")
        glads.append(glad)
        topics.append(sorted(topics_of(words)))
    level = np.array(glads) / 5
    return Moods(texts, np.where(level >= 0.6, "glad", "sad"), level, topics)
