"""A small labelled set that even a random encoder can learn, and a run on it."""

from __future__ import annotations

import csv
import json
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


SCRIPT = "<script>document.title = 'broken'</script>"
"""A text and the name of a class that would run in a page that does not escape them."""


def write_scripted_run(folder: Path, model: Path | str) -> Path:
    """A run whose first text and one of whose classes hold ``SCRIPT``; returns its file."""
    config = write_mood_run(folder, model)
    config.write_text(config.read_text() + 'eta = [0.25]\nkinds = ["sparse", "dense"]\n')
    file = folder / "tweets.csv"
    header, *rows = file.read_text().replace(",sad,", f",{SCRIPT},").splitlines()
    first = rows[0].split(",")
    first[1] = f"{SCRIPT} happy {SCRIPT}"
    file.write_text("\n".join([header, ",".join(first), *rows[1:]]) + "\n")
    return config


TOPICS = ("glad", "sad", "animal", "beast", "never")
"""``beast`` is always what ``animal`` is, and no text is about ``never``."""
TOPICS_TOML = RUN_TOML.replace(
    'labels = {{ mood = "mood", level = "level" }}',
    'labels = {{ topics = ["glad", "sad", "animal", "beast", "never"], tags = "tags" }}',
)
TOPICS_TOML = (
    TOPICS_TOML[: TOPICS_TOML.index("[[tasks]]")]
    + """[[tasks]]
name = "topics"
type = "multilabel"
[[tasks]]
name = "tags"
type = "multilabel"
metric = "lrap"
"""
    + TOPICS_TOML[TOPICS_TOML.index("[probe]") :]
)


def topics_of(words: list[str]) -> set[str]:
    """The labels of some words; a few texts have none."""
    found = {name for name, some in (("glad", GLAD[:1]), ("sad", SAD[:2])) if {*words} & {*some}}
    return found | ({"animal", "beast"} if {*words} & {"cat", "dog"} else set())


def write_topics_run(folder: Path, model: Path | str, *, num_rows: int = 240) -> Path:
    """Label sets in two forms, columns of 0 and 1 and a list; returns the configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    with (folder / "tweets.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "created_at", *TOPICS, "tags"])
        for i in range(num_rows):
            words = [draw.choice(GLAD + SAD) for _ in range(draw.randrange(1, 4))]
            found = topics_of(words)
            flags: list[str] = [str(int(name in found)) for name in TOPICS]
            tags = "" if i % 31 == 5 else json.dumps(sorted(found))
            text = f"it was {' '.join(words)} {i}"
            writer.writerow([str(10**18 + i), text, "2024-05-01T12:00:00Z", *flags, tags])
    config = folder / "run.toml"
    config.write_text(TOPICS_TOML.format(model=model), encoding="utf-8")
    return config
