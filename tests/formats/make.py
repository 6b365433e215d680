"""Writes what the tests of old formats open: a folder of everything that this version keeps.

    python -m tests.formats.make tests/formats/2

For a new format only: a folder that exists is never written again (see README.md).
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline import stages
from pipeline.config import RunConfig
from pipeline.heads.activations import stored_activations
from pipeline.heads.model import Head
from pipeline.neurons import ablation, comparison
from pipeline.planning import exchange, planner, thresholds
from pipeline.planning.costs import MeasureOptions
from pipeline.runfolder import RunFolder, read_metrics
from pipeline.scoring.files import ScoreOptions, score_files
from store import ActivationStore, StoreSchema
from tests.builders.models import make_tiny_model
from tests.builders.runs import write_mood_csv
from tests.builders.store_processes import append_all, make_samples, write_one

PLACE = Path("/fixture")
"""Where it is made: files record it, and a path of this machine should not be in them."""

RUN_TOML = """
name = "mood"
run_dir = "run"
[backbone]
model = "./bert"
[store]
path = "activations"
samples_per_shard = 64
peaks = true
[[corpus]]
path = "texts.csv"
id = "id"
time = "created_at"
labels = { mood = "mood", level = "level" }
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
TWEETS = (
    b'{"id_str": "1", "created_at": "Fri Jan 01 10:00:00 +0000 2021", "lang": "en",'
    b' "text": "happy cat today"}\n'
    b'{"id_str": "2", "created_at": "Sat Jan 02 10:00:00 +0000 2021", "lang": "en",'
    b' "text": "sad angry dog"}\n'
    b'{"broken\n'
)


def make_store(root: Path) -> dict[str, Any]:
    """A store with every array, several snapshots, deletions and an append under way."""
    schema = StoreSchema(
        num_layers=2,
        neuron_size=6,
        hidden_size=3,
        samples_per_shard=16,
        fingerprint="f",
        provenance={"backbone": "none"},
        peaks=True,
    )
    store = ActivationStore.create(root, schema)
    for numbers in (range(20), range(20, 50)):
        samples = make_samples(numbers)
        samples = samples.append_column("author_id", pa.array([f"a{i % 3}" for i in numbers]))
        times = pa.array([1_700_000_000 + i for i in numbers], pa.int64())
        append_all(root, [samples.append_column("created_at", times)])
    store.refresh()
    labels = {"id": ["id1", "id2", "id30"], "split": ["train", "val", "test"]}
    store.put_labels("t", pa.table({**labels, "label": ["x", "y", "x"]}), spec={"classes": ["x"]})
    store.delete(["id2", "id40"])
    plan = store.plan_append(make_samples(range(50, 90)))
    write_one(store, plan, 1)  # not the first, so that nothing can be committed yet
    store.release()
    ids = store.samples()["id"].to_pylist()
    return {"ids": ids, "snapshot": store.snapshot_id, "labels": store.labels("t").to_pydict()}


def make_run(place: Path) -> dict[str, Any]:
    """A finished run with all that the commands add to it, and the scores of some texts."""
    make_tiny_model("bert", place)
    write_mood_csv(place / "texts.csv", num_rows=170)
    path = place / "run.toml"
    path.write_text(RUN_TOML, encoding="utf-8")
    config = RunConfig.load(path)
    stages.extract(config)
    write_mood_csv(place / "texts.csv")
    store = ActivationStore.open(config.store.path)
    store.delete([str(10**18 + i) for i in range(160, 170)])
    stages.run(config)
    options = comparison.RankOptions(replicates=3, shuffles=1)
    comparison.rank(config, options=options)
    ablation.ablate(config, options=ablation.AblationOptions(top=5, draws=2))
    few = MeasureOptions(num_texts=32, rounds=1, device="cpu")
    planned = planner.make_plan([path], measuring=few)
    planner.write_plan(planned)
    alone = planner.make_plan([path], tasks=["mood"], measuring=few)
    deepest = {rule: len(alone.options) - 1 for rule in alone.picks}
    alone = exchange.apply(replace(alone, picks=deepest))  # something to leave early from
    made, gained = thresholds.build(alone, loss=1.0, measuring=few)
    made.save(RunFolder(Path(config.run_dir)), gained)
    (place / "tweets.jsonl").write_bytes(TWEETS)
    inputs = [place / "texts.csv", place / "tweets.jsonl"]
    here = ScoreOptions(device="cpu")
    score_files(inputs, path, place / "scores", options=here, max_errors=0.5)
    kept: dict[str, Any] = {"max_errors": 0.5, "out_format": "delta"}
    score_files(inputs, path, place / "scores-delta", options=here, **kept)
    store.refresh()
    rows = store.labels("mood")["id"].to_pylist()[:5]
    table = ds.dataset(place / "scores", partitioning="hive").to_table().sort_by("id")
    return {
        "metrics": read_metrics(RunFolder(Path(config.run_dir))),
        "scores": table.select(["id", "mood", "mood_p_glad", "level"]).to_pylist()[:40],
        "num_scores": len(table),
        "ids": rows,
        "activations": store.read_matrix(layer=1, samples=store.positions(rows)).tolist(),
        "outputs": {
            f"{task.name}/{folder.name}": head_outputs(store, folder, store.positions(rows))
            for task in config.tasks
            for folder in sorted((Path(config.run_dir) / "heads" / task.name).iterdir())
        },
    }


def head_outputs(store: ActivationStore, folder: Path, positions: np.ndarray) -> list[list[float]]:
    """What a head gives for stored samples."""
    head = Head.load(folder)
    samples = store.samples()
    texts = samples["text"].take(np.searchsorted(samples["position"], positions))
    rows = stored_activations(head, store, positions, texts=texts.to_pylist)
    return np.asarray(head.outputs(rows)).tolist()


def main(target: Path) -> None:
    """Write the folder ``target``, which must not exist."""
    if target.exists():
        sys.exit(f"{target}: exists; what an old version wrote is never written again")
    PLACE.mkdir()
    try:
        expected = {"store": make_store(PLACE / "store"), "run": make_run(PLACE)}
        expected["modified_ns"] = {
            str(path.relative_to(PLACE)): path.stat().st_mtime_ns
            for path in sorted(PLACE.rglob("scores*/*/*.parquet"))
        }
        (PLACE / "expected.json").write_text(json.dumps(expected), encoding="utf-8")
        for lock in PLACE.rglob("*.lock"):
            lock.unlink()
        shutil.copytree(PLACE, target)
    finally:
        shutil.rmtree(PLACE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
