"""Writes what the tests of old formats in buckets open: each object as a file of its key.

    python -m tests.formats.make_bucket tests/formats/bucket-2

For a new format only: a folder that exists is never written again (see README.md).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import pyarrow as pa

from pipeline.scoring import delete_scores, scores_at
from store import ActivationStore, StoreSchema
from store.disk import ObjectLocation
from tests.builders.dumps import v1, write_tweets
from tests.builders.scoring import run_without_model
from tests.builders.store_processes import append_all, make_samples, write_one

PLACE = "memory://formats/made"
NUM_TWEETS = 24
COLUMNS = ["id", "text_hash", "source_file"]


def make_store(address: str) -> dict[str, object]:
    """A store with labels, a deletion and an append under way; what must be read of it."""
    schema = StoreSchema(num_layers=2, neuron_size=3, hidden_size=2, samples_per_shard=16)
    store = ActivationStore.create(address, schema)
    append_all(address, [make_samples(range(20), repeats=2), make_samples(range(20, 40))])
    store.refresh()
    ids = [f"id{number}" for number in range(40)]
    labels = ["glad", "sad"]
    table = pa.table(
        {"id": ids, "split": ["train"] * 40, "label": [labels[i % 2] for i in range(40)]}
    )
    store.put_labels("mood", table, spec={"kind": "classification"})
    store.delete(["id3", "id30"])
    plan = store.plan_append(make_samples(range(40, 70)))
    write_one(store, plan, 0)
    store.release()
    living, labels = store.samples(), store.labels("mood")
    pairs = zip(labels["id"].to_pylist(), labels["label"].to_pylist(), strict=True)
    return {
        "snapshot": store.snapshot_id,
        "ids": living["id"].to_pylist(),
        "texts": living["text"].to_pylist(),
        "layer_1": store.read_matrix(layer=1, samples=store.positions(living["id"])).tolist(),
        "labels": dict(pairs),
    }


def make_scores(address: str, dumps: Path) -> dict[str, object]:
    """Scores of two dumps, of which one tweet is deleted; the rows that must be there."""
    days = [f"Fri Jan {1 + i % 2:02d} 07:29:00 +0000 2021" for i in range(NUM_TWEETS)]
    tweets = [v1(i, created_at=day, id=i, id_str=str(i)) for i, day in enumerate(days)]
    paths = [write_tweets(dumps / "a", tweets[:16]), write_tweets(dumps / "b", tweets[12:])]
    paths[1].write_bytes(paths[1].read_bytes() + b'{"broken": 1\n')
    run_without_model(paths, address)
    delete_scores(address, ["5"])
    rows = pa.concat_tables(scores_at(address).tables(COLUMNS)).sort_by("id")
    return {"rows": rows.to_pylist()}


def main(target: Path) -> None:
    """Make a folder that is not there yet."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SALIENT_CACHE"] = cache
        (target / "dumps").mkdir(parents=True)
        expected = {
            "store": make_store(f"{PLACE}/activations"),
            "scores": make_scores(f"{PLACE}/scores", target / "dumps"),
        }
    place = ObjectLocation(PLACE)
    for found in place.list():
        if found.path.endswith("/lease.json"):  # names the machine
            continue
        path = target / "objects" / found.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(place.read(found.path))
    text = json.dumps(expected, indent=1) + "\n"
    (target / "expected.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
