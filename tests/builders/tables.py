"""Made-up labelled rows, and files of them."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WORDS = ["tea", "rain", "bus", "desk", "moon", "fish", "lamp", "song", "wool", "gate"]


def made_rows(count: int = 60, *, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with an id, a text unlike the others, a mood (0, 1, 2) and a force in [0, 1]."""
    rng = random.Random(seed)
    return [
        {
            "id": str(1000 + i),
            "text": f"{rng.choice(WORDS)} {rng.choice(WORDS)} number {i}",
            "mood": i % 3,
            "force": round(rng.random(), 3),
        }
        for i in range(count)
    ]


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
