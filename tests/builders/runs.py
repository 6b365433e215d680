"""A small labelled set that even a random encoder can learn, and a run on it."""

from __future__ import annotations

import csv
import random
from pathlib import Path

GLAD = ("happy", "cat", "mat", "today")
SAD = ("sad", "angry", "dog", "log")


def write_mood_csv(path: Path, *, num_rows: int = 160, seed: int = 0) -> None:
    """A small labelled set that even a random encoder can learn: glad or sad words."""
    draw = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "created_at", "mood", "level"])
        for i in range(num_rows):
            glad = draw.randrange(6)
            words = [draw.choice(GLAD) for _ in range(glad)]
            words += [draw.choice(SAD) for _ in range(5 - glad)]
            draw.shuffle(words)
            mood = "" if i % 29 == 7 else "glad" if glad >= 3 else "sad"
            time = f"2024-05-{1 + i % 3:02d}T12:00:00Z"
            writer.writerow(
                [str(10**18 + i), f"it was {' '.join(words)} {i}", time, mood, glad / 5]
            )


RUN_TOML = """
name = "mood"
run_dir = "run"
[backbone]
model = "{model}"
[store]
path = "activations"
samples_per_shard = 64
[[corpus]]
path = "tweets.csv"
id = "id"
time = "created_at"
labels = {{ mood = "mood", level = "level" }}
[[tasks]]
name = "mood"
type = "classification"
[[tasks]]
name = "level"
type = "regression"
[probe]
C = [1e-2, 1e-1]
alpha = [10.0, 100.0]
[head]
folds = 3
hidden_width = 4
"""


def write_mood_run(folder: Path, model: Path | str, *, num_rows: int = 160) -> Path:
    """A folder with a small labelled set and a configuration; returns the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    write_mood_csv(folder / "tweets.csv", num_rows=num_rows)
    config = folder / "run.toml"
    config.write_text(RUN_TOML.format(model=model), encoding="utf-8")
    return config
