"""Writes ``runs/real/sentiment-data`` in the TweetEval layout, for ``sentiment.toml``.

The training texts lie in ``train.jsonl.gz`` with numeric labels, the others in TweetEval's files.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT.parent / "shared/data/tweeteval/sentiment"
TARGET = ROOT / "runs/real/sentiment-data"


def main() -> None:
    """Copy validation and test files and split the training rows into texts and labels."""
    TARGET.mkdir(parents=True, exist_ok=True)
    for path in SOURCE.glob("*.txt"):
        shutil.copyfile(path, TARGET / path.name)
    with gzip.open(SOURCE / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    texts = "".join(" ".join(row["text"].split()) + "\n" for row in rows)
    (TARGET / "train_text.txt").write_text(texts, encoding="utf-8")
    labels = "".join(f"{row['label']}\n" for row in rows)
    (TARGET / "train_labels.txt").write_text(labels, encoding="utf-8")


if __name__ == "__main__":
    main()
