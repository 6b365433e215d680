"""Workers that share no folder score into a bucket."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("distributed", reason="needs the extra: salient-neurons[cluster]")

from pipeline.scoring.distributed import ScoreRecipe
from pipeline.scoring.files import score_files
from pipeline.scoring.held import scores_at
from tests.builders.buckets import bucket, bucket_server  # noqa: F401
from tests.builders.cluster_processes import ClusterProcesses, on_cluster
from tests.builders.runs import write_mood_csv


def test_heads_tables_and_scores_travel_in_messages(
    bucket: str,  # noqa: F811
    finished_run: Path,
    tmp_path: Path,
) -> None:
    write_mood_csv(tmp_path / "new.csv", num_rows=120, seed=5)
    cluster = ClusterProcesses(tmp_path / "cluster", 2)
    try:
        config = on_cluster(finished_run, cluster.address, score={"block_rows": 20})
        run = tmp_path / "run.json"
        run.write_text(json.dumps(config.model_dump(mode="json")))
        report = score_files([tmp_path / "new.csv"], run, bucket)
    finally:
        cluster.close()
    assert report.problem is None and report.scored == 120
    score_files([tmp_path / "new.csv"], finished_run, tmp_path / "scores")
    one, two = (
        pa.concat_tables(scores_at(place).tables(["id", "text_hash", "mood", "mood_p_sad"]))
        for place in (bucket, tmp_path / "scores")
    )
    one, two = one.sort_by("id"), two.sort_by("id")
    assert one.drop_columns("mood_p_sad").equals(two.drop_columns("mood_p_sad"))
    pair = (table["mood_p_sad"].to_numpy() for table in (one, two))
    np.testing.assert_allclose(*pair, atol=1e-5)


def test_a_recipe_with_heads_names_no_folder(finished_run: Path) -> None:
    folder = finished_run.parent / "run" / "heads"
    head = next(one.parent for one in finished_run.parent.rglob("head.json"))
    recipe = ScoreRecipe.of([head], model=None, device="cpu", trust_remote_code=False).with_heads()
    assert recipe.heads == () and str(folder) not in repr(recipe.heads)
    assert {name for name, _ in recipe.packed[0]} >= {"head.json"}
    assert recipe.load().tasks
